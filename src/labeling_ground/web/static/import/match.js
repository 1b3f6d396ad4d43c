// Which of the open images labels are of, and what becomes of those that are there.

import { stemOf } from "./parts.js";

const endsAlike = (a, b) => `/${a}`.endsWith(`/${b}`) || `/${b}`.endsWith(`/${a}`);
const base = (path) => path.split("/").at(-1);

/**
 * The image, of those open, that labels are of, or `null`: the one with their `id`; or that lay in the archive at their place, `ids`
 * being the ids of its photographs by path; or the only one of that name, with its folders as far as both tell them, or without.
 */
export function imageFor({ id, names, byStem = false }, images, ids = new Map()) {
  const found = images.find((image) => image.id === id);
  if (found || id) return found ?? null;
  const plain = byStem ? stemOf : (path) => path;
  for (const name of names.map(plain)) {
    const packed = new Set([...ids].filter(([path]) => endsAlike(plain(path), name)).map(([, one]) => one));
    if (packed.size === 1) return images.find((image) => packed.has(image.id)) ?? null;
  }
  for (const isSame of [(own, name) => own === name, endsAlike, (own, name) => base(own) === base(name)]) {
    for (const name of names.map(plain)) {
      const alike = images.filter((image) => image.names.some((own) => isSame(plain(own), name)));
      if (alike.length === 1) return alike[0];
    }
  }
  return null;
}

const sameShape = (a, b) => (a.rle ? a.rle.counts === b.rle?.counts : a.kind === "point" && a.points[0].x === b.points[0].x && a.points[0].y === b.points[0].y);

/**
 * The objects of an image after an import: those of the file in place of ours ("replace"), or ours and those of the file that are not
 * among them, by id or by class and mask ("add").
 */
export function merged(ours, theirs, mode) {
  if (mode === "replace") return theirs;
  const same = (a, b) => a.id === b.id || (a.classId === b.classId && a.kind === b.kind && sameShape(a, b));
  return [...ours, ...theirs.filter((one) => !ours.some((own) => same(own, one)))];
}
