// An object's mask as polygons, for the formats that hold no pixels.

import { area2, inset, keyhole, pieces, simplified, trace } from "../shared/outline.js";

/**
 * A polygon for each piece, the largest first, `[x, y, x, y, …]` in pixels; holes hang on cuts of no width. `tolerance` is
 * how many pixels a polygon may leave its outline by, `by` how many it is drawn in by, `most` how many corners it may have: the
 * corners of a rugged one are thinned out until it has no more. `which` is "all" pieces or the "largest".
 */
export function polygonsOf(rle, { tolerance = 0, by = 0, most = Infinity, which = "all" } = {}) {
  const found = pieces(trace(rle));
  return (which === "largest" ? found.slice(0, 1) : found).map((piece) => polygon(piece, { tolerance, by, most }));
}

function polygon(piece, { tolerance, by, most }) {
  const rings = by ? piece.map((ring) => inset(ring, by)) : piece;
  for (let within = tolerance; ; within = Math.max(0.5, 2 * within)) {
    const [outer, ...holes] = rings.map((ring) => simplified(ring, within));
    const ring = keyhole([outer, ...holes.filter((hole) => -area2(hole) > 2 * within ** 2)]);
    if (ring.length <= 2 * most) return ring;
  }
}
