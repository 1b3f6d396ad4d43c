// Masks as rings of corners along pixel edges: to draw them crisp at any zoom, and to export them without loss.

// On the way right, down, left, up: the pixels ahead of a corner on the right and on the left.
const RIGHT_X = [0, -1, -1, 0], RIGHT_Y = [0, 0, -1, -1];
const LEFT_X = [0, 0, -1, -1], LEFT_Y = [-1, 0, 0, -1];

/**
 * The rings of a cut-out mask, in image pixels: flat `[x, y, x, y, …]`, without the first corner again. Outer rings run
 * clockwise on screen, holes counter-clockwise. Pixels that touch at a corner only are separate pieces.
 */
export function trace(cut) {
  const wide = cut.width + 2; // a margin of background spares the question whether a pixel is inside
  const grid = new Uint8Array(wide * (cut.height + 2));
  for (let y = 0; y < cut.height; y++) {
    grid.set(cut.pixels.subarray(y * cut.width, (y + 1) * cut.width), (y + 1) * wide + 1);
  }
  const seen = new Uint8Array(grid.length); // upper edges that a ring ran along; each ring has one
  const rings = [];
  for (let at = wide; at < grid.length; at++) {
    if (grid[at] && !grid[at - wide] && !seen[at]) rings.push(follow(at, grid, seen, wide, cut));
  }
  return rings;
}

function follow(start, grid, seen, wide, cut) {
  const step = [1, wide, -1, -wide]; // a corner has the number of the pixel to its lower right
  const right = RIGHT_X.map((dx, way) => dx + RIGHT_Y[way] * wide);
  const left = LEFT_X.map((dx, way) => dx + LEFT_Y[way] * wide);
  const ring = [];
  let at = start, way = 0;
  do {
    if (way === 0) seen[at] = 1;
    at += step[way];
    const before = way;
    if (!grid[at + right[way]]) way = (way + 1) % 4;
    else if (grid[at + left[way]]) way = (way + 3) % 4;
    if (way !== before) ring.push((at % wide) - 1 + cut.x, Math.floor(at / wide) - 1 + cut.y);
  } while (at !== start || way !== 0);
  return ring;
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
  const outer = rings.filter((ring) => area2(ring) > 0).map((ring) => [ring]);
  outer.sort((a, b) => area2(b[0]) - area2(a[0]));
  for (const hole of rings.filter((ring) => area2(ring) < 0)) {
    // The pixel right below the hole's last corner row is set and belongs to the piece; take one that the hole touches.
    const [px, py] = besideHole(hole);
    const around = outer.filter(([ring]) => inside(ring, px, py));
    around.sort((a, b) => area2(a[0]) - area2(b[0]));
    around[0]?.push(hole);
  }
  return outer;
}

// The middle of a pixel of the piece, across the hole's first edge: the piece is on the right of the way.
function besideHole(hole) {
  const dx = Math.sign(hole[2] - hole[0]), dy = Math.sign(hole[3] - hole[1]);
  return [hole[0] + dx / 2 - dy / 2, hole[1] + dy / 2 + dx / 2];
}

/**
 * A piece as one ring, for formats that know no holes: each hole hangs on a cut of no width, there and back along the
 * same line, so that filling it by even-odd gives the same pixels.
 */
export function keyhole([outer, ...holes]) {
  let ring = Array.from(outer);
  for (const hole of holes) ring = bridge(ring, hole);
  return ring;
}

/** Several pieces as one ring, in the same way. */
export function joined(parts) {
  const [first, ...rest] = parts.map(keyhole);
  return rest.reduce((ring, next) => bridge(ring, next), first);
}

function bridge(ring, other) {
  let best = Infinity, at = 0, to = 0;
  for (let i = 0; i < ring.length; i += 2) {
    for (let j = 0; j < other.length; j += 2) {
      const far = (ring[i] - other[j]) ** 2 + (ring[i + 1] - other[j + 1]) ** 2;
      if (far < best) [best, at, to] = [far, i, j];
    }
  }
  const turned = [...other.slice(to), ...other.slice(0, to), other[to], other[to + 1]];
  return [...ring.slice(0, at + 2), ...turned, ...ring.slice(at)];
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
