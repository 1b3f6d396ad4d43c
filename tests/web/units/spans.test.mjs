import assert from "node:assert/strict";
import { test } from "node:test";
import { drawn, load, noise, random } from "./page.mjs";

const { fromPixels, toPixels } = await load("shared/rle.js");
const { areaOf, boxOf, common, covers, rleOf, spansOf, spansOfStretches, united, without } = await load("shared/spans.js");
const { boxed, filled, stroke } = await load("shared/shapes.js");
const { piecesOf, smoothed, withoutHoles, withoutIslands } = await load("shared/mend.js");
const { area2, traceSpans } = await load("shared/outline.js");

const spansFrom = ({ pixels, width, height }) => spansOf(fromPixels(pixels, width, height));
const shown = (spans, [height, width]) => {
  const pixels = toPixels(rleOf(spans, [height, width]));
  return Array.from({ length: height }, (_, y) => Array.from(pixels.subarray(y * width, (y + 1) * width), (on) => (on ? "#" : ".")).join(""));
};

test("masks are united, cut and compared as their pixels are", () => {
  for (let seed = 0; seed < 60; seed++) {
    const [a, b] = [noise(seed), noise(seed + 1000)];
    const size = [a.height, a.width];
    const [inA, inB] = [spansFrom(a), spansFrom(b)];
    const pixels = (spans) => toPixels(rleOf(spans, size));
    assert.deepEqual(pixels(inA), a.pixels);
    assert.equal(rleOf(inA, size).counts, fromPixels(a.pixels, a.width, a.height).counts); // the one text of a mask
    assert.deepEqual(pixels(united(inA, inB)), a.pixels.map((on, i) => on | b.pixels[i]));
    assert.deepEqual(pixels(without(inA, inB)), a.pixels.map((on, i) => on & (1 - b.pixels[i])));
    assert.deepEqual(pixels(common(inA, inB)), a.pixels.map((on, i) => on & b.pixels[i]));
    assert.equal(areaOf(inA), a.pixels.reduce((sum, on) => sum + on, 0));
    for (let y = 0; y < a.height; y++) for (let x = 0; x < a.width; x++) {
      assert.equal(covers(inA, a.height, { x, y }), a.pixels[y * a.width + x] === 1);
    }
  }
  for (const text of ["....", "####"]) {
    const mask = drawn(text, text);
    assert.equal(rleOf(spansFrom(mask), [2, 4]).counts, fromPixels(mask.pixels, 4, 2).counts);
  }
});

test("the box around a mask, and stretches that overlap and reach out of the image", () => {
  assert.deepEqual(boxOf(spansFrom(drawn(".....", "..#..", "...#.")), 3), [2, 1, 4, 3]);
  assert.equal(boxOf([], 3), null);
  const spans = spansOfStretches([2, 1, 9, -1, 0, 2, 0, -5, 1, 2, 0, 2, 7, 0, 2], [3, 4]);
  assert.deepEqual(shown(spans, [3, 4]), ["#.#.", "..#.", "..#."]);
});

test("a brush covers what is within its radius, on its way as at its ends", () => {
  const size = [40, 60], next = random(3);
  for (let round = 0; round < 40; round++) {
    const radius = 0.5 + 6 * next();
    const points = Array.from({ length: 1 + Math.floor(4 * next()) }, () => ({ x: 60 * next(), y: 40 * next() }));
    const pixels = toPixels(rleOf(stroke(points, radius, size), size));
    for (let y = 0; y < 40; y++) for (let x = 0; x < 60; x++) {
      const far = Math.min(...points.map((p, i) => apart(points[Math.max(0, i - 1)], p, x + 0.5, y + 0.5)));
      if (Math.abs(far - radius) > 1e-9) {
        const isUnder = points.some((p) => Math.floor(p.x) === x && Math.floor(p.y) === y);
        assert.equal(pixels[y * 60 + x] === 1, far < radius || isUnder, `${x} ${y} ${far} ${radius}`);
      }
    }
  }
  assert.deepEqual(shown(stroke([{ x: 1.9, y: 1.1 }], 0.1, [3, 4]), [3, 4]), ["....", ".#..", "...."]);
});

