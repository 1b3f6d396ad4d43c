import assert from "node:assert/strict";
import { test } from "node:test";
import { drawn, load } from "./page.mjs";

const { findAll, modelOf, newsOf } = await load("labeling/concepts.js");
const { Found } = await load("labeling/found.js");
const { fromPixels } = await load("shared/rle.js");

const { pixels, width, height } = drawn("##..", "##..");
const instance = (index) => ({ index, rle: fromPixels(pixels, width, height), score: 0.9 - index / 10, area: 4, bbox: [0, 0, 2, 2], box: [0, 0, 2, 2] });

function pageOf(answer, classes = [{ id: "1", name: "cat" }, { id: "2", name: " Red " }]) {
  const editor = { image: { id: "a" }, work: { objects: [] }, redraw() {}, changeWork: (_, change) => (editor.work = change(editor.work)) };
  const page = {
    editor,
    said: [],
    choices: { classes, classId: "1" },
    models: [],
    album: { ready: async () => {} },
    connection: { met() {} },
    server: { model: null, concepts: async (id, phrase) => answer(id, phrase) },
    choose: (change) => Object.assign(page.choices, change),
    tell: (text) => page.said.push(text),
  };
  page.found = new Found({ editor, classId: () => page.choices.classId, changed() {} });
  return page;
}

test("what is found is picked, is of the class of that name, and says how it was made when it is kept", async () => {
  const page = pageOf((id, phrase) => ({ model: "m", model_version: "v", concepts: [{ phrase, instances: [instance(0), instance(1)] }] }));
  await findAll(page, "red");
  assert.deepEqual([...page.found.picked].sort(), [0, 1]);
  assert.equal(page.found.keep(), true);
  assert.deepEqual(page.editor.work.objects.map(({ classId, source, text, model, version }) => [classId, source, text, model, version]),
    [["2", "text", "red", "m", "v"], ["2", "text", "red", "m", "v"]]);
  assert.deepEqual(page.editor.work.objects[0].points, []);
});

test("a phrase that names no class leaves the chosen one, and one that is not there says so", async () => {
  const page = pageOf((id, phrase) => ({ model: "m", concepts: [{ phrase, instances: [] }] }));
  await findAll(page, "dog");
  assert.equal(page.choices.classId, "1");
  assert.equal(page.found.isOpen, false);
  assert.equal(page.said.length, 1);
});

test("the model that is asked is the one that was chosen, or the default one", () => {
  const models = [{ name: "a", default: true }, { name: "b" }];
  assert.equal(modelOf({ models, server: { model: null } }).name, "a");
  assert.equal(modelOf({ models, server: { model: "b" } }).name, "b");
  assert.equal(modelOf({ models: [], server: { model: null } }), undefined);
});

test("an instance is a mask by its place in the answer", () => {
  const { masks, standing, made } = newsOf({ model: "m", concepts: [{ phrase: "x", instances: [instance(0), instance(1)] }] });
  assert.deepEqual(standing, [0, 1]);
  assert.equal(masks[1].score, 0.8);
  assert.deepEqual(made, { source: "text", text: "x", model: "m" });
});
