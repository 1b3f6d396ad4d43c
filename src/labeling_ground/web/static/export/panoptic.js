// COCO panoptic: a PNG for each image whose colours are the numbers of the segments, and a file that says what each is.

import { head } from "./coco.js";
import { layered, seen } from "./layers.js";
import { photoPaths, stem } from "./names.js";
import { byPart, classNumber, attributesOf } from "./parts.js";
import { rgbPng } from "./png.js";

/** The data set as files. A pixel is of one segment: of objects that overlap, the later one has it. */
export async function toPanoptic({ images, classes }, { images: copied = false } = {}, progress = () => {}) {
  const key = (path) => stem(path);
  const paths = photoPaths(images, copied, key);
  const files = {};
  images.forEach((image, i) => copied && (files[`images/${paths[i]}`] = image.file));
  const annotations = new Map();
  for (const [i, image] of images.entries()) {
    const picture = layered(image, (_, n) => n + 1, Uint32Array);
    const where = seen(picture, image.width);
    const segments = image.objects.flatMap((object, n) => {
      const one = where.get(n + 1);
      const more = attributesOf(object);
      return one ? [{ id: n + 1, category_id: classNumber(classes, object) + 1, ...one, iscrowd: 0, ...(Object.keys(more).length && { attributes: more }) }] : [];
    });
    annotations.set(image, { path: paths[i], png: `${stem(paths[i])}.png`, segments, pixels: await rgbPng(coloured(picture), image.width, image.height) });
    progress(i + 1, images.length);
  }
  const categories = classes.map(({ name, colour }, i) => ({ id: i + 1, name, supercategory: "", isthing: 1, color: rgbOf(colour) }));
  for (const [part, some] of byPart(images)) {
    const folder = part ? `panoptic_${part}` : "panoptic";
    const found = some.map((image) => annotations.get(image));
    for (const { png, pixels } of found) files[`annotations/${folder}/${png}`] = pixels;
    files[`annotations/${folder}.json`] = JSON.stringify({
      ...head(some.map((image, i) => ({ ...image, path: found[i].path }))),
      categories,
      annotations: found.map(({ png, segments }, i) => ({ image_id: i + 1, file_name: png, segments_info: segments })),
    });
  }
  return files;
}

/** Numbers as red + 256 green + 65536 blue. */
function coloured(picture) {
  const pixels = new Uint8Array(3 * picture.length);
  picture.forEach((value, at) => pixels.set([value & 255, (value >> 8) & 255, (value >> 16) & 255], 3 * at));
  return pixels;
}

function rgbOf(colour = "#888888") {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}
