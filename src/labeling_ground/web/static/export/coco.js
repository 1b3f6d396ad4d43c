// COCO instances: https://cocodataset.org/#format-data

import { cutOut } from "../shared/rle.js";
import { photoPaths } from "./names.js";
import { byPart, classNumber, attributesOf } from "./parts.js";
import { polygonsOf } from "./polygons.js";

/**
 * The data set as files. `shape` is "rle" or "polygons", which run along pixel edges and lose nothing where `tolerance` is 0;
 * where some images validate, each part is a file, as COCO's own; `copied` images lie under `images/`.
 */
export function toCoco({ images, classes }, { shape, tolerance = 0, images: copied = false }, progress = () => {}) {
  const paths = new Map(photoPaths(images, copied).map((path, i) => [images[i], path]));
  const files = copied ? Object.fromEntries(images.map((image) => [`images/${paths.get(image)}`, image.file])) : {};
  let done = 0;
  const tell = () => progress(++done, images.length);
  const name = shape === "rle" ? "coco" : "coco-polygons";
  for (const [part, some] of byPart(images)) {
    const named = some.map((image) => ({ ...image, path: paths.get(image) }));
    files[part ? `annotations/instances_${part}.json` : `${name}.json`] = JSON.stringify(instances(named, classes, { shape, tolerance, tell }));
  }
  return files;
}

function instances(images, classes, { shape, tolerance, tell }) {
  const annotations = [];
  images.forEach((image, i) => {
    for (const object of image.objects) {
      const cut = cutOut(object.rle);
      if (cut.area === 0) continue;
      const attributes = attributesOf(object);
      annotations.push({
        id: annotations.length + 1,
        image_id: i + 1,
        category_id: classNumber(classes, object) + 1,
        segmentation: shape === "rle" ? object.rle : polygonsOf(object.rle, { tolerance }),
        area: cut.area,
        bbox: [cut.x, cut.y, cut.width, cut.height],
        iscrowd: 0,
        ...(Object.keys(attributes).length && { attributes }),
      });
    }
    tell();
  });
  return { ...head(images), categories: classes.map((one, i) => ({ id: i + 1, name: one.name, supercategory: "" })), annotations };
}

/** What instances and panoptic files begin with. Each image has the `path` under which the file names it. */
export function head(images) {
  return {
    info: { description: "Labeled with Labeling Ground" },
    licenses: [],
    images: images.map(({ path, width, height }, i) => ({ id: i + 1, file_name: path, width, height })),
  };
}
