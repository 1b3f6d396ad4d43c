import assert from "node:assert/strict";
import { test } from "node:test";
import { drawn, load } from "./page.mjs";

const { Found, withFound } = await load("labeling/found.js");
const { newsOf } = await load("labeling/everything.js");
const { eachLine } = await load("shared/lines.js");
const { Server, Gone, Refused } = await load("shared/server.js");
const { fromPixels } = await load("shared/rle.js");

const mask = (id, bbox, ...rows) => {
  const { pixels, width, height } = drawn(...rows);
  return { id, rle: fromPixels(pixels, width, height), area: pixels.reduce((sum, on) => sum + on), score: 0.9, bbox, points: [{ x: bbox[0], y: bbox[1], label: 1 }] };
};
const all = mask(1, [0, 0, 4, 3], "####", "####", "####");
const left = mask(2, [0, 0, 2, 2], "##..", "##..", "....");
const right = mask(3, [3, 0, 1, 1], "...#", "....", "....");

/** A found with these masks on an image, and what the editor made of it. */
async function foundOf(...masks) {
  const image = { id: "a" };
  const editor = { image, work: { objects: [] }, changeWork: (_, change) => (editor.work = change(editor.work)) };
  const found = new Found({ editor, classId: () => "7", changed() {} });
  await found.look(async (_, __, see) => {
    see({ made: { source: "everything", model: "m", version: "v" } });
    see({ masks, standing: masks.map(({ id }) => id), progress: { done: 1, of: 4 } });
  });
  return { found, editor };
}
const picked = ({ found }) => [...found.picked].sort();

test("a click picks the smallest mask there, the next click the one around it, the other button none", async () => {
  const on = await foundOf(all, left, right);
  on.found.pick({ x: 1, y: 1 });
  assert.deepEqual(picked(on), [2]);
  on.found.pick({ x: 3, y: 0 });
  assert.deepEqual(picked(on), [2, 3]);
  on.found.pick({ x: 1, y: 1 });
  assert.deepEqual(picked(on), [1, 3]);
  on.found.pick({ x: 1, y: 1 });
  assert.deepEqual(picked(on), [1, 2, 3]); // a part of what is picked can be picked too
  on.found.pick({ x: 3, y: 0 }, 0);
  assert.deepEqual(picked(on), [2]);
  assert.deepEqual(on.found.shown.map(({ id }) => id), [1, 2, 3]);
});

test("a box picks what lies inside", async () => {
  const on = await foundOf(all, left, right);
  on.found.pickAll([0, 0, 2, 3]);
  assert.deepEqual(picked(on), [2]);
  on.found.pickAll();
  assert.deepEqual(picked(on), [1, 2, 3]);
});

test("what is merged is one mask; what is kept is objects in one step, by their model; the rest stays", async () => {
  const on = await foundOf(all, left, right);
  on.found.pickAll([0, 0, 2, 2]);
  on.found.pick({ x: 3, y: 0 });
  on.found.merge();
  const [merged] = [...on.found.picked];
  assert.equal(on.found.masks.get(merged).area, 5);
  assert.deepEqual(on.found.masks.get(merged).bbox, [0, 0, 4, 2]);
  assert.equal(on.found.keep(), true);
  const [object] = on.editor.work.objects;
  assert.deepEqual(object.rle, mask(0, [0, 0], "##.#", "##..", "....").rle);
  assert.deepEqual([object.classId, object.source, object.model, object.version, object.points.length], ["7", "everything", "m", "v", 2]);
  assert.deepEqual([on.found.isOpen, on.found.shown.map(({ id }) => id)], [true, [1]]);
  assert.equal(on.found.keep(), false);
  on.found.pickAll();
  on.found.keep();
  assert.deepEqual([on.found.isOpen, on.editor.work.objects.length], [false, 2]);
});

test("while it looks, what stands changes; what no longer stands is not picked; another image ends it", async () => {
  const editor = { image: { id: "a" } };
  const found = new Found({ editor, classId: () => "1", changed() {} });
  let off = null;
  const looking = found.look(async (_, signal, see) => {
    see({ masks: [all, left], standing: [1, 2] });
    found.pickAll();
    see({ masks: [right], standing: [2, 3] });
    await new Promise((resolve) => signal.addEventListener("abort", () => resolve((off = signal))));
    see({ standing: [1] });
  });
  await Promise.resolve();
  assert.deepEqual([[...found.picked], found.shown.map(({ id }) => id)], [[2], [2, 3]]);
  assert.equal(withFound({ masks: [], colour: "red" }, found).masks.length, 2);
  editor.image = { id: "b" };
  assert.equal(found.isOpen, false);
  assert.deepEqual(withFound({ masks: [] }, found), { masks: [] });
  found.close();
  await looking;
  assert.ok(off.aborted);
  assert.equal(found.masks.size, 0);
});

test("what was merged or kept while it looks does not come back", async () => {
  const on = await foundOf();
  await on.found.look(async (_, __, see) => {
    see({ masks: [all, left, right], standing: [1, 2, 3] });
    on.found.pickAll([0, 0, 2, 2]);
    on.found.keep();
    see({ masks: [{ ...left, area: 3 }], standing: [2, 3] });
  });
  assert.deepEqual(on.found.shown.map(({ id }) => id), [3]);
});

test("what cannot be looked for is thrown, and nothing stays open", async () => {
  const found = new Found({ editor: { image: {} }, classId: () => "1", changed() {} });
  await assert.rejects(found.look(async () => Promise.reject(new Error("no"))), /no/);
  assert.equal(found.isOpen, false);
});

test("lines come as they are, wherever the bytes are cut", async () => {
  const bytes = new TextEncoder().encode('{"a":"é"}\n\n{"b":2}');
  for (let cut = 1; cut < bytes.length; cut++) {
    const seen = [];
    const last = await eachLine(new Response(new Blob([bytes.slice(0, cut), bytes.slice(cut)]).stream()), (line) => seen.push(line));
    assert.deepEqual([seen, last], [[{ a: "é" }, { b: 2 }], { b: 2 }]);
  }
});

test("a stream's problem is a refusal, one that is cut off is the server's absence", async () => {
  const server = new Server({ base: "http://there/", client: "c", key: () => null });
  const answers = (text) => (globalThis.fetch = async () => new Response(text));
  const seen = [];
  answers('{"event":"start"}\n{"event":"end","standing":[]}\n');
  await server.everything("id", undefined, (line) => seen.push(line.event));
  assert.deepEqual(seen, ["start", "end"]);
  answers('{"event":"start"}\n{"event":"problem","status":503,"detail":"full"}\n');
  await assert.rejects(server.everything("id", undefined, () => {}), (error) => error instanceof Refused && error.message === "full" && error.retryAfter === 1);
  answers('{"event":"start"}\n{"event":"progress"}\n');
  await assert.rejects(server.everything("id", undefined, () => {}), Gone);
});

test("lines say what is new, what stands, how far it is, and who made it", () => {
  assert.deepEqual(newsOf({ event: "start", model: "m", model_version: "v" }), { made: { source: "everything", model: "m", version: "v" } });
  const line = { event: "progress", done: 3, points: 9, standing: [5], masks: [{ id: 5, rle: {}, score: 1, area: 2, bbox: [0, 0, 1, 2], stability: 1, point: [3.5, 4.5] }] };
  assert.deepEqual(newsOf(line), { masks: [{ id: 5, rle: {}, score: 1, area: 2, bbox: [0, 0, 1, 2], points: [{ x: 3, y: 4, label: 1 }] }], standing: [5], progress: { done: 3, of: 9 } });
});