function apart(a, b, x, y) {
  const long = (b.x - a.x) ** 2 + (b.y - a.y) ** 2;
  const share = long ? Math.min(1, Math.max(0, ((x - a.x) * (b.x - a.x) + (y - a.y) * (b.y - a.y)) / long)) : 0;
  return Math.hypot(x - a.x - share * (b.x - a.x), y - a.y - share * (b.y - a.y));
}

test("what is inside an outline, by pixels' middles; an outline of a mask gives the mask", () => {
  assert.deepEqual(shown(boxed([1, 0, 3, 2], [3, 4]), [3, 4]), [".##.", ".##.", "...."]);
  assert.deepEqual(shown(filled([[0, 0, 4, 0, 0, 4]], [4, 4]), [4, 4]), ["###.", "##..", "#...", "...."]);
  assert.deepEqual(shown(filled([[-9, -9, 9, -9, 9, 9, -9, 9], [1, 1, 3, 1, 3, 2, 1, 2]], [3, 4]), [3, 4]), ["####", "#..#", "####"]);
  for (let seed = 0; seed < 100; seed++) {
    const mask = noise(seed), size = [mask.height, mask.width], spans = spansFrom(mask);
    const rings = traceSpans(spans, size);
    assert.deepEqual(filled(rings, size), spans);
    assert.equal(rings.reduce((sum, ring) => sum + area2(ring), 0), 2 * areaOf(spans));
  }
});

test("holes are filled, but no bays, and islands in them go with them", () => {
  const mask = drawn("######..", "#....#.#", "#.##.##.", "#....#..", "####.#..");
  const size = [5, 8];
  assert.deepEqual(shown(withoutHoles(spansFrom(mask), size), size), ["######..", "#....#.#", "#.##.##.", "#....#..", "####.#.."]);
  const closed = drawn("######..", "#....#.#", "#.##.##.", "#....#..", "######..");
  assert.deepEqual(shown(withoutHoles(spansFrom(closed), size), size), ["######..", "######.#", "#######.", "######..", "######.."]);
});

test("small islands go, the largest stays however small it is", () => {
  const spans = spansFrom(drawn("##..#", "##...", "...#.", "..##."));
  assert.deepEqual(shown(withoutIslands(spans, [4, 5], 3), [4, 5]), ["##...", "##...", "...#.", "..##."]);
  assert.deepEqual(shown(withoutIslands(spans, [4, 5], 99), [4, 5]), ["##...", "##...", ".....", "....."]);
  assert.equal(withoutIslands(spans, [4, 5], 1), spans);
});

test("pieces are what flooding finds, with corners and without", () => {
  for (let seed = 0; seed < 60; seed++) {
    const mask = noise(seed, 17, 11);
    for (const byCorners of [false, true]) {
      const found = piecesOf(spansFrom(mask), mask.height, { byCorners }).map(({ area }) => area);
      assert.deepEqual(found.sort((a, b) => a - b), flooded(mask, byCorners).sort((a, b) => a - b));
    }
  }
});

function flooded({ pixels, width, height }, byCorners) {
  const left = pixels.slice(), areas = [];
  for (let first = 0; first < left.length; first++) {
    if (!left[first]) continue;
    const open = [first];
    let area = 0;
    left[first] = 0;
    while (open.length) {
      const at = open.pop(), x = at % width, y = Math.floor(at / width);
      area++;
      for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++) {
        const to = (y + dy) * width + x + dx;
        if ((dx && dy && !byCorners) || x + dx < 0 || x + dx >= width || y + dy < 0 || y + dy >= height || !left[to]) continue;
        left[to] = 0;
        open.push(to);
      }
    }
    areas.push(area);
  }
  return areas;
}

test("a smoothed outline is shorter, and the mask nearly as large; what is tiny stays", () => {
  const size = [200, 200], next = random(5), ring = [];
  for (let i = 0; i < 360; i++) {
    const far = 70 + 6 * next();
    ring.push(100 + far * Math.cos((i * Math.PI) / 180), 100 + far * Math.sin((i * Math.PI) / 180));
  }
  const rough = filled([ring], size), smooth = smoothed(rough, size, 4);
  const length = (spans) => traceSpans(spans, size).flat().length;
  assert.ok(length(smooth) < 0.8 * length(rough), `${length(smooth)} ${length(rough)}`);
  assert.ok(Math.abs(areaOf(smooth) / areaOf(rough) - 1) < 0.02);
  const dot = boxed([5, 5, 7, 7], size);
  assert.deepEqual(smoothed(dot, size, 4), dot);
});
