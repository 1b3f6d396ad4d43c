import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { History } = await load("labeling/history.js");
const { Newest } = await load("labeling/newest.js");
const works = await load("labeling/work.js");

const answer = { masks: [{ rle: { size: [2, 2], counts: "04" }, score: 0.9, area: 4 }, { rle: {}, score: 0.5, area: 1 }] };
const clicked = works.withPoint(works.EMPTY, { x: 1, y: 1, label: 1 });

test("clicks off the object alone cannot be asked", () => {
  assert.equal(works.isAskable(works.withPoint(works.EMPTY, { x: 0, y: 0, label: 0 })), false);
  assert.equal(works.isAskable(clicked), true);
  assert.equal(works.isAskable(works.withBox(works.EMPTY, [0, 0, 5, 5])), true);
});

test("a click makes the old answer void", () => {
  const answered = works.stepped(works.withAnswer(clicked, answer), 1);
  assert.equal(works.chosen(answered).score, 0.5);
  const next = works.withPoint(answered, { x: 0, y: 0, label: 0 });
  assert.equal(works.chosen(next), null);
  assert.equal(next.choice, 0);
});

test("candidates go around", () => {
  const answered = works.withAnswer(clicked, answer);
  assert.equal(works.stepped(answered, -1).choice, 1);
  assert.equal(works.stepped(works.stepped(answered, 1), 1).choice, 0);
  assert.equal(works.stepped(clicked, 1), clicked);
});

test("an empty mask, or a prompt that can have none, is not finished", () => {
  const empty = { masks: [{ rle: {}, score: 0, area: 0 }] };
  assert.equal(works.finished(works.withAnswer(clicked, empty), { id: "a", classId: "1" }), null);
  const off = works.withPoint(works.EMPTY, { x: 0, y: 0, label: 0 });
  assert.equal(works.finished(off, { id: "a", classId: "1" }), null);
});

test("what is finished before its mask is there gets that mask later, in every state", () => {
  const early = works.finished(clicked, { id: "a", classId: "1", pending: "p" });
  assert.deepEqual([early.objects[0].rle, early.objects[0].pending, works.hasPrompt(early)], [null, "p", false]);
  const next = works.withPoint(early, { x: 0, y: 0, label: 1 });
  const settled = works.settled(next, "p", answer.masks[0]);
  assert.deepEqual([settled.objects[0].area, settled.objects[0].pending, settled.points], [4, null, next.points]);
  assert.ok(works.samePrompt(settled, next));
  assert.equal(works.settled(next, "another", answer.masks[0]), next);
});

test("an object that gets no mask keeps its clicks, to be edited again", () => {
  const early = works.finished(clicked, { id: "a", classId: "1", pending: "p" });
  const failed = works.settled(early, "p", null, "No room.");
  assert.deepEqual([failed.objects[0].trouble, failed.objects[0].pending], ["No room.", null]);
  assert.equal(works.settled(early, "p", { rle: {}, score: 0, area: 0 }).objects[0].trouble, "");
  const again = works.editedAgain(failed, "a");
  assert.deepEqual([again.points, again.answer], [clicked.points, null]);
  const mended = works.finished(works.withAnswer(again, answer), { id: "b", classId: "1" });
  assert.deepEqual([mended.objects[0].id, mended.objects[0].area, "trouble" in mended.objects[0]], ["a", 4, false]);
});

test("what is stored and restored while an object is edited has the candidate that was chosen", () => {
  const work = works.stepped(works.withAnswer(clicked, answer), 1);
  assert.equal(works.chosen(works.restored(structuredClone(work))).score, 0.5);
  assert.equal(works.restored(undefined).choice, 0);
});

test("an object that is edited again keeps its place, id and name", () => {
  let work = works.finished(works.withAnswer(clicked, answer), { id: "a", classId: "1" });
  work = works.finished(works.withAnswer(works.withBox(work, [0, 0, 2, 2]), answer), { id: "b", classId: "1" });
  work = works.editedAgain(works.changed(work, "a", { name: "cup" }), "a");
  assert.deepEqual(work.points, [{ x: 1, y: 1, label: 1 }]);
  assert.equal(works.chosen(work).area, 4);
  work = works.finished(works.stepped(work, 1), { id: "c", classId: "1" });
  assert.deepEqual(work.objects.map(({ id, name }) => [id, name]), [["a", "cup"], ["b", ""]]);
  assert.equal(works.hasPrompt(work), false);
});

test("deleting what is being edited ends the editing", () => {
  const work = works.finished(works.withAnswer(clicked, answer), { id: "a", classId: "1" });
  assert.deepEqual(works.without(works.editedAgain(work, "a"), "a"), works.EMPTY);
});

test("undo and redo walk the same way, and a new step forgets the other one", () => {
  const history = new History(0);
  assert.equal(history.undo(), false);
  [1, 2, 3].forEach((state) => history.push(state));
  history.undo();
  history.undo();
  assert.equal(history.now, 1);
  history.redo();
  assert.equal(history.now, 2);
  history.push(9);
  assert.equal(history.redo(), false);
  history.undo();
  assert.equal(history.now, 2);
});

