import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { MOST, boxBetween, fit, pan, pixelAt, toImage, toScreen, zoom } = await load("labeling/view.js");

const image = { width: 4000, height: 3000 };
const canvas = { width: 900, height: 700 };
const near = (a, b) => assert.ok(Math.abs(a - b) < 1e-6, `${a} is not ${b}`);

test("a fitted image is whole, in the middle, and not under the bar", () => {
  const view = fit(image, canvas);
  const from = toScreen(view, { x: 0, y: 0 }), to = toScreen(view, { x: 4000, y: 3000 });
  assert.ok(from.x > 0 && from.y > 0 && to.x < 900 && to.y < 700 - 60);
  near(from.x, 900 - to.x);
  assert.equal(fit({ width: 10, height: 10 }, canvas).scale, 4);
});

test("zooming keeps the point under the pointer", () => {
  let view = fit(image, canvas);
  const at = { x: 200, y: 300 };
  const before = toImage(view, at);
  for (let i = 0; i < 5; i++) view = zoom(view, at, 1.5, image, canvas);
  near(toImage(view, at).x, before.x);
  near(toImage(view, at).y, before.y);
});

test("zoom has ends, and the image never leaves the canvas", () => {
  let view = fit(image, canvas);
  assert.equal(zoom(view, { x: 1, y: 1 }, 1e9, image, canvas).scale, MOST);
  assert.ok(zoom(view, { x: 1, y: 1 }, 1e-9, image, canvas).scale > 0.05);
  view = pan(view, 1e6, -1e6, image, canvas);
  const from = toScreen(view, { x: 0, y: 0 }), to = toScreen(view, { x: 4000, y: 3000 });
  assert.ok(from.x < 900 && to.y > 0);
});

test("clicks are whole pixels inside the image", () => {
  assert.deepEqual(pixelAt({ x: 3999.99, y: 0 }, image), { x: 3999, y: 0 });
  assert.equal(pixelAt({ x: 4000, y: 0 }, image), null);
  assert.equal(pixelAt({ x: -0.1, y: 5 }, image), null);
});

test("a box may be drawn from any corner and over the edge", () => {
  assert.deepEqual(boxBetween({ x: 50, y: 80 }, { x: -10, y: 20.4 }, image), [0, 20, 50, 80]);
  assert.equal(boxBetween({ x: 50, y: 80 }, { x: 51, y: 200 }, image), null);
});
