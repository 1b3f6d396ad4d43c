// Masks as rings of corners along pixel edges: to draw them crisp at any zoom, and to export them without loss.

import { eachStretch, spansOf } from "./spans.js";

/** The rings of a COCO RLE's mask, see `traceSpans`. */
export function trace(rle) {
  return traceSpans(spansOf(rle), rle.size);
}

/**
 * The rings of a mask, in image pixels: flat `[x, y, x, y, …]`, without the first corner again. Outer rings run
 * clockwise on screen, holes counter-clockwise. Pixels that touch at a corner only are separate pieces.
 */
export function traceSpans(spans, [height, width]) {
  const edges = uprights(spans, height, width);
  const onward = joined(edges, height);
  const seen = new Uint8Array(edges.length);
  const rings = [];
  for (let first = 0; first < edges.length; first++) {
    if (seen[first]) continue;
    const ring = [];
    for (let at = first; !seen[at]; at = onward[at]) {
      seen[at] = 1;
      const { x, from, to } = edges[at];
      ring.push(x, from, x, to);
    }
    rings.push(ring);
  }
  return rings;
}

/** The upright edges, column by column and from above: `{x, from, to}`, down on the mask's right, up on its left. */
function uprights(spans, height, width) {
  const edges = [];
  let left = [], right = [], x = 0;
  const between = () => {
    for (let i = 0, j = 0, last = 0; i < left.length || j < right.length; ) {
      const y = Math.min(left[i] ?? Infinity, right[j] ?? Infinity);
      if (i % 2 !== j % 2) edges.push(i % 2 ? { x, from: last, to: y } : { x, from: y, to: last });
      if (left[i] === y) i++;
      if (right[j] === y) j++;
      last = y;
    }
    [left, right] = [right, []];
    x++;
  };
  eachStretch(spans, height, (column, y0, y1) => {
    while (x < column) {
      if (left.length || right.length) between();
      else x = column;
    }
    right.push(y0, y1);
  });
  for (const end = x + 1; x <= end && x <= width; ) between();
  return edges;
}

/**
 * Which edge follows each one: between its end and the start of that one the way is level. The ends on one level pair
 * up from the left; of two at one place, where pixels touch at a corner, the downward edge's is joined to the left.
 */
function joined(edges, height) {
  const levels = Array.from({ length: height + 1 }, () => []); // of numbers `2 * edge`, and 1 more for its upper end
  edges.forEach(({ from, to }, i) => {
    levels[Math.min(from, to)].push(2 * i + 1);
    levels[Math.max(from, to)].push(2 * i);
  });
  const onward = new Int32Array(edges.length);
  for (const ends of levels) {
    const isDown = (end) => edges[end >> 1].from < edges[end >> 1].to;
    for (let k = 1; k < ends.length; k++) {
      if (edges[ends[k] >> 1].x === edges[ends[k - 1] >> 1].x && isDown(ends[k]) && !isDown(ends[k - 1])) {
        [ends[k - 1], ends[k]] = [ends[k], ends[k - 1]];
      }
    }
    for (let k = 0; k < ends.length; k += 2) {
      const [a, b] = [ends[k], ends[k + 1]];
      const aIsHead = isDown(a) === !(a & 1); // it ends here, and the other one starts here
      onward[(aIsHead ? a : b) >> 1] = (aIsHead ? b : a) >> 1;
    }
  }
  return onward;
}

/** Twice the signed area: positive for outer rings. */
export function area2(ring) {
  let sum = 0;
  for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
    sum += ring[j] * ring[i + 1] - ring[i] * ring[j + 1];
  }
  return sum;
}

/** Whether a point is inside a ring (even-odd). */
export function inside(ring, px, py) {
  let odd = false;
  for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
    const yi = ring[i + 1], yj = ring[j + 1];
    if (yi > py !== yj > py && px < ((ring[j] - ring[i]) * (py - yi)) / (yj - yi) + ring[i]) odd = !odd;
  }
  return odd;
}

/** Rings by piece: `[[outer, hole, …], …]`, the largest piece first. */
export function pieces(rings) {
  const outer = rings.filter((ring) => area2(ring) > 0).map((ring) => ({ parts: [ring], area: area2(ring), box: boxOf(ring) }));
  outer.sort((a, b) => b.area - a.area);
  for (const hole of rings.filter((ring) => area2(ring) < 0)) {
    const [px, py] = besideHole(hole);
    // The smallest around it, from the end; a box is a cheap question before the dear one.
    const around = outer.findLast(({ box: [x0, y0, x1, y1], parts }) =>
      px > x0 && px < x1 && py > y0 && py < y1 && inside(parts[0], px, py));
    around?.parts.push(hole);
  }
  return outer.map(({ parts }) => parts);
}

function boxOf(ring) {
  let [x0, y0] = ring, [x1, y1] = ring;
  for (let i = 2; i < ring.length; i += 2) {
    x0 = Math.min(x0, ring[i]);
    x1 = Math.max(x1, ring[i]);
    y0 = Math.min(y0, ring[i + 1]);
    y1 = Math.max(y1, ring[i + 1]);
  }
  return [x0, y0, x1, y1];
}

