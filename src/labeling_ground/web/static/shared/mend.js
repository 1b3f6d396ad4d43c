// What mends a mask as a whole: fill holes, drop small islands, smooth the outline. Spans in, spans out.

import { traceSpans } from "./outline.js";
import { filled } from "./shapes.js";
import { areaOf, eachStretch, spansOfStretches, without } from "./spans.js";

/** The mask with every hole filled: background that no way leads out of, also not across corners. */
export function withoutHoles(spans, size) {
  const all = [0, size[0] * size[1]];
  const [height, width] = size;
  const holes = piecesOf(without(all, spans), height, { byCorners: true }).filter(({ stretches }) => {
    for (let i = 0; i < stretches.length; i += 3) {
      const x = stretches[i];
      if (x === 0 || x === width - 1 || stretches[i + 1] === 0 || stretches[i + 2] === height) return false;
    }
    return true;
  });
  const stretches = holes.flatMap((hole) => hole.stretches);
  eachStretch(spans, height, (x, y0, y1) => stretches.push(x, y0, y1));
  return spansOfStretches(stretches, size);
}

/** The mask without its pieces of fewer than `least` pixels; the largest piece stays in any case. */
export function withoutIslands(spans, size, least) {
  const pieces = piecesOf(spans, size[0]);
  const most = pieces.reduce((area, piece) => Math.max(area, piece.area), 0);
  const kept = pieces.filter(({ area }) => area >= Math.min(least, most));
  return kept.length === pieces.length ? spans : spansOfStretches(kept.flatMap(({ stretches }) => stretches), size);
}

/** The pieces of a mask, each `{stretches, area}`; pixels that touch at a corner only are one piece with `byCorners`. */
export function piecesOf(spans, height, { byCorners = false } = {}) {
  const found = []; // {x, y0, y1, root}
  let before = 0, column = 0; // where the stretches of the column before, and of this one, begin
  eachStretch(spans, height, (x, y0, y1) => {
    const one = { x, y0, y1 };
    one.root = one;
    if (found.length && found.at(-1).x !== x) [before, column] = [column, found.length];
    const reach = byCorners ? 1 : 0;
    for (let i = before; i < column; i++) {
      const other = found[i];
      if (other.x !== x - 1 || other.y1 + reach <= y0) before = i + 1;
      else if (other.y0 < y1 + reach) rootOf(one).root = rootOf(other);
      else break;
    }
    found.push(one);
  });
  const pieces = new Map();
  for (const { x, y0, y1, root } of found.map((one) => ({ ...one, root: rootOf(one) }))) {
    if (!pieces.has(root)) pieces.set(root, { stretches: [], area: 0 });
    const piece = pieces.get(root);
    piece.stretches.push(x, y0, y1);
    piece.area += y1 - y0;
  }
  return [...pieces.values()];
}

function rootOf(one) {
  while (one.root !== one) one = one.root = one.root.root;
  return one;
}

const SHORT = 16; // pixel edges: an outline of fewer is left as it is

/** The mask with its outline evened out over some `reach` pixels of its length to either side. */
export function smoothed(spans, size, reach) {
  const rings = traceSpans(spans, size).map((ring) => evened(ring, reach));
  const made = filled(rings, size);
  return areaOf(made) ? made : spans;
}

/** A ring of corners at whole pixels, as points one pixel apart, each the mean of its neighbours, weighted by a bell. */
function evened(ring, reach) {
  const points = [];
  for (let i = 0; i < ring.length; i += 2) {
    const [x0, y0, x1, y1] = [ring[i], ring[i + 1], ring[(i + 2) % ring.length], ring[(i + 3) % ring.length]];
    const long = Math.abs(x1 - x0) + Math.abs(y1 - y0);
    for (let n = 0; n < long; n++) points.push(x0 + ((x1 - x0) * (n + 0.5)) / long, y0 + ((y1 - y0) * (n + 0.5)) / long);
  }
  const many = points.length / 2;
  if (many < SHORT) return ring;
  const widest = Math.min(2 * reach, Math.floor(many / 8));
  const weights = Array.from({ length: 2 * widest + 1 }, (_, i) => Math.exp(-((i - widest) ** 2) / (2 * (reach / 1.5) ** 2)));
  const sum = weights.reduce((a, b) => a + b, 0);
  const out = new Array(points.length);
  for (let i = 0; i < many; i++) {
    let x = 0, y = 0;
    for (let k = 0; k < weights.length; k++) {
      const at = 2 * ((i + k - widest + many) % many);
      x += weights[k] * points[at];
      y += weights[k] * points[at + 1];
    }
    out[2 * i] = x / sum;
    out[2 * i + 1] = y / sum;
  }
  return out;
}
