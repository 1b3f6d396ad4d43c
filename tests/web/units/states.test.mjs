import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { STATES, expectedAfter, nextNotDone, progressOf, shownOf, stateOf, tally } = await load("labeling/states.js");

const image = (name, mark = null, objects = 0) => ({ names: [name], mark, objects });
const a = image("a.jpg"), b = image("b.jpg", null, 2), c = image("c.jpg", "done", 3);
const d = image("d.jpg", "nothing"), e = image("e.jpg", "skipped"), f = image("f.jpg", "review", 1);
const images = [a, b, c, d, e, f];

test("what nobody said follows from the objects; nothing is there only while nothing is there", () => {
  assert.deepEqual(images.map(stateOf), ["unbegun", "working", "done", "nothing", "skipped", "review"]);
  assert.equal(stateOf({ mark: "nothing", objects: 1 }), "working");
  assert.equal(stateOf({ objects: 0 }), "unbegun"); // as former versions stored images
  assert.deepEqual(Object.values(tally(images)), STATES.map(() => 1));
});

test("done, nothing here and skipped need no more work", () => {
  assert.deepEqual(progressOf(images), { done: 3, of: 6 });
  assert.deepEqual(progressOf([]), { done: 0, of: 0 });
});

test("images are shown by their state and by any of their names", () => {
  assert.deepEqual(shownOf(images, { state: "done" }), [c]);
  assert.deepEqual(shownOf(images, { text: " B.J" }), [b]);
  const two = { names: ["x.jpg", "über/Café.png"], mark: null, objects: 0 };
  assert.deepEqual(shownOf([a, two], { state: "all", text: "CAFE\u0301" }), [two]);
  assert.deepEqual(shownOf(images, { state: "done", text: "a" }), []);
});

test("the next one is not begun or in work, beyond the end from the beginning; then those to review", () => {
  assert.equal(nextNotDone(images, a), b);
  assert.equal(nextNotDone(images, c), a);
  assert.equal(nextNotDone(images, undefined), a);
  assert.equal(nextNotDone([c, f, d], c), f);
  assert.equal(nextNotDone([c, f], f), null); // not the one that is open
  assert.equal(nextNotDone([], undefined), null);
});

test("those that are not done are expected, in the order in which they come; who looks at one that is done looks through all", () => {
  assert.deepEqual(expectedAfter(images, a), [b, f]);
  assert.deepEqual(expectedAfter(images, f), [a, b]);
  assert.deepEqual(expectedAfter(images, c), [d, e, f]);
  assert.deepEqual(expectedAfter(images, null), [a, b, f]);
  assert.deepEqual(expectedAfter([], null), []);
});