// The middle of a pixel of the piece, across the hole's first edge: the piece is on the right of the way.
function besideHole(hole) {
  const dx = Math.sign(hole[2] - hole[0]), dy = Math.sign(hole[3] - hole[1]);
  return [hole[0] + dx / 2 - dy / 2, hole[1] + dy / 2 + dx / 2];
}

/**
 * A piece as one ring, for formats that know no holes: each hole hangs on a level cut of no width, there and back along the
 * same line, so that filling it by even-odd gives the same pixels. The cuts stay inside the piece.
 */
export function keyhole([outer, ...holes]) {
  const byLeft = holes.map((hole) => ({ hole, at: leftmost(hole) })).sort((a, b) => a.hole[a.at] - b.hole[b.at]);
  return byLeft.reduce((ring, { hole, at }) => cutTo(ring, hole, at), Array.from(outer));
}

function leftmost(ring) {
  let at = 0;
  for (let i = 2; i < ring.length; i += 2) if (ring[i] < ring[at]) at = i;
  return at;
}

/** Hang a hole on what is next to the left of its corner `at`: the ring, or a hole that hangs on it already. */
function cutTo(ring, hole, at) {
  const x = hole[at], y = hole[at + 1];
  let best = -Infinity, edge = -1;
  for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
    const y0 = ring[j + 1], y1 = ring[i + 1];
    if (y0 === y1 || y < Math.min(y0, y1) || y > Math.max(y0, y1)) continue;
    const left = ring[j] + ((y - y0) / (y1 - y0)) * (ring[i] - ring[j]);
    if (left <= x && left > best) [best, edge] = [left, i];
  }
  if (edge < 0) return ring; // simplified until nothing is around the hole
  const turned = [...hole.slice(at), ...hole.slice(0, at), x, y];
  return [...ring.slice(0, edge), best, y, ...turned, best, y, ...ring.slice(edge)];
}

/**
 * A ring of `trace` drawn in by `by` pixels (less than half of one), towards the mask. Whether a program counts the pixels
 * that an outline runs through, or those whose middle is inside, it then finds the same ones.
 */
export function inset(ring, by) {
  const out = new Array(ring.length);
  const n = ring.length;
  for (let i = 0; i < n; i += 2) {
    const x = ring[i], y = ring[i + 1];
    const before = [Math.sign(x - ring[(i + n - 2) % n]), Math.sign(y - ring[(i + n - 1) % n])];
    const after = [Math.sign(ring[(i + 2) % n] - x), Math.sign(ring[(i + 3) % n] - y)];
    out[i] = x - by * (before[1] + after[1]); // the mask is on the right of the way
    out[i + 1] = y + by * (before[0] + after[0]);
  }
  return out;
}

/** The ring with as few corners as stay within `tolerance` of it (Douglas and Peucker); where none is left, its box. */
export function simplified(ring, tolerance) {
  const n = ring.length / 2;
  if (tolerance <= 0 || n <= 4) return ring;
  const isKept = new Uint8Array(n + 1);
  const far = farthest(ring, 0, n);
  isKept[0] = isKept[far.at] = isKept[n] = 1;
  const open = [[0, far.at], [far.at, n]];
  while (open.length) {
    const [from, to] = open.pop();
    const { at, squared } = farthest(ring, from, to);
    if (squared <= tolerance ** 2) continue;
    isKept[at] = 1;
    open.push([from, at], [at, to]);
  }
  const out = [];
  for (let i = 0; i < n; i++) if (isKept[i]) out.push(ring[2 * i], ring[2 * i + 1]);
  return out.length < 6 ? boxRing(boxOf(ring)) : out;
}

function boxRing([x0, y0, x1, y1]) {
  return [x0, y0, x1, y0, x1, y1, x0, y1];
}

/** Of the corners between two, the one that lies farthest from the line between them. */
function farthest(ring, from, to) {
  const n = ring.length / 2;
  const x0 = ring[2 * from], y0 = ring[2 * from + 1], x1 = ring[2 * (to % n)], y1 = ring[2 * (to % n) + 1];
  const dx = x1 - x0, dy = y1 - y0, long = dx * dx + dy * dy;
  let at = -1, squared = -1;
  for (let i = from + 1; i < to; i++) {
    const px = ring[2 * i] - x0, py = ring[2 * i + 1] - y0;
    const share = long ? Math.min(1, Math.max(0, (px * dx + py * dy) / long)) : 0;
    const apart = (px - share * dx) ** 2 + (py - share * dy) ** 2;
    if (apart > squared) [at, squared] = [i, apart];
  }
  return { at, squared };
}

/** The ring with corners that lie closer together than `step` left out: what one sees when zoomed out. */
export function thinned(ring, step) {
  if (step < 1) return ring;
  const kept = [ring[0], ring[1]];
  for (let i = 2; i < ring.length; i += 2) {
    const n = kept.length;
    if (Math.max(Math.abs(ring[i] - kept[n - 2]), Math.abs(ring[i + 1] - kept[n - 1])) >= step) {
      kept.push(ring[i], ring[i + 1]);
    }
  }
  return kept.length >= 6 ? kept : ring;
}
