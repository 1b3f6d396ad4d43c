import assert from "node:assert/strict";
import { test } from "node:test";
import { drawn, load, noise } from "./page.mjs";

const { cutOut, decodeCounts, encodeCounts, fromPixels, toPixels } = await load("shared/rle.js");

test("counts that pycocotools wrote are read and written", () => {
  // pycocotools.mask.encode of a 4 × 5 image (rows × columns) with the middle 2 × 3 set
  const rle = fromPixels(drawn(".....", ".###.", ".###.", ".....").pixels, 5, 4);
  assert.deepEqual(decodeCounts(rle.counts), [5, 2, 2, 2, 2, 2, 5]);
  assert.equal(rle.counts, "5220003");
});

test("large and falling counts survive", () => {
  for (const runs of [[0, 12_000_000], [7], [5, 1, 4_000_000, 3, 2, 1, 1_000_000, 40, 15, 16, 17]]) {
    assert.deepEqual(decodeCounts(encodeCounts(runs)), runs);
  }
});

test("what is no RLE is refused", () => {
  assert.throws(() => decodeCounts("é"));
});

test("masks come back pixel by pixel, and cut out", () => {
  for (let seed = 0; seed < 50; seed++) {
    const { pixels, width, height } = noise(seed);
    const rle = fromPixels(pixels, width, height);
    assert.deepEqual(toPixels(rle), pixels);
    const cut = cutOut(rle);
    assert.equal(cut.area, pixels.reduce((sum, value) => sum + value, 0));
    const whole = new Uint8Array(width * height);
    for (let y = 0; y < cut.height; y++) {
      for (let x = 0; x < cut.width; x++) whole[(y + cut.y) * width + x + cut.x] = cut.pixels[y * cut.width + x];
    }
    assert.deepEqual(whole, pixels);
  }
});

test("a cut is as small as its mask", () => {
  const { pixels, width, height } = drawn("......", "...#..", "..##..", "......");
  const cut = cutOut(fromPixels(pixels, width, height));
  assert.deepEqual([cut.x, cut.y, cut.width, cut.height], [2, 1, 2, 2]);
  assert.deepEqual([...cut.pixels], [0, 1, 1, 1]);
  assert.equal(cutOut(fromPixels(new Uint8Array(6), 3, 2)).area, 0);
});
