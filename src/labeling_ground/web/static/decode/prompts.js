// From clicks and a box to what a decoder reads. The rules are those of the server's `sam/prompts.py` and
// `sam/geometry.py`: a click there and a click here must be the same numbers.

import { eachStretch, spansOf } from "../shared/spans.js";

export const SIDE = 1024; // the square that encoders read
export const LOW_RES = 256; // the decoder's logits cover the same square

/** The tensors of an embedding, by the model's family. Other families are left to the server. */
export const EMBEDDINGS = {
  sam: ["image_embeddings"],
  sam2: ["image_embeddings", "high_res_features_0", "high_res_features_1"],
  "efficient-tam": ["image_embeddings"],
};

/** Whether images, prompts and masks follow SAM 2's rules; else they follow the first SAM's. */
export const followsSam2 = (family) => family === "sam2" || family === "efficient-tam";

/** How the square lies over an image: SAM 1 keeps the aspect, and what is right or below is padding; SAM 2 stretches. */
export function frameOf(family, { width, height }) {
  if (followsSam2(family)) return { width, height, innerWidth: SIDE, innerHeight: SIDE };
  const scale = SIDE / Math.max(width, height);
  const inner = (length) => Math.max(1, Math.floor(length * scale + 0.5));
  return { width, height, innerWidth: inner(width), innerHeight: inner(height) };
}

/**
 * Coordinates in the square and labels, `[1, tokens, 2]` and `[1, tokens]`: 1 on the object, 0 off it, 2 and 3 for a
 * box's corners, -1 for padding. The order of the clicks is of no meaning: they are sorted, as the server sorts them.
 */
export function tokensOf({ points, box }, frame, family) {
  const place = (x, y, label) => [x * (frame.innerWidth / frame.width), y * (frame.innerHeight / frame.height), label];
  const clicks = [...points].sort((a, b) => a.x - b.x || a.y - b.y || a.label - b.label).map((p) => place(p.x, p.y, p.label));
  const corners = box ? [place(box[0], box[1], 2), place(box[2], box[3], 3)] : [];
  const rows = followsSam2(family) ? [...corners, ...clicks] : [...clicks, ...corners];
  if (followsSam2(family) || !box) rows.push([0, 0, -1]);
  return {
    tokens: rows.length,
    coords: Float32Array.from(rows.flatMap(([x, y]) => [x, y])),
    labels: Float32Array.from(rows, (row) => row[2]),
  };
}

const MASK_LOGIT = 10; // where a mask is sure

/** A mask as low-res logits over the frame's square, `[256, 256]`: each says how much of its place the mask covers. */
export function lowResLogits(rle, { width, height, innerWidth, innerHeight }) {
  const inner = (length) => Math.max(1, Math.round((length * LOW_RES) / SIDE));
  const columns = inner(innerWidth), rows = inner(innerHeight);
  const covered = new Float32Array(LOW_RES * LOW_RES);
  const across = columns / width, down = rows / height;
  eachStretch(spansOf(rle), height, (x, y0, y1) => {
    const [top, bottom, left, right] = [y0 * down, y1 * down, x * across, (x + 1) * across];
    for (let row = Math.floor(top); row < bottom; row++) {
      const high = Math.min(row + 1, bottom) - Math.max(row, top);
      for (let column = Math.floor(left); column < right; column++) {
        covered[row * LOW_RES + column] += high * (Math.min(column + 1, right) - Math.max(column, left));
      }
    }
  });
  return covered.map((share) => (2 * Math.min(1, share) - 1) * MASK_LOGIT);
}
