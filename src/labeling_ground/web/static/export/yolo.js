// YOLO segmentation: one text file an image, one piece of an object a line: class, then corners as shares of width and height.

import { area2, inset, keyhole, pieces, simplified, trace } from "../shared/outline.js";
import { yoloPaths } from "./names.js";

const MOST_CORNERS = 1000; // trainers bring each polygon to as many
const INSET = 0.25; // pixels
const DEFAULTS = { pieces: "all", tolerance: 0, images: true };

/**
 * The data set as files, `{path: text or Blob}`. `pieces` is "all" (each a line of its own) or "largest"; `tolerance` is how
 * many pixels a polygon may leave its outline by; `images` puts the images beside the labels.
 */
export function toYolo({ images, classes }, options = {}, progress = () => {}) {
  const { pieces: which, tolerance, images: copied } = { ...DEFAULTS, ...options };
  const names = classes.map((one, i) => `  ${i}: ${JSON.stringify(one.name)}`);
  // Without `path` the folder of data.yaml counts, wherever the trainer is started.
  const files = { "data.yaml": `train: train.txt\nval: train.txt\nnames:\n${names.join("\n")}\n` };
  const paths = yoloPaths(images, copied);
  files["train.txt"] = paths.map(({ image }) => `./${image}\n`).join("");
  images.forEach((image, i) => {
    files[paths[i].label] = image.objects.flatMap((object) => lines(object, image, { classes, which, tolerance })).join("");
    if (copied) files[paths[i].image] = image.file;
    progress(i + 1, images.length);
  });
  const renamed = images.flatMap(({ name }, i) => (`images/${name}` === paths[i].image ? [] : [[name, paths[i].image]]));
  if (!copied && renamed.length) files["renamed.json"] = `${JSON.stringify(Object.fromEntries(renamed), null, 1)}\n`;
  return files;
}

function lines(object, image, { classes, which, tolerance }) {
  const number = classes.findIndex((one) => one.id === object.classId);
  const found = pieces(trace(object.rle));
  return (which === "largest" ? found.slice(0, 1) : found).map((piece) => {
    const corners = polygon(piece, tolerance).map((value, i) => share(value / (i % 2 ? image.height : image.width)));
    return `${number} ${corners.join(" ")}\n`;
  });
}

/** A piece as one polygon of few enough corners: those of a rugged one are thinned out until they are. */
function polygon(piece, tolerance) {
  const rings = piece.map((ring) => inset(ring, INSET));
  for (let within = tolerance; ; within = Math.max(0.5, 2 * within)) {
    const [outer, ...holes] = rings.map((ring) => simplified(ring, within));
    const ring = keyhole([outer, ...holes.filter((hole) => -area2(hole) > 2 * within ** 2)]);
    if (ring.length <= 2 * MOST_CORNERS) return ring;
  }
}

// Seven digits: a hundredth of a pixel even in the largest image.
function share(value) {
  return String(Math.round(value * 1e7) / 1e7);
}
