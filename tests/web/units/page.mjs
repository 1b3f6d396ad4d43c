// Where the page's modules are, for the tests of this folder.
import assert from "node:assert/strict";

export const root = new URL("../../../src/labeling_ground/web/static/", import.meta.url);
export const load = (name) => import(new URL(name, root));

/** Wait for what tells nobody. */
export async function until(holds) {
  const end = performance.now() + 20_000;
  while (!holds()) {
    assert.ok(performance.now() < end, "it took too long");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A row-major mask of rows such as "..##". */
export function drawn(...rows) {
  return {
    width: rows[0].length,
    height: rows.length,
    pixels: Uint8Array.from(rows.join("").split(""), (letter) => (letter === "#" ? 1 : 0)),
  };
}

/** The same random numbers each time (mulberry32). */
export function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A mask of noise with some structure: pieces, holes, corners that touch. */
export function noise(seed, width = 13, height = 9) {
  const next = random(seed);
  return { width, height, pixels: Uint8Array.from({ length: width * height }, () => (next() < 0.55 ? 1 : 0)) };
}
