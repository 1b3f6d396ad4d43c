// LabelMe: a JSON file beside each image, with polygons, or with masks as small PNGs that lose nothing.

import { cutOut } from "../shared/rle.js";
import { photoPaths, stem } from "./names.js";
import { className, middleOf, nested, provenance } from "./parts.js";
import { grayPng } from "./png.js";
import { polygonsOf } from "./polygons.js";

const VERSION = "5.5.0"; // the first that reads what is written here, masks too

/** The data set as files. `as` is "polygons" (pieces of one object share a `group_id`) or "masks". */
export async function toLabelme({ images, classes }, { as = "polygons", tolerance = 0, images: copied = false } = {}, progress = () => {}) {
  const files = {};
  const paths = photoPaths(images, copied, stem);
  for (const [i, { width, height, objects, file }] of images.entries()) {
    const shapes = [];
    for (const [n, object] of objects.entries()) {
      const { name = "", ...made } = provenance(object);
      const common = { label: className(classes, object), group_id: null, description: name, flags: {}, ...made, ...nested(object) };
      const plain = plainShape(object);
      if (plain) shapes.push({ ...common, mask: null, ...plain });
      else if (as === "masks") shapes.push({ ...common, shape_type: "mask", ...(await maskShape(object.rle)) });
      else shapes.push(...polygonShapes(object.rle, tolerance, { ...common, shape_type: "polygon", mask: null }, n + 1));
    }
    const image = { imagePath: paths[i].split("/").at(-1), imageData: null, imageHeight: height, imageWidth: width };
    files[`${stem(paths[i])}.json`] = `${JSON.stringify({ version: VERSION, flags: {}, shapes, ...image }, null, 1)}\n`;
    if (copied) files[paths[i]] = file;
    progress(i + 1, images.length);
  }
  return files;
}

/** A box or a point that no model made, as a shape of its own. */
function plainShape({ kind, box, points }) {
  if (kind === "box") return { shape_type: "rectangle", points: [box.slice(0, 2), box.slice(2)] };
  return kind === "point" ? { shape_type: "point", points: [middleOf(points[0])] } : null;
}

function polygonShapes(rle, tolerance, common, group) {
  const found = polygonsOf(rle, { tolerance });
  return found.map((ring) => ({ ...common, group_id: found.length > 1 ? group : null, points: pairs(ring) }));
}

/** A mask in its box, whose corners are both pixels of it. */
async function maskShape(rle) {
  const { x, y, width, height, pixels } = cutOut(rle);
  const png = await grayPng(pixels.map((on) => on * 255), width, height);
  return { points: [[x, y], [x + width - 1, y + height - 1]], mask: base64(png) };
}

function base64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** The corners of a ring, `[[x, y], …]`. */
export function pairs(ring) {
  return Array.from({ length: ring.length / 2 }, (_, i) => [ring[2 * i], ring[2 * i + 1]]);
}
