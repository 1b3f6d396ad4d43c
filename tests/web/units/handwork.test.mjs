import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { Handwork } = await load("labeling/handwork.js");
const corners = await load("labeling/corners.js");
const works = await load("labeling/work.js");
const { areaOf, covers, rleOf, spansOf } = await load("shared/spans.js");
const { boxed } = await load("shared/shapes.js");

const SIZE = [80, 100];
const square = (x0, y0, x1, y1) => {
  const spans = boxed([x0, y0, x1, y1], SIZE);
  return { rle: rleOf(spans, SIZE), area: areaOf(spans) };
};
const object = (id, mask, more) => ({ id, classId: "1", points: [], box: null, score: 0.9, ...mask, ...more });

/** A hand on an image of 100 × 80 pixels that is drawn at twice its size. */
function handOf(work = works.EMPTY, { tool = "brush", selected = null } = {}) {
  const page = { tool }, told = [];
  const editor = {
    work, selected, image: { width: 100, height: 80 }, picture: {}, view: { scale: 2, x: 0, y: 0 }, cross: null,
    placeAt: ({ x, y }) => ({ x: x / 2, y: y / 2 }),
    redraw() {}, changed() {},
    reshape(id, mask) {
      this.work = id === null ? works.withMask(this.work, mask) : works.reshaped(this.work, id, mask);
    },
    movePoint(at, pixel) {
      this.work = works.withPointMoved(this.work, at, pixel);
    },
    removePoint(at) {
      this.work = works.withoutPoint(this.work, at);
    },
  };
  const choices = { brush: 10, least: 100 };
  const hand = new Handwork({ editor, choices, choose: (change) => Object.assign(choices, change), tool: () => page.tool, tell: (text) => told.push(text) });
  const drag = (places, held = {}) => {
    const [first, ...rest] = places.map(([x, y]) => ({ x: 2 * x, y: 2 * y }));
    const taken = hand.begin(first, { shift: false, isOther: false, ...held });
    for (const place of rest) hand.move(place, { shift: false, ...held });
    hand.end();
    return taken;
  };
  const inMask = (mask, x, y) => covers(spansOf(mask.rle), SIZE[0], { x, y });
  return { hand, editor, page, choices, told, drag, inMask };
}

test("a brush begins an object, adds to the one in the making, and to a selected one; the other button erases", () => {
  const { hand, editor, drag, inMask } = handOf();
  assert.ok(drag([[20, 20], [60, 20]]));
  assert.ok(inMask(works.chosen(editor.work), 40, 24));
  assert.ok(!inMask(works.chosen(editor.work), 40, 26));
  drag([[40, 5], [40, 60]], { isOther: true });
  assert.ok(!inMask(works.chosen(editor.work), 40, 20));
  const made = works.finished(editor.work, { id: "a", classId: "1" });
  assert.deepEqual([made.objects[0].byHand, made.objects[0].points], [true, []]);
  Object.assign(editor, { work: made, selected: "a" });
  drag([[80, 70]]);
  assert.ok(inMask(editor.work.objects[0], 80, 70));
  assert.equal(works.hasPrompt(editor.work), false);
  assert.equal(hand.seen.circle.radius, 5);
});

test("with Shift strokes are straight, and go on where the last one ended", () => {
  const { editor, drag, inMask } = handOf();
  drag([[10, 10], [50, 60], [90, 10]], { shift: true }); // a line along the top, however the hand went
  const mask = () => works.chosen(editor.work);
  assert.ok(inMask(mask(), 50, 10));
  assert.ok(!inMask(mask(), 50, 50));
  drag([[90, 70]], { shift: true });
  assert.ok(inMask(mask(), 90, 40));
});

