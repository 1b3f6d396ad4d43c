import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { Workflow } = await load("labeling/workflow.js");
const { EMPTY, withPoint } = await load("labeling/work.js");
const { stateOf } = await load("labeling/states.js");
const { t } = await load("shared/words.js");

/** As much of the page as it takes. `finish()` is what the page's answers; works are by image. */
function pageOf(...images) {
  const told = [], removed = [];
  const page = {
    album: { images, missing: [], find: (id) => images.find((one) => one.id === id), change: (image, change) => Object.assign(image, change) },
    choices: {},
    editor: { image: images[0], work: EMPTY },
    open: (image) => (page.editor.image = image),
    tell: (text) => told.push(text),
    finish: () => false,
    draw() {},
    prepare() {},
    removeImages: async (some) => removed.push(...some),
  };
  page.workflow = new Workflow(page);
  return { page, workflow: page.workflow, told, removed };
}
const image = (name, objects = 0) => ({ id: name, names: [name], mark: null, state: "ready", objects });

test("done and on to the next until nothing is left", () => {
  const { page, workflow, told } = pageOf(image("a"), image("b"), image("c"));
  for (const mark of ["done", "nothing", "done"]) workflow.markAndGo(mark);
  assert.deepEqual(page.album.images.map(stateOf), ["done", "nothing", "done"]);
  assert.equal(page.editor.image.id, "c");
  assert.equal(told.length, 1);
});

test("an object in the making is finished first, and where it cannot be the image is not done", () => {
  const { page, workflow } = pageOf(image("a"), image("b"));
  page.editor.work = withPoint(EMPTY, { x: 1, y: 1, label: 0 });
  workflow.markAndGo("done");
  assert.deepEqual([page.editor.image.id, stateOf(page.album.images[0])], ["a", "unbegun"]);
  page.finish = () => true;
  workflow.markAndGo("done");
  assert.deepEqual([page.editor.image.id, stateOf(page.album.images[0])], ["b", "done"]);
});

test("there is not nothing where objects are; and a mark can be taken back", () => {
  const { page, workflow, told } = pageOf(image("a", 1));
  assert.equal(workflow.mark("nothing"), false);
  assert.equal(told.length, 1);
  assert.equal(workflow.mark("review"), true);
  assert.equal(stateOf(page.editor.image), "review");
  workflow.mark("working");
  assert.equal(stateOf(page.editor.image), "working");
});

test("a key that comes before the next image is open counts for that one", () => {
  const { page, workflow } = pageOf(image("a"), image("b"), image("c"));
  page.open = ({ id }) => {
    page.choices.imageId = id;
    page.editor.image = null; // until its work has been read
  };
  workflow.markAndGo("done");
  workflow.markAndGo("nothing");
  assert.deepEqual(page.album.images.map(stateOf), ["done", "nothing", "unbegun"]);
});

test("one walks through what is shown, the open image always among it", () => {
  const { page, workflow, told } = pageOf(image("cat 1"), image("dog"), image("cat 2"), image("cat 3"));
  workflow.show({ text: "cat" });
  assert.deepEqual(workflow.ahead.map(({ id }) => id), ["cat 2", "cat 3"]);
  workflow.go(1);
  assert.equal(page.editor.image.id, "cat 2");
  assert.deepEqual(told, []);
  workflow.show({ state: "done" });
  assert.deepEqual(told, [t("noneShown")]);
  workflow.go(1);
  assert.deepEqual(workflow.images.map(({ id }) => id), ["cat 2"]);
});

test("failed files and refused images are listed with the reason; all go but those with objects", async () => {
  globalThis.document = { getElementById: () => ({ replaceChildren() {}, close() {} }), createElement: () => ({ append() {}, setAttribute() {}, dataset: {} }) };
  const { page, workflow, removed } = pageOf(image("a"), image("b"), image("c", 2));
  const { failures } = workflow;
  failures.add([{ name: "x.heic", why: "no HEIC here" }]);
  failures.add([{ name: "x.heic", why: "still none" }]);
  Object.assign(page.album.images[1], { state: "failed", why: "too large" });
  Object.assign(page.album.images[2], { state: "failed", why: "too small" });
  assert.deepEqual(failures.list, [{ name: "x.heic", why: "still none" }, { name: "b", why: "too large" }, { name: "c", why: "too small" }]);
  await failures.removeAll();
  assert.deepEqual(removed.map(({ id }) => id), ["b"]);
  failures.add([{ name: "y.jpg", why: "broken" }]);
  failures.forget(["y.jpg"]);
  assert.deepEqual(failures.list.map(({ name }) => name), ["b", "c"]);
});
