// COCO, instances and panoptic.

import { encodeCounts } from "../shared/rle.js";
import { filled } from "../shared/shapes.js";
import { united } from "../shared/spans.js";
import { baseOf, boxLabel, madeFlat, masksByValue, objectOf } from "./parts.js";
import { decodedPng } from "./png.js";
import { t } from "../shared/words.js";

export const isCoco = (data) => Array.isArray(data?.images) && Array.isArray(data.annotations) && Array.isArray(data.categories);

/** The images of a COCO file with their objects; `files` has the PNGs of a panoptic one. */
export async function fromCoco(data, files) {
  const classes = new Map(data.categories.map(({ id, name }) => [id, name]));
  const images = new Map(data.images.map(({ id, file_name: name, width, height }) => [id, { names: [name], width, height, objects: [], unread: 0 }]));
  for (const annotation of data.annotations) {
    const image = images.get(annotation.image_id);
    if (!image) continue;
    if (annotation.segments_info) image.objects.push(...(await segments(annotation, classes, files)));
    else {
      const size = [image.height, image.width], name = classes.get(annotation.category_id) ?? "?";
      const mask = maskOf(annotation, size);
      const { bbox } = annotation;
      if (mask) image.objects.push(objectOf(name, mask, madeFlat(annotation.attributes)));
      else if (bbox) image.objects.push(boxLabel(name, [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]], size, madeFlat(annotation.attributes)));
      else image.unread++;
    }
  }
  return { classes: data.categories.map(({ name }) => ({ name })), images: [...images.values()] };
}

/** Runs as they are; polygons by the pixels whose middle is inside, all of an object together; or `null`. */
function maskOf({ segmentation }, size) {
  if (Array.isArray(segmentation) && segmentation.length) {
    return { spans: segmentation.map((ring) => filled([ring], size)).reduce(united), size };
  }
  if (segmentation?.counts) {
    const { counts, size: own } = segmentation;
    return { rle: { size: own, counts: typeof counts === "string" ? counts : encodeCounts(counts) } };
  }
  return null;
}

async function segments({ file_name: name, segments_info: infos }, classes, files) {
  const file = files.find(({ path }) => path === name || path.endsWith(`/${name}`)) ?? files.find(({ path }) => baseOf(path) === baseOf(name));
  if (!file) throw new Error(t("segmentsMissing", { name }));
  const masks = masksByValue(await decodedPng(await file.read()));
  return infos.filter(({ id }) => masks.has(id)).map((one) => objectOf(classes.get(one.category_id) ?? "?", { rle: masks.get(one.id) }, madeFlat(one.attributes)));
}
