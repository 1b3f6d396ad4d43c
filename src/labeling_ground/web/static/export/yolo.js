// YOLO: one text file an image; a line is a class and the corners of a piece, or the box of an object, as shares of width and height.

import { cutOut } from "../shared/rle.js";
import { yoloPaths } from "./names.js";
import { byPart, classNumber } from "./parts.js";
import { polygonsOf } from "./polygons.js";

const MOST_CORNERS = 1000; // trainers bring each polygon to as many
const INSET = 0.25; // pixels
const DEFAULTS = { as: "segments", pieces: "all", tolerance: 0, images: true };

/**
 * The data set as files, `{path: text or Blob}`. `as` is "segments" or "boxes"; `pieces` is "all" (each a line of its own) or
 * "largest"; `tolerance` is how many pixels a polygon may leave its outline by; `images` puts the images beside the labels.
 */
export function toYolo({ images, classes }, options = {}, progress = () => {}) {
  const { as, pieces, tolerance, images: copied } = { ...DEFAULTS, ...options };
  const paths = new Map(yoloPaths(images, copied).map((path, i) => [images[i], path]));
  const parts = byPart(images).map(([part, some]) => [part || "train", some]);
  const names = classes.map((one, i) => `  ${i}: ${JSON.stringify(one.name)}`);
  // Without `path` the folder of data.yaml counts, wherever the trainer is started.
  const files = { "data.yaml": `train: train.txt\nval: ${parts.at(-1)[0]}.txt\nnames:\n${names.join("\n")}\n` };
  for (const [part, some] of parts) files[`${part}.txt`] = some.map((image) => `./${paths.get(image).image}\n`).join("");
  images.forEach((image, i) => {
    const row = (object) => (as === "boxes" ? [box(object, image)] : segments(object, image, { which: pieces, tolerance }));
    const lines = image.objects.flatMap((object) => row(object).map((shares) => `${classNumber(classes, object)} ${shares.join(" ")}\n`));
    files[paths.get(image).label] = lines.join("");
    if (copied) files[paths.get(image).image] = image.file;
    progress(i + 1, images.length);
  });
  const renamed = images.flatMap((image) => (`images/${image.name}` === paths.get(image).image ? [] : [[image.name, paths.get(image).image]]));
  if (!copied && renamed.length) files["renamed.json"] = `${JSON.stringify(Object.fromEntries(renamed), null, 1)}\n`;
  return files;
}

/** The box's middle, width and height. */
function box({ rle }, image) {
  const { x, y, width, height } = cutOut(rle);
  return [share((x + width / 2) / image.width), share((y + height / 2) / image.height), share(width / image.width), share(height / image.height)];
}

function segments({ rle }, image, how) {
  const found = polygonsOf(rle, { ...how, by: INSET, most: MOST_CORNERS });
  return found.map((ring) => ring.map((value, i) => share(value / (i % 2 ? image.height : image.width))));
}

// Seven digits: a hundredth of a pixel even in the largest image.
function share(value) {
  return String(Math.round(value * 1e7) / 1e7);
}
