import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { dataSet } = await load("export/set.js");

const rle = { size: [2, 2], counts: "04" };
const labeled = [
  { id: "a", names: ["a.png", "copy of a.png"], state: "ready", objects: [{ id: "1", rle }, { id: "2", rle: null, pending: "p" }] },
  { id: "b", names: ["bare.png"], state: "ready", objects: [] },
  { id: "c", names: ["refused.png"], state: "failed", objects: [] },
  { id: "d", names: ["waits.png"], state: "ready", objects: [{ id: "3", rle: null, pending: "q" }] },
];
const shown = ({ images, left }) => [images.map(({ name, objects }) => `${name} ${objects.length}`), left];

test("what nobody labeled, and what was refused, is no background unless somebody says so", () => {
  const left = { mask: 2, bare: 2, refused: 1 };
  for (const format of ["yolo", "coco-rle", "coco-polygons"]) {
    assert.deepEqual(shown(dataSet(labeled, { format, background: false })), [["a.png 1", "copy of a.png 1"], left]);
  }
});

test("as background goes what is bare, not what was refused or waits for its masks", () => {
  const found = shown(dataSet(labeled, { format: "yolo", background: true }));
  assert.deepEqual(found, [["a.png 1", "copy of a.png 1", "bare.png 0"], { mask: 2, bare: 1, refused: 1 }]);
});

test("formats that nobody trains on hold every image", () => {
  const { images, left } = dataSet(labeled, { format: "labelstudio", background: false });
  assert.deepEqual([images.length, left], [5, { mask: 2, bare: 0, refused: 0 }]);
});