test("a lasso adds what is inside, and cuts it off", () => {
  const { editor, page, drag, inMask } = handOf(works.EMPTY, { tool: "lasso" });
  drag([[10, 10], [50, 10], [50, 50], [10, 50]]);
  assert.equal(works.chosen(editor.work).area, 1600);
  page.tool = "scissors";
  drag([[20, 20], [60, 20], [60, 30], [20, 30]]);
  assert.deepEqual([works.chosen(editor.work).area, inMask(works.chosen(editor.work), 30, 25)], [1300, false]);
});

test("a polygon is closed by Enter or at its first corner, has its corners, and lets them be dragged, added and deleted", () => {
  const { hand, editor, drag } = handOf(works.EMPTY, { tool: "polygon" });
  for (const place of [[10, 10], [50, 10], [50, 50], [70, 70]]) drag([place]);
  assert.ok(hand.takeBack());
  drag([[10, 50]]);
  assert.equal(works.hasPrompt(editor.work), false);
  drag([[11, 11]]); // near enough
  const mask = () => works.chosen(editor.work);
  assert.deepEqual([mask().area, mask().rings], [1600, [[10, 10, 50, 10, 50, 50, 10, 50]]]);
  assert.deepEqual(works.finished(editor.work, { id: "a", classId: "1" }).objects[0].rings, mask().rings);
  drag([[50, 50], [60, 60], [50, 60]]);
  assert.deepEqual(mask().rings, [[10, 10, 50, 10, 50, 60, 10, 50]]);
  drag([[30, 10], [30, 0]]); // a new corner on a side
  assert.deepEqual(mask().rings, [[10, 10, 30, 0, 50, 10, 50, 60, 10, 50]]);
  drag([[30, 0]], { isOther: true });
  assert.deepEqual(mask().rings, [[10, 10, 50, 10, 50, 60, 10, 50]]);
  hand.pointer = { x: 10, y: 50 };
  assert.ok(hand.removeHere());
  assert.deepEqual(mask().rings, [[10, 10, 50, 10, 50, 60]]);
  drag([[90, 40]]);
  assert.ok(hand.giveUp() && !hand.giveUp() && !hand.close());
});

test("a double click closes a polygon at its last corner, and makes no corner twice before there are three", () => {
  const { hand, editor, drag } = handOf(works.EMPTY, { tool: "polygon" });
  for (const place of [[10, 10], [10, 10], [50, 10], [51, 10]]) drag([place]);
  assert.deepEqual(hand.draft, [10, 10, 50, 10]);
  for (const place of [[50, 50], [10, 50], [10, 51]]) drag([place]);
  assert.equal(hand.draft, null);
  assert.deepEqual(works.chosen(editor.work).rings, [[10, 10, 50, 10, 50, 50, 10, 50]]);
});

test("a mask of a model is taken by its outline's corners, few of them, and holes stay holes", () => {
  const work = { ...works.EMPTY, objects: [object("a", square(10, 10, 60, 60), { points: [{ x: 20, y: 20, label: 1 }] })] };
  const { hand, editor, page, drag, inMask } = handOf(work, { tool: "eraser", selected: "a" });
  drag([[30, 30]]);
  page.tool = "polygon";
  const { rings } = hand.seen;
  assert.deepEqual([rings.length, rings.flat().length < 40], [2, true]);
  drag([[60, 60], [70, 70]]);
  assert.ok(inMask(editor.work.objects[0], 64, 64) && !inMask(editor.work.objects[0], 30, 30));
  page.tool = "brush";
  drag([[80, 20]]); // what is painted on is no polygon any more
  assert.equal("rings" in editor.work.objects[0], false);
});

test("holes, islands and rough edges are mended on the selected object; what changes nothing is no step", () => {
  const ring = spansOf(square(10, 10, 60, 60).rle);
  const work = { ...works.EMPTY, objects: [object("a", { rle: rleOf(ring, SIZE), area: 2500 })] };
  const { hand, editor, page, drag } = handOf(work, { selected: "a" });
  const before = editor.work;
  hand.fillHoles();
  hand.dropIslands();
  assert.equal(editor.work, before);
  page.tool = "eraser";
  drag([[30, 30]]);
  page.tool = "brush";
  drag([[85, 70]]);
  hand.fillHoles();
  hand.dropIslands();
  assert.deepEqual(editor.work.objects[0].rle, before.objects[0].rle);
  hand.smooth();
  assert.ok(editor.work.objects[0].area < 2500 && editor.work.objects[0].area > 2400);
});

