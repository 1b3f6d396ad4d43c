import assert from "node:assert/strict";
import { test } from "node:test";
import { load, until } from "./page.mjs";

let pictures = Promise.resolve(); // until then none is decoded
globalThis.createImageBitmap = async () => {
  await pictures;
  return { width: 60, height: 40, close() {} };
};
const { Editor } = await load("labeling/editor.js");
const { Refused } = await load("shared/server.js");

const MASK = { rle: { size: [40, 60], counts: "00" }, score: 0.9, area: 7 };

/** An editor whose server answers an ask for masks when the test says so; `encoded()` lets images become ready. */
const editorOf = () => {
  const asked = []; // {id, x, answer(area), refuse(sentence)}
  const page = { classId: "1" };
  const server = {
    isReady: async () => true,
    reading: (id) => id,
    masks: (id, { points }, signal) => new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      asked.push({
        id,
        x: points.at(-1).x,
        answer: (area = 7) => resolve({ masks: [{ ...MASK, area }], outcome: "miss", model: "m", note: "", serverMs: 1, ms: 1 }),
        refuse: (why) => reject(new Refused(422, { type: "urn:labeling-ground:problem:bad-prompt", detail: why }, null)),
      });
    }),
  };
  const nothing = () => {};
  let encoded = nothing;
  const encoding = new Promise((resolve) => (encoded = resolve));
  const stored = new Map(), maskless = [];
  const editor = new Editor({
    album: { ready: async (image) => ((image.wait ? await encoding : null), (image.state = "ready")), forgotten: nothing, pictureOf: ({ file }) => file },
    server,
    decoder: { masks: async () => null, open: nothing, close: nothing },
    trouble: nothing,
    size: () => ({ width: 600, height: 400 }),
    redraw: nothing,
    paint: nothing,
    changed: nothing,
    keep: (id, work) => stored.set(id, structuredClone(work)),
    classId: () => page.classId,
    maskless: (image) => maskless.push(image.id),
    made: nothing,
  });
  return { editor, asked, page, stored, maskless, encoded };
};

const imageOf = (id, wait = false) => ({ id, file: {}, state: "new", objects: 0, wait });
const areas = ({ objects }) => objects.map(({ area }) => area ?? null);

test("an object that was finished before its mask was there has the class of that moment", async () => {
  const { editor, asked, page } = editorOf();
  await editor.open(imageOf("a"), null);
  editor.click({ x: 3, y: 4 }, 1);
  await until(() => asked.length === 1);
  assert.ok(editor.finish());
  page.classId = "2"; // of the next object
  asked[0].answer();
  await until(() => editor.work.objects[0]?.rle);
  assert.equal(editor.work.objects[0].classId, "1");
  assert.equal(asked.length, 1); // the ask that was on its way served
});

test("two clicks, each finished before its mask is there, are two objects, each with its own mask", async () => {
  const { editor, asked } = editorOf();
  await editor.open(imageOf("a"), null);
  for (const x of [1, 2]) {
    editor.click({ x, y: 4 }, 1);
    editor.finish();
  }
  assert.deepEqual(editor.work.objects.map(({ points }) => points.map(({ x }) => x)), [[1], [2]]);
  await until(() => asked.length === 2);
  asked.find(({ x }) => x === 2).answer(22); // in the other order
  await until(() => areas(editor.work)[1] === 22);
  asked.find(({ x }) => x === 1).answer(11);
  await until(() => areas(editor.work)[0] === 11);
  editor.undo();
  assert.deepEqual(editor.work.points.map(({ x }) => x), [2]);
  editor.redo();
  assert.deepEqual(areas(editor.work), [11, 22]);
});

test("the next image is opened before the mask is there, and before the image is encoded", async () => {
  const { editor, asked, stored, encoded } = editorOf();
  const first = imageOf("a", true);
  editor.open(first, null);
  await until(() => editor.picture);
  editor.click({ x: 1, y: 4 }, 1);
  editor.finish();
  editor.click({ x: 2, y: 4 }, 1);
  editor.finish();
  await editor.open(imageOf("b"), null);
  assert.deepEqual([asked, stored.get("a").objects.length, first.objects], [[], 2, 2]);
  encoded();
  await until(() => asked.length === 2);
  asked.forEach(({ id, x, answer }) => (assert.equal(id, "a"), answer(10 * x)));
  await until(() => stored.get("a").objects.every(({ rle }) => rle));
  assert.deepEqual(areas(stored.get("a")), [10, 20]);
  assert.deepEqual(editor.work.objects, []);
});

