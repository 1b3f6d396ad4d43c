// PNG masks: with our list, or one picture for each image whose values are classes.

import { baseOf, jsonOf, made, masksByValue, objectOf, stemOf } from "./parts.js";
import { decodedPng } from "./png.js";
import { t } from "../shared/words.js";

const VOID = 255; // in a palette picture: of no class

const listOf = (files) => files.find(({ path }) => baseOf(path) === "masks.json");

export const isMasks = (files) => listOf(files) !== undefined;

/** The images of a list `masks.json`: of objects each with a PNG, or of pictures whose values are the classes' numbers. */
export async function fromMasks(files) {
  const list = listOf(files);
  const folder = list.path.slice(0, -"masks.json".length);
  const data = await jsonOf(list);
  const images = new Map(), names = new Set(Object.values(data.classes ?? {}));
  for (const one of Array.isArray(data) ? data : data.masks) {
    const file = files.find(({ path }) => path === folder + one.file);
    if (!file) throw new Error(t("maskMissing", { file: one.file }));
    const picture = await decodedPng(await file.read());
    const image = images.get(one.image) ?? { names: [one.image], width: picture.width, height: picture.height, objects: [], unread: 0 };
    images.set(one.image, image);
    const masks = masksByValue(data.classes ? picture : { ...picture, values: picture.values.map((value) => (value ? 1 : 0)) });
    for (const [value, rle] of masks) image.objects.push(objectOf(data.classes?.[value] ?? one.class ?? `class ${value}`, { rle }, made(one)));
    if (one.class) names.add(one.class);
  }
  return { classes: [...names].map((name) => ({ name })), images: [...images.values()] };
}

/** Pictures called like their images, `.png`: each value but 0 is a class; where 0 and 255 are all, 255 is one too. */
export async function fromPictures(files) {
  const images = [], names = new Set();
  for (const file of files) {
    const picture = await decodedPng(await file.read());
    const masks = masksByValue(picture);
    if (picture.isIndexed || masks.size > 1) masks.delete(VOID);
    const objects = [...masks].map(([value, rle]) => objectOf(`class ${value}`, { rle }));
    for (const object of objects) names.add(object.class);
    images.push({ names: [stemOf(file.path)], byStem: true, width: picture.width, height: picture.height, objects, unread: 0 });
  }
  return { classes: [...names].map((name) => ({ name })), images };
}
