// What of the work goes into an export.

import { stateOf } from "../labeling/states.js";

/**
 * The data set from all images with their objects: `{images, left}`. Those in one of the `states` go along, or all with `null`;
 * an image with several names is there under each. `left` counts what is left out: images in another `state`, images that the server
 * `refused` or none of whose objects has a mask, which trainers would take for background, objects without a `mask`, and `points` where
 * the format has no place for them (`takesPoints`).
 * `unfinished` are the images that would go along, `{name, n}`, in which something is not finished.
 */
export function dataSet(labeled, states, { takesPoints = false } = {}) {
  const left = { state: 0, refused: 0, mask: 0, points: 0 };
  const unfinished = [];
  const images = labeled.flatMap(({ names, state, mark, objects, unfinished: n = 0, ...image }) => {
    const points = objects.filter(({ kind }) => kind === "point");
    const kept = objects.filter((one) => one.rle || (takesPoints && points.includes(one)));
    if (states && !states.includes(stateOf({ mark, objects: objects.length }))) {
      left.state += names.length;
      return [];
    }
    if (n > 0) unfinished.push({ name: names[0], n });
    left.points += takesPoints ? 0 : points.length;
    left.mask += objects.filter((one) => !one.rle && !points.includes(one)).length;
    if (kept.length === 0 && (state === "failed" || objects.length > 0)) {
      left.refused += names.length;
      return [];
    }
    return names.map((name) => ({ ...image, name, objects: kept }));
  });
  return { images, left, unfinished };
}
