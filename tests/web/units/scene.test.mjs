import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { sceneOf } = await load("labeling/scene.js");
const works = await load("labeling/work.js");

const choices = { classes: [{ id: "1", colour: "red" }, { id: "2", colour: "blue" }], classId: "2", opacity: 40 };
const object = (id, more) => ({ id, classId: "1", hidden: false, rle: `rle ${id}`, points: [], box: null, ...more });
const editorOf = (work, more) => ({ masksShown: true, selection: [], stale: null, preview: null, boxing: null, work, ...more });
const seen = ({ masks }) => masks.map(({ rle, colour, strong }) => [rle, colour, strong]);

test("finished objects have the colour of their class; hidden ones, and all while masks are off, are not seen", () => {
  const work = { ...works.EMPTY, objects: [object("a"), object("b", { classId: "2" }), object("c", { hidden: true }), object("d", { classId: "?" })] };
  const found = sceneOf(editorOf(work, { selection: ["b"] }), choices);
  assert.deepEqual(seen(found), [["rle a", "red", false], ["rle b", "blue", true], ["rle d", "#888888", false]]);
  assert.deepEqual(seen(sceneOf(editorOf(work, { masksShown: false }), choices)), []);
});

test("objects have colours of their own, outlines only, and the names of the list on the image, as chosen", () => {
  const rle = { size: [4, 5], counts: "91h0" };
  const work = { ...works.EMPTY, objects: [object("a", { rle }), object("b", { rle, name: "mug" }), object("c", { kind: "point", rle: null, points: [{ x: 3, y: 2, label: 1 }] })] };
  const looks = { ...choices, classes: [{ id: "1", colour: "red", name: "cup" }], colours: "object", outline: true, labels: true };
  const { masks, labels, dots, points } = sceneOf(editorOf(work), looks);
  assert.equal(new Set(masks.map(({ colour }) => colour)).size, 2);
  assert.deepEqual(masks.map(({ opacity }) => opacity), [0, 0]);
  assert.deepEqual(labels.map(({ text }) => text), ["cup 1", "mug", "cup 3"]);
  assert.deepEqual([labels[2].x, labels[2].y, dots.length, points], [3, 2, 1, []]);
  assert.deepEqual(sceneOf(editorOf(work), { ...looks, labels: false }).labels, []);
});

test("the object in the making is seen over all, in the colour of its class to be, and what is edited only once", () => {
  const answer = { masks: [{ rle: "new", score: 1, area: 1 }] };
  const work = { ...works.EMPTY, objects: [object("a"), object("b")], points: [{ x: 1, y: 2, label: 1 }], answer };
  assert.deepEqual(seen(sceneOf(editorOf(work), choices)).at(-1), ["new", "blue", true]);
  assert.deepEqual(seen(sceneOf(editorOf({ ...work, editing: "a" }), choices)), [["rle b", "red", false], ["new", "red", true]]);
});

test("until there is an answer the mask before it, or the preview, is dashed", () => {
  const [stale] = sceneOf(editorOf(works.EMPTY, { stale: "old", preview: { rle: "under" } }), choices).masks;
  assert.deepEqual([stale.rle, stale.dashed], ["old", true]);
  const [preview] = sceneOf(editorOf(works.EMPTY, { preview: { rle: "under" } }), choices).masks;
  assert.equal(preview.rle, "under");
});

test("what was finished before its mask was there shows its clicks and its box", () => {
  const waits = object("a", { rle: null, pending: "p", points: [{ x: 5, y: 6, label: 1 }], box: [1, 2, 3, 4] });
  const work = { ...works.EMPTY, objects: [waits], points: [{ x: 7, y: 8, label: 0 }] };
  const { points, boxes, masks } = sceneOf(editorOf(work, { boxing: [0, 0, 9, 9] }), choices);
  assert.deepEqual(points.map(({ x }) => x), [5, 7]);
  assert.deepEqual([boxes, masks], [[[1, 2, 3, 4], [0, 0, 9, 9]], []]);
});
