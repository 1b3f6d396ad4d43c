// What of the work goes into an export.

import { FORMATS } from "./index.js";

/**
 * The data set of a format from all images with their objects: `{images, left}`. An image with several names is there under
 * each. `left` counts what is left out: objects without a `mask`, and images that are `bare` of objects or `refused` by the
 * server, which trainers would take for background.
 */
export function dataSet(labeled, { format, background }) {
  const left = { mask: 0, bare: 0, refused: 0 };
  const trains = FORMATS[format].options.includes("background");
  const images = labeled.flatMap(({ names, state, objects, ...image }) => {
    const masked = objects.filter(({ rle }) => rle);
    left.mask += objects.length - masked.length;
    if (trains && masked.length === 0) {
      if (state === "failed") left.refused += names.length;
      else if (objects.length > 0 || !background) left.bare += names.length;
      if (state === "failed" || objects.length > 0 || !background) return [];
    }
    return names.map((name) => ({ ...image, name, objects: masked }));
  });
  return { images, left };
}
