// PNG masks: one for each object, 255 on it and 0 off it, or one for each image, whose palette says the class; and a list of them.

import { toPixels } from "../shared/rle.js";
import { layered } from "./layers.js";
import { fileNames, photoEnding } from "./names.js";
import { className, classNumber, nested, provenance } from "./parts.js";
import { grayPng, palettePng } from "./png.js";
import { t } from "../shared/words.js";

const MOST = 255; // classes, beside the background

/** The data set as files. `as` is "objects" or "classes". */
export async function toMasks({ images, classes }, { as = "objects", images: copied = false } = {}, progress = () => {}) {
  const files = {}, list = [];
  const names = fileNames(images);
  if (as === "classes" && classes.length > MOST) throw new Error(t("paletteFull", { most: MOST, n: classes.length }));
  const palette = [[0, 0, 0], ...classes.map(({ colour = "#888888" }) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)))];
  for (const [i, image] of images.entries()) {
    const { width, height } = image;
    if (as === "classes") {
      const path = `masks/${names[i]}.png`;
      files[path] = await palettePng(layered(image, (one) => classNumber(classes, one) + 1), width, height, palette);
      list.push({ file: path, image: image.name });
    } else {
      for (const [n, object] of image.objects.entries()) {
        const path = `masks/${names[i]}/${String(n + 1).padStart(3, "0")}.png`;
        files[path] = await grayPng(toPixels(object.rle).map((on) => on * 255), width, height);
        list.push({ file: path, image: image.name, class: className(classes, object), name: object.name || null, ...provenance(object), ...nested(object) });
      }
    }
    if (copied) files[`images/${names[i]}${photoEnding(image, copied)}`] = image.file;
    progress(i + 1, images.length);
  }
  const values = as === "classes" ? { classes: Object.fromEntries(classes.map(({ name }, i) => [i + 1, name])), masks: list } : list;
  files["masks.json"] = `${JSON.stringify(values, null, 1)}\n`;
  return files;
}
