// PNG masks: one for each object, 255 on it and 0 off it, and a list that says which is what.

import { toPixels } from "../shared/rle.js";
import { fileNames } from "./names.js";
import { grayPng } from "./png.js";

/** The data set as files, `{path: text or Uint8Array}`. */
export async function toMasks({ images, classes }, progress = () => {}) {
  const files = {}, list = [];
  const names = fileNames(images);
  for (const [i, image] of images.entries()) {
    for (const [n, object] of image.objects.entries()) {
      const path = `masks/${names[i]}/${String(n + 1).padStart(3, "0")}.png`;
      const pixels = toPixels(object.rle).map((on) => on * 255);
      files[path] = await grayPng(pixels, image.width, image.height);
      const label = classes.find((one) => one.id === object.classId)?.name ?? "";
      list.push({ file: path, image: image.name, class: label, name: object.name || null });
    }
    progress(i + 1, images.length);
  }
  files["masks.json"] = `${JSON.stringify(list, null, 1)}\n`;
  return files;
}
