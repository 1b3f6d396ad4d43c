import assert from "node:assert/strict";
import { test } from "node:test";
import { drawn, load, noise } from "./page.mjs";

const { cutOut, fromPixels } = await load("rle.js");
const { area2, inside, joined, keyhole, pieces, thinned, trace } = await load("outline.js");

const ringsOf = ({ pixels, width, height }) => trace(cutOut(fromPixels(pixels, width, height)));

function filled(rings, { width, height }) {
  const odd = (x, y) => rings.filter((ring) => inside(ring, x + 0.5, y + 0.5)).length % 2;
  return Uint8Array.from({ length: width * height }, (_, i) => odd(i % width, Math.floor(i / width)));
}

test("a square is four corners, clockwise on screen", () => {
  assert.deepEqual(ringsOf(drawn("....", ".##.", ".##.", "....")), [[3, 1, 3, 3, 1, 3, 1, 1]]);
});

test("a hole runs the other way and belongs to the piece around it", () => {
  const mask = drawn("#####...", "#...#.##", "#.#.#.##", "#...#...", "#####...");
  const found = pieces(ringsOf(mask));
  assert.deepEqual(found.map((piece) => piece.map((ring) => Math.sign(area2(ring)))), [[1, -1], [1], [1]]);
});

test("pixels that touch at a corner are two pieces", () => {
  assert.equal(pieces(ringsOf(drawn("#.", ".#"))).length, 2);
});

test("outlines, keyholes and joined pieces fill the same pixels", () => {
  for (let seed = 0; seed < 100; seed++) {
    const mask = noise(seed);
    const rings = ringsOf(mask);
    assert.deepEqual(filled(rings, mask), mask.pixels);
    const parts = pieces(rings);
    assert.equal(parts.flat().length, rings.length);
    assert.deepEqual(filled(parts.map(keyhole), mask), mask.pixels);
    assert.deepEqual(filled([joined(parts)], mask), mask.pixels);
  }
});

test("thinning leaves corners out, never a ring", () => {
  const ring = Array.from({ length: 200 }, (_, i) => (i % 2 ? Math.floor(i / 4) : Math.floor(i / 4) + 1));
  assert.ok(thinned(ring, 8).length < 60);
  assert.deepEqual(thinned([0, 0, 1, 0, 1, 1, 0, 1], 16), [0, 0, 1, 0, 1, 1, 0, 1]);
  assert.equal(thinned(ring, 0), ring);
});
