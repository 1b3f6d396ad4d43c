// What the readers share: masks as objects, and names of files.

import { boxed } from "../shared/shapes.js";
import { areaOf, rleOf, spansOf } from "../shared/spans.js";

/** An object of a class's name with a mask, given as a COCO RLE or as spans. */
export function objectOf(className, { rle, spans, size }, more = {}) {
  const found = rle ?? rleOf(spans, size);
  return { class: className, rle: found, area: areaOf(spans ?? spansOf(found)), name: "", ...more };
}

/** A box as a label that no model made: `[x0, y0, x1, y1]` in pixels, which is cut to whole ones. */
export function boxLabel(className, [x0, y0, x1, y1], [height, width], more = {}) {
  const box = [x0, y0, x1, y1].map((value, i) => Math.min(i % 2 ? height : width, Math.max(0, Math.round(value))));
  return objectOf(className, { spans: boxed(box, [height, width]), size: [height, width] }, { kind: "box", byHand: true, box, points: [], ...more });
}

/** A row-major picture's masks by value, `Map(value → RLE)`, 0 left out. */
export function masksByValue({ values, width, height }) {
  const found = new Map();
  let last = 0;
  for (let x = 0, at = 0; x < width; x++) {
    for (let y = 0; y < height; y++, at++) {
      const value = values[y * width + x];
      if (value === last) continue;
      if (last) found.get(last).push(at);
      if (value && !found.has(value)) found.set(value, []);
      if (value) found.get(value).push(at);
      last = value;
    }
  }
  if (last) found.get(last).push(width * height);
  return new Map([...found].map(([value, spans]) => [value, rleOf(spans, [height, width])]));
}

/** An object's name, its model and its attributes from a flat record of them all. */
export function madeFlat({ name, model, model_version, by_hand, ...attributes } = {}) {
  return made({ name, model, model_version, by_hand, attributes });
}

/** The same from what other exports note of them, the attributes apart. */
export function made({ name, model, model_version: version, by_hand: byHand, attributes = {} } = {}) {
  return {
    ...(Object.keys(attributes).length && { attributes }), ...(name && { name }), ...(model && { model }), ...(version && { version }), ...(byHand && { byHand: true }) };
}

export function baseOf(path) {
  return path.split("/").at(-1);
}

export function stemOf(path) {
  return path.replace(/\.[^./]*$/, "");
}

export const isPhoto = (path) => /\.(jpe?g|png|webp|bmp|tiff?|gif|avif|hei[cf])$/i.test(path);

export async function jsonOf(file) {
  try {
    return JSON.parse(await (await file.read()).text());
  } catch (error) {
    throw new Error(`${file.path}: ${error.message}`);
  }
}

/** Whether a file is one of labels, by its path: archives, JSON, and the text files of YOLO. */
export const isLabels = (path) => /\.(zip|json)$/i.test(path) || /(^|\/)(data\.ya?ml|labels\/.*\.txt)$/.test(path);

/** Pictures in these folders are masks. */
export const isMask = (path) => /(^|\/)(masks|SegmentationClass|SegmentationObject|panoptic[^/]*)\/.*\.png$/i.test(path);
