// From a decoder's low-res logits to masks of the image, as the server's `sam/masks.py` makes them: bilinear, a pixel
// belongs to the object where its logit is above 0. The mask is written as runs at once, column by column, and only
// where a logit can be positive: a click on a small object of a large photo costs what the object costs.

import { encodeCounts } from "../shared/rle.js";
import { LOW_RES, SIDE, followsSam2 } from "./prompts.js";

/** Which of a decoder's candidates are shown, best first: of four those for a prompt with several meanings, 1 to 3. */
export function order(scores) {
  const all = [...scores.keys()];
  const shown = scores.length === 4 ? all.slice(1) : all;
  return shown.sort((a, b) => scores[b] - scores[a] || a - b).slice(0, 3);
}

/** The mask of the image: `{rle, area}`. `logits` are the 256 × 256 of one candidate, over the whole square. */
export function paint(logits, frame, family) {
  const { width, height } = frame;
  const window = windowOf(logits, frame, family);
  const runs = new Runs();
  if (window) {
    const { down, across, columns, rows, left, top } = window;
    const column = new Float32Array(rows);
    const stop = down.start + down.low.length;
    for (let i = 0; i < across.low.length; i++) {
      const at = (across.start + i) * height;
      const low = (across.low[i] - left) * rows, high = (across.high[i] - left) * rows;
      const share = across.weight[i], rest = 1 - share;
      for (let y = 0; y < rows; y++) column[y] = columns[low + y] * rest + columns[high + y] * share;
      if (down.start > 0) runs.set(0, at);
      fill(runs, column, down, top, at);
      if (stop < height) runs.set(0, at + stop);
    }
    const after = (across.start + across.low.length) * height;
    if (after < width * height) runs.set(0, after);
  }
  const counts = runs.end(width * height);
  const area = counts.reduce((sum, run, i) => sum + (i % 2 ? run : 0), 0);
  return { rle: { size: [height, width], counts: encodeCounts(counts) }, area };
}

/** One column of the image: between two neighbours of one sign all pixels have it, and only elsewhere is computed. */
function fill(runs, column, down, top, at) {
  const { start, low, high, weight } = down;
  for (let y = 0; y < low.length; ) {
    const upper = column[low[y] - top], lower = column[high[y] - top];
    const end = down.end[y];
    if (upper > 0 === lower > 0) {
      runs.set(upper > 0 ? 1 : 0, at + start + y);
    } else {
      const change = Math.fround(lower - upper);
      for (let each = y; each < end; each++) runs.set(upper > -weight[each] * change ? 1 : 0, at + start + each);
    }
    y = end;
  }
}

/** Collects runs; positions only grow. */
class Runs {
  #runs = [];
  #from = 0;
  #value = 0;

  set(value, at) {
    if (value === this.#value) return;
    this.#runs.push(at - this.#from);
    this.#from = at;
    this.#value = value;
  }

  end(length) {
    this.#runs.push(length - this.#from);
    return this.#runs;
  }
}

/** Where a logit can be positive in the image, and what is interpolated there; `null` if nowhere. */
function windowOf(logits, frame, family) {
  const bounds = positive(logits);
  if (!bounds) return null;
  // SAM 1 enlarges the square to 1024 first and cuts the padding off; SAM 2 resizes the 256 straight to the image.
  const factor = followsSam2(family) ? 1 : SIDE / LOW_RES;
  const source = followsSam2(family) ? { width: LOW_RES, height: LOW_RES } : { width: frame.innerWidth, height: frame.innerHeight };
  const down = tapsOf(source.height, frame.height, bounds.top, bounds.bottom, factor);
  const across = tapsOf(source.width, frame.width, bounds.left, bounds.right, factor);
  if (!down.low.length || !across.low.length) return null; // it lies in the padding
  const top = down.low[0], left = across.low[0];
  const rows = down.high.at(-1) - top + 1;
  const columns = enlarged(logits, factor, { left, top, rows, right: across.high.at(-1) });
  return { down, across, columns, rows, left, top };
}

function positive(logits) {
  let top = LOW_RES, bottom = -1, left = LOW_RES, right = -1;
  for (let y = 0; y < LOW_RES; y++) {
    for (let x = 0; x < LOW_RES; x++) {
      if (!(logits[y * LOW_RES + x] > 0)) continue;
      top = Math.min(top, y);
      bottom = y;
      left = Math.min(left, x);
      right = Math.max(right, x);
    }
  }
  return bottom < 0 ? null : { top, bottom, left, right };
}

/**
 * Along one axis: which pixels can be positive, between which neighbours each lies, and the share of the second. A
 * pixel's centre is half a pixel in. `end` is where the next pair of neighbours begins.
 */
function tapsOf(source, length, first, last, factor) {
  const { low, high, share } = neighbours(source, source / length, 0, length);
  // One low-res logit reaches one low-res pixel further to either side: `factor` of the source, and its own.
  const reached = (i) => high[i] >= factor * (first - 1) && low[i] < factor * (last + 2);
  let start = 0, stop = length;
  while (start < stop && !reached(start)) start++;
  while (stop > start && !reached(stop - 1)) stop--;
  const taps = { start, low: low.slice(start, stop), high: high.slice(start, stop), weight: share.slice(start, stop) };
  const end = new Int32Array(stop - start);
  for (let i = end.length - 1; i >= 0; i--) end[i] = taps.low[i] === taps.low[i + 1] ? end[i + 1] : i + 1;
  return { ...taps, end };
}

/** Between which two pixels of `source` so many pixels lie, from `from` on, each `scale` of the source wide. */
function neighbours(source, scale, from, many) {
  const low = new Int32Array(many), high = new Int32Array(many), share = new Float32Array(many);
  for (let i = 0; i < many; i++) {
    const place = Math.max(0, Math.fround(scale * (from + i + 0.5) - 0.5));
    low[i] = Math.min(Math.floor(place), source - 1);
    high[i] = Math.min(low[i] + 1, source - 1);
    share[i] = place - low[i];
  }
  return { low, high, share };
}

/** Columns `left` to `right` of the enlarged square, `rows` of each from `top` on, one column after the other. */
function enlarged(logits, factor, { left, right, top, rows }) {
  const many = right - left + 1;
  const columns = new Float32Array(many * rows), mixed = new Float32Array(LOW_RES);
  const across = neighbours(LOW_RES, 1 / factor, left, many), down = neighbours(LOW_RES, 1 / factor, top, rows);
  const { low, high, share } = down;
  for (let x = 0; x < many; x++) {
    const before = across.low[x], after = across.high[x], part = across.share[x];
    for (let y = low[0]; y <= high[rows - 1]; y++) {
      mixed[y] = logits[y * LOW_RES + before] * (1 - part) + logits[y * LOW_RES + after] * part;
    }
    const at = x * rows;
    for (let y = 0; y < rows; y++) columns[at + y] = mixed[low[y]] * (1 - share[y]) + mixed[high[y]] * share[y];
  }
  return columns;
}
