import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { copies, duplicated, merged, nextAt, objectsAt, plainLabel, raised, subtracted, twinOf } = await load("labeling/objects.js");
const { Selection } = await load("labeling/selection.js");
const { tidied } = await load("labeling/attributes.js");
const works = await load("labeling/work.js");
const { areaOf, rleOf } = await load("shared/spans.js");
const { boxed } = await load("shared/shapes.js");

const SIZE = [40, 50];
const masked = (box) => ({ rle: rleOf(boxed(box, SIZE), SIZE), area: areaOf(boxed(box, SIZE)) });
const object = (id, box, more) => ({ id, name: "", classId: "1", hidden: false, points: [{ x: 1, y: 1, label: 1 }], box: null, score: 0.9, ...masked(box), ...more });
const workOf = (...objects) => ({ ...works.EMPTY, objects });
const ids = ({ objects }) => objects.map(({ id }) => id);

test("what lies at a place, the topmost first, but nothing hidden or locked; again is the one below", () => {
  const dot = plainLabel({ kind: "point", classId: "1", points: [{ x: 30, y: 30, label: 1 }] });
  const work = workOf(object("a", [0, 0, 20, 20]), object("b", [10, 10, 30, 30]), object("c", [10, 10, 30, 30], { hidden: true }),
    object("d", [10, 10, 30, 30], { locked: true }), object("e", [0, 0, 9, 9], { rle: null, pending: "p" }), dot);
  assert.deepEqual(objectsAt(work, { x: 15, y: 15 }).map(({ id }) => id), ["b", "a"]);
  assert.deepEqual(objectsAt(work, { x: 5, y: 5 }).map(({ id }) => id), ["a"]);
  assert.deepEqual(objectsAt(work, { x: 32, y: 31 }, 3), [dot]);
  const found = [{ id: "b" }, { id: "a" }];
  assert.deepEqual([null, "b", "a", "z"].map((selected) => nextAt(found, selected)), ["b", "a", "b", "b"]);
  assert.equal(nextAt([], "a"), null);
});

test("merging unites the masks in the first that was selected; subtracting takes the others off it", () => {
  const work = workOf(object("a", [0, 0, 20, 20], { name: "cup" }), object("b", [10, 10, 30, 30]), object("c", [40, 0, 50, 10]));
  const one = merged(work, ["b", "a", "c"]);
  assert.deepEqual([ids(one), one.objects[0].area, one.objects[0].byHand, one.objects[0].points], [["b"], 400 + 400 - 100 + 100, true, []]);
  const less = subtracted(work, ["a", "b"]);
  assert.deepEqual([ids(less), less.objects[0].area, less.objects[0].name, less.objects[1]], [["a", "b", "c"], 300, "cup", work.objects[1]]);
  for (const same of [merged(work, ["a"]), subtracted(work, ["a", "c"]), subtracted(workOf(object("a", [0, 0, 5, 5]), object("b", [0, 0, 9, 9])), ["a", "b"])]) {
    assert.equal(ids(same).includes("a"), true);
  }
  assert.equal(subtracted(work, ["a", "c"]), work); // nothing changes
});

test("copies have ids of their own and are not locked; what waits for its mask is not copied", () => {
  const work = workOf(object("a", [0, 0, 9, 9], { locked: true, attributes: { colour: "red" } }), object("b", [0, 0, 9, 9], { rle: null, pending: "p" }));
  const made = duplicated(work, ["a", "b"]);
  assert.deepEqual([made.work.objects.length, made.ids.length, made.work.objects[2].locked, made.work.objects[2].attributes], [3, 1, false, { colour: "red" }]);
  assert.equal(new Set(ids(made.work)).size, 3);
  assert.deepEqual(copies(work.objects).map(({ area }) => area), [81]);
});

test("the order changes by places, for several together, and not beyond the ends", () => {
  const work = workOf(...["a", "b", "c", "d"].map((id) => object(id, [0, 0, 5, 5])));
  assert.deepEqual(ids(raised(work, ["a"], 1)), ["b", "a", "c", "d"]);
  assert.deepEqual(ids(raised(work, ["a", "b"], 1)), ["c", "a", "b", "d"]);
  assert.deepEqual(ids(raised(work, ["c", "d"], -1)), ["a", "c", "d", "b"]);
  assert.equal(raised(work, ["c", "d"], 1), work);
});

test("two masks that are nearly the same are told, and nothing else", () => {
  const work = workOf(object("a", [0, 0, 20, 20]), object("b", [0, 0, 20, 19]), object("c", [0, 0, 10, 20]), object("d", [20, 20, 40, 40]));
  assert.equal(twinOf(work, "b").id, "a");
  assert.deepEqual([twinOf(work, "c"), twinOf(work, "d"), twinOf(work, "none")], [undefined, undefined, undefined]);
});

