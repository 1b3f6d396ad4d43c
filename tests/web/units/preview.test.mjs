import assert from "node:assert/strict";
import { test } from "node:test";
import { load, until } from "./page.mjs";

const { Preview } = await load("labeling/preview.js");

const previewOf = () => {
  const asked = [];
  const server = { masks: (id, { points: [{ x }] }, signal) => new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
    asked.push({ id, x, answer: () => resolve({ masks: [{ rle: `mask at ${x}` }] }) });
  }) };
  return { asked, preview: new Preview({ server, decoder: { masks: async () => null }, redraw: () => {}, rest: 0 }) };
};
const image = { id: "a" };

test("the mask under the pointer is shown until the pointer leaves", async () => {
  const { asked, preview } = previewOf();
  preview.hover({ x: 1, y: 1 }, image);
  await until(() => asked.length === 1);
  asked[0].answer();
  await until(() => preview.shown !== null);
  assert.deepEqual(preview.shown, { rle: "mask at 1" });
  preview.hover(null, image);
  assert.equal(preview.shown, null);
});

test("of two pixels the last one's mask is shown, whatever comes late", async () => {
  const { asked, preview } = previewOf();
  preview.hover({ x: 1, y: 1 }, image);
  await until(() => asked.length === 1);
  preview.hover({ x: 2, y: 1 }, image);
  await until(() => asked.length === 2);
  asked[0].answer();
  asked[1].answer();
  await until(() => preview.shown !== null);
  assert.deepEqual(preview.shown, { rle: "mask at 2" });
});

test("nothing is asked for where no preview is wanted", async () => {
  const { asked, preview } = previewOf();
  preview.hover({ x: 1, y: 1 }, null);
  preview.hover({ x: 2, y: 1 }, image);
  await until(() => asked.length === 1);
  assert.equal(asked[0].x, 2);
});
