// A mask as spans, for all that is done to masks: flat `[from, to, from, to, …]`, ascending, of positions
// `x * height + y`, which go down the columns as COCO's runs do. What is done costs as much as the outline is long,
// however many pixels it surrounds.

import { decodeCounts, encodeCounts } from "./rle.js";

/** The spans of a COCO RLE. */
export function spansOf(rle) {
  const spans = [];
  let at = 0;
  decodeCounts(rle.counts).forEach((run, i) => {
    if (i % 2 && run > 0) {
      if (spans.at(-1) === at) spans[spans.length - 1] = at + run;
      else spans.push(at, at + run);
    }
    at += run;
  });
  return spans;
}

/** The COCO RLE of spans; `size` is `[height, width]`. */
export function rleOf(spans, size) {
  const runs = [];
  let last = 0;
  for (const at of spans) {
    runs.push(at - last);
    last = at;
  }
  const all = size[0] * size[1];
  if (last < all || runs.length === 0) runs.push(all - last);
  return { size, counts: encodeCounts(runs) };
}

/** What is in one of two masks or in the other. */
export const united = (a, b) => combined(a, b, (inA, inB) => inA || inB);

/** What is in the first of two masks and not in the other. */
export const without = (a, b) => combined(a, b, (inA, inB) => inA && !inB);

/** What is in both of two masks. */
export const common = (a, b) => combined(a, b, (inA, inB) => inA && inB);

function combined(a, b, isKept) {
  const out = [];
  let i = 0, j = 0, isIn = false;
  while (i < a.length || j < b.length) {
    const at = Math.min(i < a.length ? a[i] : Infinity, j < b.length ? b[j] : Infinity);
    if (a[i] === at) i++;
    if (b[j] === at) j++;
    const isNext = isKept(i % 2 === 1, j % 2 === 1);
    if (isNext !== isIn) out.push(at);
    isIn = isNext;
  }
  return out;
}

/** How many pixels. */
export function areaOf(spans) {
  let area = 0;
  for (let i = 0; i < spans.length; i += 2) area += spans[i + 1] - spans[i];
  return area;
}

/** Whether a pixel is in the mask. */
export function covers(spans, height, { x, y }) {
  const at = x * height + y;
  let low = 0, high = spans.length; // how many ends lie at or before the pixel
  while (low < high) {
    const middle = (low + high) >> 1;
    if (spans[middle] <= at) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}

/** Call `see(x, y0, y1)` for each stretch of a column, from the upper end of the left one on; `y1` is behind the end. */
export function eachStretch(spans, height, see) {
  for (let i = 0; i < spans.length; i += 2) {
    for (let from = spans[i]; from < spans[i + 1]; ) {
      const x = Math.floor(from / height);
      const to = Math.min(spans[i + 1], (x + 1) * height);
      see(x, from - x * height, to - x * height);
      from = to;
    }
  }
}

/** The smallest box around a mask, `[x0, y0, x1, y1]`, or `null` for an empty one. */
export function boxOf(spans, height) {
  if (spans.length === 0) return null;
  let y0 = Infinity, y1 = 0;
  eachStretch(spans, height, (x, top, bottom) => {
    y0 = Math.min(y0, top);
    y1 = Math.max(y1, bottom);
  });
  return [Math.floor(spans[0] / height), y0, Math.floor((spans.at(-1) - 1) / height) + 1, y1];
}

/** The spans of stretches of columns in any order, which may overlap and reach out of the image; `stretches` is flat `[x, y0, y1, …]`. */
export function spansOfStretches(stretches, [height, width]) {
  const columns = new Map();
  for (let i = 0; i < stretches.length; i += 3) {
    const x = stretches[i], y0 = Math.max(0, stretches[i + 1]), y1 = Math.min(height, stretches[i + 2]);
    if (x < 0 || x >= width || y0 >= y1) continue;
    if (!columns.has(x)) columns.set(x, []);
    columns.get(x).push([x * height + y0, x * height + y1]);
  }
  const spans = [];
  for (const x of [...columns.keys()].sort((a, b) => a - b)) {
    for (const [from, to] of columns.get(x).sort((a, b) => a[0] - b[0])) {
      const n = spans.length;
      if (n && spans[n - 1] >= from) spans[n - 1] = Math.max(spans[n - 1], to);
      else spans.push(from, to);
    }
  }
  return spans;
}
