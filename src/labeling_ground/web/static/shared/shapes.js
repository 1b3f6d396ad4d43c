// Shapes as masks: what a brush covers, what is inside an outline, a box. Spans, see `spans.js`.

import { spansOfStretches } from "./spans.js";

/**
 * What a round brush covers on its way along points `{x, y}` of the image, where a pixel's middle is at half numbers.
 * The pixel under a point is covered however small the `radius` is.
 */
export function stroke(points, radius, size) {
  const stretches = [];
  points.forEach((to, i) => {
    capsule(points[Math.max(0, i - 1)], to, radius, stretches);
    stretches.push(Math.floor(to.x), Math.floor(to.y), Math.floor(to.y) + 1);
  });
  return spansOfStretches(stretches, size);
}

/** What is within `radius` of the line from `a` to `b`. It is convex, so in each column it is one stretch. */
function capsule(a, b, radius, stretches) {
  const long = Math.hypot(b.x - a.x, b.y - a.y);
  const nx = long && (-(b.y - a.y) / long) * radius, ny = long && ((b.x - a.x) / long) * radius;
  const sides = long ? [[a.x + nx, a.y + ny, b.x + nx, b.y + ny], [a.x - nx, a.y - ny, b.x - nx, b.y - ny]] : [];
  for (let x = Math.ceil(Math.min(a.x, b.x) - radius - 0.5); x + 0.5 <= Math.max(a.x, b.x) + radius; x++) {
    let top = Infinity, bottom = -Infinity;
    for (const { x: cx, y: cy } of [a, b]) {
      const half = Math.sqrt(radius ** 2 - (x + 0.5 - cx) ** 2);
      if (half >= 0) [top, bottom] = [Math.min(top, cy - half), Math.max(bottom, cy + half)];
    }
    for (const [x0, y0, x1, y1] of sides) {
      if (x0 === x1 || x + 0.5 < Math.min(x0, x1) || x + 0.5 > Math.max(x0, x1)) continue;
      const y = y0 + ((x + 0.5 - x0) / (x1 - x0)) * (y1 - y0);
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    }
    if (top <= bottom) stretches.push(x, Math.ceil(top - 0.5), Math.floor(bottom - 0.5) + 1);
  }
}

/** The pixels whose middle is inside rings (even-odd), each flat `[x, y, x, y, …]` in pixels of the image. */
export function filled(rings, size) {
  const crossings = new Map(); // column → where the rings cross its middle
  for (const ring of rings) {
    for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
      const x0 = Math.min(ring[j], ring[i]), x1 = Math.max(ring[j], ring[i]);
      const slope = (ring[i + 1] - ring[j + 1]) / (ring[i] - ring[j]);
      for (let x = Math.max(0, Math.ceil(x0 - 0.5)); x + 0.5 < x1 && x < size[1]; x++) {
        if (!crossings.has(x)) crossings.set(x, []);
        crossings.get(x).push(ring[j + 1] + (x + 0.5 - ring[j]) * slope);
      }
    }
  }
  const stretches = [];
  for (const [x, ys] of crossings) {
    ys.sort((a, b) => a - b);
    for (let i = 0; i + 1 < ys.length; i += 2) stretches.push(x, Math.ceil(ys[i] - 0.5), Math.ceil(ys[i + 1] - 0.5));
  }
  return spansOfStretches(stretches, size);
}

/** The pixels of a box `[x0, y0, x1, y1]`. */
export function boxed([x0, y0, x1, y1], size) {
  return filled([[x0, y0, x1, y0, x1, y1, x0, y1]], size);
}
