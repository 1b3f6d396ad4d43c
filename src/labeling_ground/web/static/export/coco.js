// COCO instances: https://cocodataset.org/#format-data

import { cutOut } from "../shared/rle.js";
import { keyhole, pieces, trace } from "../shared/outline.js";

/** The data set as a COCO object. `shape` is "rle" or "polygons"; polygons run along pixel edges and lose nothing. */
export function toCoco({ images, classes }, shape, progress = () => {}) {
  const annotations = [];
  images.forEach((image, i) => {
    for (const object of image.objects) {
      const cut = cutOut(object.rle);
      if (cut.area === 0) continue;
      annotations.push({
        id: annotations.length + 1,
        image_id: i + 1,
        category_id: classes.findIndex((one) => one.id === object.classId) + 1,
        segmentation: shape === "rle" ? object.rle : pieces(trace(object.rle)).map(keyhole),
        area: cut.area,
        bbox: [cut.x, cut.y, cut.width, cut.height],
        iscrowd: 0,
        ...(object.name ? { attributes: { name: object.name } } : {}),
      });
    }
    progress(i + 1, images.length);
  });
  return {
    info: { description: "Labeled with Labeling Ground" },
    licenses: [],
    images: images.map((image, i) => ({ id: i + 1, file_name: image.name, width: image.width, height: image.height })),
    categories: classes.map((one, i) => ({ id: i + 1, name: one.name, supercategory: "" })),
    annotations,
  };
}
