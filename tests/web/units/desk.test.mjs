import assert from "node:assert/strict";
import { test } from "node:test";
import { load, until } from "./page.mjs";

let pictures = Promise.resolve(); // until then none is decoded
globalThis.createImageBitmap = async () => {
  await pictures;
  return { width: 60, height: 40, close() {} };
};
const { Desk } = await load("desk.js");

const MASK = { rle: { size: [40, 60], counts: "00" }, score: 0.9, area: 7 };

/** A desk whose server answers an ask for masks when the test says so. */
const deskOf = () => {
  const asked = []; // {id, answer()}
  const page = { classId: "1" };
  const server = {
    isReady: async () => true,
    masks: (id, _, signal) => new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      asked.push({ id, answer: () => resolve({ masks: [MASK], outcome: "miss", model: "m", note: "", serverMs: 1, ms: 1 }) });
    }),
  };
  const nothing = () => {};
  const desk = new Desk({
    album: { ready: async () => {}, forgotten: nothing },
    server,
    decoder: { masks: async () => null, open: nothing, close: nothing },
    trouble: nothing,
    size: () => ({ width: 600, height: 400 }),
    redraw: nothing,
    paint: nothing,
    changed: nothing,
    keep: nothing,
    classId: () => page.classId,
  });
  return { desk, asked, page };
};

const imageOf = (id) => ({ id, file: {}, state: "new", objects: 0 });

test("an object that was finished before its mask was there has the class of that moment", async () => {
  const { desk, asked, page } = deskOf();
  await desk.open(imageOf("a"), null);
  desk.click({ x: 3, y: 4 }, 1);
  await until(() => asked.length === 1);
  assert.ok(desk.finish());
  page.classId = "2"; // of the next object
  asked[0].answer();
  await until(() => desk.work.objects.length === 1);
  assert.equal(desk.work.objects[0].classId, "1");
});

test("clicks on an image are not asked before the server has it, though it had the one before", async () => {
  const { desk, asked } = deskOf();
  await desk.open(imageOf("a"), null);
  let decoded;
  pictures = new Promise((resolve) => (decoded = resolve));
  const opening = desk.open(imageOf("b"), { objects: [], points: [{ x: 1, y: 1, label: 1 }], box: null, editing: null });
  desk.discard(); // there is no picture yet, but the keyboard works
  desk.undo();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(asked, []);
  decoded();
  await opening;
  await until(() => asked.length === 1);
  assert.equal(asked[0].id, "b");
});
