import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { labeled } = await load("labeling/labeled.js");
const works = await load("labeling/work.js");

const image = (id) => ({ id, names: [`${id}.jpg`], width: 9, height: 9, state: "ready", file: {} });
const object = (id, more) => ({ id, rle: { size: [9, 9], counts: "Q2" }, ...more });

test("what is on its way to a mask and what is not finished is counted, in seen images as in stored ones", async () => {
  const stored = { b: { ...works.EMPTY, objects: [object("p", { rle: null, pending: "x" })], box: [1, 2, 3, 4] } };
  const seen = { a: { ...works.EMPTY, objects: [object("o")] } };
  const page = {
    album: { images: ["a", "b", "c"].map(image), pictureOf: ({ file }) => file },
    editor: { workOf: (id) => seen[id], image: null },
    storage: { get: async (_store, id) => stored[id] },
  };
  const found = await labeled(page);
  assert.deepEqual(found.map(({ id, objects, unfinished }) => [id, objects.length, unfinished]), [["a", 1, 0], ["b", 1, 2], ["c", 0, 0]]);
  assert.deepEqual(await labeled(page, true), []);
});
