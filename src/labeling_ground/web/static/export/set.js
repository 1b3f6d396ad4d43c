// What of the work goes into an export.

import { stateOf } from "../labeling/states.js";

/**
 * The data set from all images with their objects: `{images, left}`. Those in one of the `states` go along, or all with `null`;
 * an image with several names is there under each. `left` counts what is left out: images in another `state`, images that the server
 * `refused` or none of whose objects has a mask, which trainers would take for background, and objects without a `mask`.
 * `unfinished` are the images that would go along, `{name, n}`, in which something is not finished.
 */
export function dataSet(labeled, states) {
  const left = { state: 0, refused: 0, mask: 0 };
  const unfinished = [];
  const images = labeled.flatMap(({ names, state, mark, objects, unfinished: n = 0, ...image }) => {
    const masked = objects.filter(({ rle }) => rle);
    if (states && !states.includes(stateOf({ mark, objects: objects.length }))) {
      left.state += names.length;
      return [];
    }
    if (n > 0) unfinished.push({ name: names[0], n });
    left.mask += objects.length - masked.length;
    if (masked.length === 0 && (state === "failed" || objects.length > 0)) {
      left.refused += names.length;
      return [];
    }
    return names.map((name) => ({ ...image, name, objects: masked }));
  });
  return { images, left, unfinished };
}