/** The commands on a page with these objects, which are selected as told. */
function selectionOf(work, selection = []) {
  const told = [], clicks = [];
  const editor = {
    work, selection, masksShown: true, view: { scale: 1 }, image: { width: 50, height: 40 },
    get selected() { return this.selection.at(-1) ?? null; },
    click: (pixel, label) => clicks.push([pixel.x, label]),
    box() {},
    apply(change) { this.work = change(this.work); },
    select(id, adds) { this.selection = adds ? [...this.selection, id] : [id].filter(Boolean); },
  };
  const found = { isOpen: false };
  const page = { editor, found, tool: "plus", choices: { classId: "2", classes: [{ id: "1", name: "cup" }] }, tell: (text) => told.push(text) };
  return { page, editor, told, clicks, commands: new Selection(page) };
}

const plain = { shift: false, isOther: false };

test("a click selects an object, Alt begins one on top, and while one is in the making every click is its own", () => {
  const { page, editor, clicks, commands } = selectionOf(workOf(object("a", [0, 0, 20, 20]), object("b", [10, 10, 30, 30])));
  commands.click({ x: 15, y: 15 }, 1, plain);
  assert.deepEqual(editor.selection, ["b"]);
  commands.click({ x: 15, y: 15 }, 1, plain);
  assert.deepEqual(editor.selection, ["a"]);
  commands.click({ x: 25, y: 25 }, 1, { ...plain, shift: true });
  assert.deepEqual(editor.selection, ["a", "b"]);
  commands.click({ x: 15, y: 15 }, 0, { ...plain, isOther: true });
  commands.click({ x: 45, y: 35 }, 1, plain);
  commands.click({ x: 44, y: 35 }, 0, { ...plain, isOther: true });
  assert.deepEqual(clicks, [[15, 1], [45, 1], [44, 0]]);
  editor.work = works.withPoint(editor.work, { x: 1, y: 1, label: 1 });
  commands.click({ x: 15, y: 15 }, 0, plain);
  page.tool = "minus";
  editor.work = workOf(object("a", [0, 0, 20, 20]));
  commands.click({ x: 16, y: 15 }, 0, plain);
  assert.deepEqual(clicks.slice(3), [[15, 0], [16, 0]]);
});

test("boxes and points are labels without a model, in the class that is chosen", () => {
  const { page, editor, commands } = selectionOf(workOf());
  page.tool = "plain-box";
  commands.box([5, 5, 15, 25]);
  page.tool = "point";
  commands.click({ x: 7, y: 8 }, 1, plain);
  assert.deepEqual(editor.work.objects.map(({ kind, area, classId, byHand }) => [kind, area, classId, byHand]),
    [["box", 200, "2", true], ["point", undefined, "2", true]]);
  assert.deepEqual(editor.selection, [editor.work.objects[1].id]);
});

test("what is locked is not changed, deleted or merged, until it is unlocked", () => {
  const { editor, told, commands } = selectionOf(workOf(object("a", [0, 0, 20, 20]), object("b", [10, 10, 30, 30])), ["a", "b"]);
  commands.lock();
  assert.deepEqual(editor.work.objects.map(({ locked }) => locked), [true, true]);
  const before = editor.work;
  for (const run of [() => commands.remove(), () => commands.merge(), () => commands.subtract(), () => commands.classify("2")]) run();
  assert.deepEqual([editor.work, told.length], [before, 4]);
  commands.lock();
  commands.classify("2");
  commands.describe("colour", "red");
  commands.describe("full", 3);
  commands.describe("colour", "");
  assert.deepEqual(editor.work.objects.map(({ classId, attributes }) => [classId, attributes]), [["2", { full: 3 }], ["2", { full: 3 }]]);
  commands.remove();
  assert.deepEqual(editor.work.objects, []);
});

test("attributes are kept that can be filled in", () => {
  assert.deepEqual(tidied([
    { name: " colour ", kind: "choice", options: [" red", "", "white ", "red"] },
    { name: "", kind: "text" },
    { name: "size", kind: "choice", options: ["one"] },
    { name: "full", kind: "number", options: [""] },
    { name: "full", kind: "text" },
  ]), [{ name: "colour", kind: "choice", options: ["red", "white"] }, { name: "full", kind: "number" }]);
});

test("copies go to the next image, if that has the same size", async () => {
  const { page, editor, told, commands } = selectionOf(workOf(object("a", [0, 0, 20, 20]), object("b", [10, 10, 30, 30])), ["a"]);
  const received = [];
  Object.assign(editor, { receive: (image, saved, objects) => received.push([image.names[0], saved, objects.map(({ id, area }) => [id === "a", area])]) });
  const next = { id: "n", names: ["next.jpg"], width: 50, height: 40 };
  Object.assign(page, { workflow: { ahead: [next] }, storage: { get: async () => "stored" } });
  await commands.copyOn();
  next.width = 51;
  await commands.copyOn();
  page.workflow.ahead = [];
  await commands.copyOn();
  assert.deepEqual([received, told.length], [[["next.jpg", "stored", [[false, 400]]]], 2]);
});
