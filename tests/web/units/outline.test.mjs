import assert from "node:assert/strict";
import { test } from "node:test";
import { drawn, load, noise } from "./page.mjs";

const { fromPixels } = await load("shared/rle.js");
const { area2, inset, inside, keyhole, pieces, simplified, thinned, trace } = await load("shared/outline.js");

const ringsOf = ({ pixels, width, height }) => trace(fromPixels(pixels, width, height));

function filled(rings, { width, height }) {
  const odd = (x, y) => rings.filter((ring) => inside(ring, x + 0.5, y + 0.5)).length % 2;
  return Uint8Array.from({ length: width * height }, (_, i) => odd(i % width, Math.floor(i / width)));
}

test("a square is four corners, clockwise on screen", () => {
  assert.deepEqual(ringsOf(drawn("....", ".##.", ".##.", "....")), [[1, 3, 1, 1, 3, 1, 3, 3]]);
});

test("a hole runs the other way and belongs to the piece around it", () => {
  const mask = drawn("#####...", "#...#.##", "#.#.#.##", "#...#...", "#####...");
  const found = pieces(ringsOf(mask));
  assert.deepEqual(found.map((piece) => piece.map((ring) => Math.sign(area2(ring)))), [[1, -1], [1], [1]]);
});

test("pixels that touch at a corner are two pieces", () => {
  assert.equal(pieces(ringsOf(drawn("#.", ".#"))).length, 2);
});

test("outlines and keyholes, drawn in or not, fill the same pixels", () => {
  for (let seed = 0; seed < 100; seed++) {
    const mask = noise(seed);
    const rings = ringsOf(mask);
    assert.deepEqual(filled(rings, mask), mask.pixels);
    const parts = pieces(rings);
    assert.equal(parts.flat().length, rings.length);
    assert.deepEqual(filled(parts.map(keyhole), mask), mask.pixels);
    const drawnIn = parts.map((piece) => keyhole(piece.map((ring) => inset(ring, 0.25))));
    assert.deepEqual(filled(drawnIn, mask), mask.pixels);
  }
});

test("a simplified ring stays within the tolerance, and keeps no corner that it does not need", () => {
  const ring = Array.from({ length: 720 }, (_, i) => Math.round(100 + 80 * (i % 2 ? Math.sin : Math.cos)((Math.floor(i / 2) * Math.PI) / 180)));
  for (const tolerance of [0.5, 1, 2]) {
    const few = simplified(ring, tolerance);
    assert.ok(few.length < ring.length / 2);
    for (let i = 0; i < ring.length; i += 2) {
      const far = Math.min(...sides(few).map((side) => apart(side, ring[i], ring[i + 1])));
      assert.ok(far <= tolerance + 1e-9);
    }
  }
  assert.equal(simplified(ring, 0), ring);
  assert.deepEqual(simplified([0, 0, 1, 0, 2, 0, 3, 0, 3, 1, 0, 1], 0.1), [0, 0, 3, 0, 3, 1, 0, 1]);
  assert.deepEqual(simplified([0, 0, 1, 0, 2, 0, 3, 0, 3, 1, 0, 1], 50), [0, 0, 3, 0, 3, 1, 0, 1]); // its box
});

const sides = (ring) => Array.from({ length: ring.length / 2 }, (_, i) => [0, 1, 2, 3].map((k) => ring[(2 * i + k) % ring.length]));

function apart([x0, y0, x1, y1], x, y) {
  const long = (x1 - x0) ** 2 + (y1 - y0) ** 2;
  const share = long ? Math.min(1, Math.max(0, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / long)) : 0;
  return Math.hypot(x - x0 - share * (x1 - x0), y - y0 - share * (y1 - y0));
}

test("thinning leaves corners out, never a ring", () => {
  const ring = Array.from({ length: 200 }, (_, i) => (i % 2 ? Math.floor(i / 4) : Math.floor(i / 4) + 1));
  assert.ok(thinned(ring, 8).length < 60);
  assert.deepEqual(thinned([0, 0, 1, 0, 1, 1, 0, 1], 16), [0, 0, 1, 0, 1, 1, 0, 1]);
  assert.equal(thinned(ring, 0), ring);
});