test("what was stored without its mask gets the mask, whichever image is open", async () => {
  const { editor, asked, stored, maskless } = editorOf();
  const waits = (pending, x) => ({ id: pending, rle: null, pending, classId: "1", points: [{ x, y: 1, label: 1 }], box: null });
  editor.resume(imageOf("a"), { objects: [waits("p", 1), waits("q", 2), waits("r", 3)], points: [], box: null });
  await editor.open(imageOf("b"), null);
  await until(() => asked.length === 3);
  const clickAt = (place) => asked.find(({ x }) => x === place);
  clickAt(1).answer(5);
  clickAt(2).refuse("Too many points.");
  clickAt(3).answer(0);
  await until(() => stored.get("a")?.objects.every(({ pending }) => !pending));
  assert.deepEqual(stored.get("a").objects.map(({ area, trouble }) => area ?? trouble), [5, { type: "bad-prompt", message: "Too many points." }, ""]);
  assert.deepEqual(maskless, ["a", "a"]);
});

test("hiding, naming and classing objects while a mask is on its way do not lose it", async () => {
  const { editor, asked } = editorOf();
  const done = { id: "o", name: "", classId: "1", ...MASK, points: [], box: null, hidden: false };
  await editor.open(imageOf("a"), { objects: [done], points: [], box: null, editing: null });
  for (const change of [() => editor.hide("o"), () => editor.change("o", { name: "cup" }), () => editor.change("o", { classId: "2" })]) {
    const before = asked.length;
    editor.click({ x: before, y: 4 }, 1);
    await until(() => asked.length === before + 1);
    change();
    asked[before].answer();
    await until(() => editor.work.answer);
    assert.equal(asked.length, before + 1);
  }
});

test("clicks on an image are not asked before the server has it, though it had the one before", async () => {
  const { editor, asked, encoded } = editorOf();
  await editor.open(imageOf("a"), null);
  let decoded;
  pictures = new Promise((resolve) => (decoded = resolve));
  const opening = editor.open(imageOf("b", true), { objects: [], points: [{ x: 1, y: 1, label: 1 }], box: null, editing: null });
  editor.discard(); // there is no picture yet, but the keyboard works
  editor.undo();
  await new Promise((resolve) => setTimeout(resolve, 20));
  decoded();
  await until(() => editor.picture);
  assert.deepEqual(asked, []);
  encoded();
  await opening;
  await until(() => asked.length === 1);
  assert.equal(asked[0].id, "b");
});

test("prompts on a picture of another size than the server's are taken back, and not asked", async () => {
  const { editor, asked, encoded, stored } = editorOf();
  const image = Object.assign(imageOf("a", true), { width: 60, height: 40 });
  editor.open(image, null);
  await until(() => editor.picture);
  editor.click({ x: 1, y: 4 }, 1);
  editor.finish();
  editor.click({ x: 2, y: 4 }, 1);
  await new Promise((resolve) => setTimeout(resolve, 5));
  Object.assign(image, { width: 40, height: 60 });
  await editor.pictured(image, true);
  encoded();
  await until(() => image.state === "ready");
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([asked, editor.work.points, editor.work.objects[0].pending], [[], [], null]);
  assert.match(stored.get("a").objects[0].trouble, /drawn anew/);
});

test("objects that are copied to an image join what was stored there, and undo takes them back when it is open", async () => {
  const { editor, stored } = editorOf();
  const done = { id: "o", name: "", classId: "1", ...MASK, points: [], box: null, hidden: false };
  await editor.open(imageOf("a"), null);
  const next = imageOf("b");
  editor.receive(next, { objects: [done], points: [], box: null }, [{ ...done, id: "copy" }]);
  assert.deepEqual([stored.get("b").objects.map(({ id }) => id), next.objects], [["o", "copy"], 2]);
  await editor.open(next, null);
  editor.undo();
  assert.deepEqual(editor.work.objects.map(({ id }) => id), ["o"]);
});

test("several objects are selected one after the other, taken out again, and forgotten when they are gone", async () => {
  const { editor } = editorOf();
  const done = (id) => ({ id, name: "", classId: "1", ...MASK, points: [], box: null, hidden: false });
  await editor.open(imageOf("a"), { objects: ["a", "b", "c"].map(done), points: [], box: null });
  for (const id of ["a", "b", "c", "b"]) editor.select(id, true);
  assert.deepEqual([editor.selection, editor.selected], [["a", "c"], "c"]);
  editor.remove("c");
  assert.deepEqual(editor.selection, ["a"]);
  editor.click({ x: 1, y: 1 }, 1);
  assert.equal(editor.selected, null);
});