test("what is amended everywhere is amended in what undo and redo lead to", () => {
  const history = new History(0);
  [1, 2, 3].forEach((state) => history.push(state));
  history.undo();
  history.amendAll((state) => 10 * state);
  assert.equal(history.now, 20);
  history.redo();
  assert.equal(history.now, 30);
  [20, 10, 0].forEach((state) => (history.undo(), assert.equal(history.now, state)));
});

test("of many asks one is in flight, and the last one is answered", async () => {
  const newest = new Newest();
  let running = 0, most = 0;
  const begun = [], ended = [];
  const work = (name) => async (signal) => {
    begun.push(name);
    most = Math.max(most, ++running);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, 20);
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve()));
    });
    running--;
    if (!signal.aborted) ended.push(name);
  };
  for (const name of ["a", "b", "c", "d"]) newest.ask(work(name));
  while (newest.busy) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual([most, begun, ended], [1, ["a", "d"], ["d"]]);
  newest.ask(work("e"));
  newest.ask(work("f"));
  newest.drop();
  while (newest.busy) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual(ended, ["d"]);
});

test("a finished object says which model made it, and another one is asked anew for what is being made", () => {
  const answered = works.withAnswer(clicked, { ...answer, model: "first" });
  const done = works.finished(answered, { id: "a", classId: "1" });
  assert.equal(done.objects[0].model, "first");
  const early = works.finished(clicked, { id: "b", classId: "1", pending: "p" });
  assert.equal(works.settled(early, "p", answer.masks[0], "", { model: "second" }).objects[0].model, "second");
  const again = works.editedAgain(done, "a");
  assert.equal(works.finished(again, { id: "c", classId: "1" }).objects[0].model, "first");
  const anew = works.unanswered({ ...again, choice: 0 });
  assert.deepEqual([anew.answer, anew.points, anew.objects], [null, again.points, done.objects]);
  assert.equal(works.unanswered(clicked), clicked);
});

test("the next click starts from the candidate that is chosen, by its name on the server", () => {
  const answered = works.stepped(works.withAnswer(clicked, { ...answer, predictionId: "p" }), 1);
  const next = works.withPoint(answered, { x: 2, y: 2, label: 0 });
  assert.deepEqual(next.mask, { rle: answer.masks[1].rle, area: 1, ref: { prediction_id: "p", index: 1 }, byHand: false });
  assert.deepEqual(works.withPoint(next, { x: 3, y: 3, label: 1 }).mask, next.mask); // whose answer is not there yet
  assert.equal(works.withPoint(works.withAnswer(clicked, { masks: [{ rle: {}, score: 1, area: 0 }] }), { x: 1, y: 0, label: 1 }).mask, null);
  assert.equal(works.samePrompt(next, { ...next, mask: null }), false);
  const early = works.finished(next, { id: "a", classId: "1", pending: "p" });
  assert.deepEqual(early.objects[0].mask, next.mask); // the ask needs it still
  assert.equal("mask" in works.settled(early, "p", answer.masks[0]).objects[0], false);
});

test("a mask that was changed by hand is what the next click starts from, and is kept when a click is moved or removed", () => {
  const byHand = works.withMask(works.withAnswer(clicked, { ...answer, predictionId: "p", model: "m" }), { rle: "mine", area: 3 });
  assert.deepEqual(works.chosen(byHand), { rle: "mine", area: 3, score: null });
  assert.equal(works.unanswered(byHand), byHand); // another model is not asked for it
  const mine = { rle: "mine", area: 3, ref: null, byHand: true };
  const next = works.withPoint(byHand, { x: 2, y: 2, label: 0 });
  assert.deepEqual(next.mask, mine);
  const moved = works.withPointMoved(next, 1, { x: 5, y: 6 });
  assert.deepEqual([moved.points, moved.mask, moved.answer], [[clicked.points[0], { x: 5, y: 6, label: 0 }], mine, null]);
  const alone = works.withoutPoint(works.withoutPoint(next, 1), 0);
  assert.deepEqual([alone.points, works.chosen(alone).rle, works.isAskable(alone)], [[], "mine", true]);
  const made = works.finished(byHand, { id: "a", classId: "1" });
  assert.deepEqual([made.objects[0].byHand, made.objects[0].model, works.hasPrompt(made)], [true, "m", false]);
  assert.deepEqual(works.withPoint(works.editedAgain(made, "a"), { x: 0, y: 0, label: 1 }).mask, mine);
});

test("a click that is moved or removed takes what the model made of it along", () => {
  const two = works.withPoint(works.withAnswer(clicked, { ...answer, predictionId: "p" }), { x: 9, y: 9, label: 0 });
  assert.equal(works.withPointMoved(two, 0, { x: 2, y: 2 }).mask, null);
  assert.deepEqual([works.withoutPoint(two, 0).mask, works.withoutPoint(two, 0).points], [null, [two.points[1]]]);
  assert.equal(works.hasPrompt(works.withoutPoint(clicked, 0)), false);
  assert.equal(works.withBox(two, [0, 0, 1, 1]).mask, null);
});

test("an object that has a mask and no clicks is edited again with its mask", () => {
  const object = { id: "a", classId: "1", rle: "r", score: 1, area: 5, points: [], box: null };
  assert.equal(works.hasPrompt(works.editedAgain({ ...works.EMPTY, objects: [object] }, "a")), true);
});
