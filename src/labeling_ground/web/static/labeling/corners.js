// The corners of an outline, as one takes hold of them. Rings are values: what changes them returns others.

import { simplified, trace } from "../shared/outline.js";

const TOLERANCE = 1.5; // pixels of the image between a mask's own outline and the corners that are offered for it

const found = new WeakMap(); // rle → its rings

/** The rings of a mask: those that it was made of, or its outline with few corners. */
export function ringsOf({ rle, rings }) {
  if (rings) return rings;
  if (!rle) return [];
  if (!found.has(rle)) found.set(rle, trace(rle).map((ring) => simplified(ring, TOLERANCE)));
  return found.get(rle);
}

/** The corner within `reach` of a place that is nearest to it, `{ring, at}`, or `null`. */
export function cornerAt(rings, place, reach) {
  let best = null, least = reach;
  rings.forEach((corners, ring) => {
    for (let at = 0; at < corners.length; at += 2) {
      const far = Math.hypot(corners[at] - place.x, corners[at + 1] - place.y);
      if (far <= least) [best, least] = [{ ring, at }, far];
    }
  });
  return best;
}

/** Where a corner put on the side within `reach` of a place would stand, `{ring, at}`, or `null`. */
export function sideAt(rings, place, reach) {
  let best = null, least = reach;
  rings.forEach((corners, ring) => {
    for (let at = 0, from = corners.length - 2; at < corners.length; from = at, at += 2) {
      const dx = corners[at] - corners[from], dy = corners[at + 1] - corners[from + 1];
      const long = dx * dx + dy * dy;
      const share = long ? ((place.x - corners[from]) * dx + (place.y - corners[from + 1]) * dy) / long : 0;
      const clamped = Math.min(1, Math.max(0, share));
      const far = Math.hypot(corners[from] + clamped * dx - place.x, corners[from + 1] + clamped * dy - place.y);
      if (far < least) [best, least] = [{ ring, at: at || corners.length }, far];
    }
  });
  return best;
}

const changed = (rings, ring, corners) => rings.map((one, i) => (i === ring ? corners : one));

export function withCornerMoved(rings, { ring, at }, { x, y }) {
  return changed(rings, ring, rings[ring].toSpliced(at, 2, x, y));
}

export function withCorner(rings, { ring, at }, { x, y }) {
  return changed(rings, ring, rings[ring].toSpliced(at, 0, x, y));
}

/** Without a corner; a ring that would have two left goes with it. */
export function withoutCorner(rings, { ring, at }) {
  return rings[ring].length > 6 ? changed(rings, ring, rings[ring].toSpliced(at, 2)) : rings.toSpliced(ring, 1);
}