test("what has no mask yet or is locked is not fixed, and why is told; nothing is erased to nothing", () => {
  const pending = { ...works.EMPTY, objects: [object("a", { rle: null }, { pending: "p" }), object("b", square(0, 0, 9, 9), { locked: true }), object("c", square(20, 20, 24, 24))] };
  for (const [work, selected] of [[works.withPoint(works.EMPTY, { x: 1, y: 1, label: 1 }), null], [pending, "a"], [pending, "b"]]) {
    const { hand, editor, told, drag } = handOf(work, { selected });
    assert.ok(drag([[20, 20], [60, 20]])); // and is no click either
    assert.deepEqual([editor.work, told.length > 0, hand.drag], [work, true, null]);
  }
  const { editor, told, drag } = handOf(pending, { tool: "eraser", selected: "c" });
  drag([[22, 22]]);
  assert.deepEqual([editor.work, told.length], [pending, 1]);
});

test("a click is dragged to another pixel, or removed by itself", () => {
  const work = works.withPoint(works.withPoint(works.EMPTY, { x: 10, y: 10, label: 1 }), { x: 50, y: 50, label: 0 });
  const { hand, editor, drag } = handOf(work, { tool: "plus" });
  assert.equal(drag([[30, 30]]), false); // nothing is there to take hold of
  assert.ok(drag([[12, 11], [20, 25], [99.9, 200]]));
  assert.deepEqual(editor.work.points, [{ x: 99, y: 79, label: 1 }, { x: 50, y: 50, label: 0 }]);
  assert.ok(drag([[50, 50]], { isOther: true }));
  assert.deepEqual(editor.work.points, [{ x: 99, y: 79, label: 1 }]);
  editor.work = work;
  hand.begin({ x: 100, y: 100 }, { isOther: false, isTouch: true });
  hand.press();
  hand.end();
  assert.equal(editor.work.points.length, 1);
  hand.pointer = { x: 11, y: 9 };
  assert.ok(hand.removeHere());
  assert.equal(works.hasPrompt(editor.work), false);
});

test("the brush grows and shrinks by steps that are felt, within bounds, and only while it is in hand", () => {
  const { hand, choices, page } = handOf();
  assert.ok(hand.resize(1));
  assert.equal(choices.brush, 12);
  for (let n = 0; n < 60; n++) hand.resize(-1);
  assert.equal(choices.brush, 1);
  hand.resize(1);
  assert.equal(choices.brush, 2);
  for (let n = 0; n < 60; n++) hand.resize(1);
  assert.equal(choices.brush, 400);
  page.tool = "lasso";
  assert.equal(hand.resize(1), false);
});

test("the corner and the side that are nearest", () => {
  const rings = [[0, 0, 10, 0, 10, 10, 0, 10], [20, 20, 30, 20, 25, 30]];
  assert.deepEqual(corners.cornerAt(rings, { x: 9, y: 1 }, 3), { ring: 0, at: 2 });
  assert.equal(corners.cornerAt(rings, { x: 5, y: 5 }, 3), null);
  assert.deepEqual(corners.sideAt(rings, { x: 1, y: 5 }, 3), { ring: 0, at: 8 }); // between the last corner and the first
  assert.deepEqual(corners.withCorner(rings, { ring: 0, at: 8 }, { x: 1, y: 5 })[0], [0, 0, 10, 0, 10, 10, 0, 10, 1, 5]);
  assert.deepEqual(corners.withoutCorner(rings, { ring: 1, at: 2 }), [rings[0]]);
});
