import assert from "node:assert/strict";
import { test } from "node:test";
import { load, noise } from "./page.mjs";

const { packed } = await load("export/index.js");
const { recognized, unpacked } = await load("import/index.js");
const { imageFor, merged } = await load("import/match.js");
const { takeIn } = await load("import/intake.js");
const { classNames } = await load("import/yolo.js");
const { fromPixels } = await load("shared/rle.js");
const { setLanguage } = await load("shared/words.js");

const rleOf = ({ pixels, width, height }) => fromPixels(pixels, width, height);
const classes = [{ id: "1", name: "cup", colour: "#ff0000" }, { id: "2", name: 'a "b": ü', colour: "#00ff00" }];
const made = { model: "sam-vit-h", version: "0123abcd" };
const object = (seed, classId, more) => ({ id: `o${seed}`, name: "", classId, rle: rleOf(noise(seed, 40, 30)), hidden: false, points: [{ x: 1, y: 2, label: 1 }], box: null, ...made, ...more });
const photo = new Blob(["a photograph"]);
const images = [
  { id: "aa", names: ["in/a.jpg"], width: 40, height: 30, mark: "done", objects: [object(1, "1", { name: "mine", byHand: true, attributes: { label: "broken", "a<b": "yes" } }), object(2, "2")] },
  { id: "bb", names: ["in/b.jpg"], width: 40, height: 30, mark: "review", objects: [object(3, "1")] },
].map((image) => ({ ...image, name: image.names[0], file: photo, original: photo }));

async function again(format, options = {}) {
  const { name, blob } = await packed(format, { classes, images }, options);
  const found = await recognized(await unpacked([{ path: name, blob }]));
  return { ...found, ...(await found.read((names) => imageFor({ names, byStem: true }, images))) };
}

for (const [format, options, is] of [["project", {}], ["coco-rle", {}], ["coco-polygons", {}, "coco-rle"], ["labelstudio", {}], ["masks", {}], ["masks", { as: "objects", images: true }]]) {
  test(`${format} comes back with the same pixels, classes, names and models (${JSON.stringify(options)})`, async () => {
    const { format: found, images: read, ...set } = await again(format, options);
    assert.equal(found, is ?? format);
    assert.deepEqual(new Set(set.classes.map(({ name }) => name)), new Set(classes.map(({ name }) => name)));
    for (const [i, image] of images.entries()) {
      assert.deepEqual(imageFor(read[i], images), image);
      assert.deepEqual(read[i].objects.map(({ rle }) => rle), image.objects.map(({ rle }) => rle));
      assert.deepEqual(read[i].objects.map((one) => one.class), image.objects.map(({ classId }) => classes[classId - 1].name));
      const made = ({ name, model, version, byHand, attributes }) => [name, model, version, byHand, attributes];
      assert.deepEqual(read[i].objects.map(made), image.objects.map(made));
    }
  });
}

test("panoptic comes back as it is seen: the later object on top", async () => {
  const { images: read } = await again("panoptic");
  assert.deepEqual(read[0].objects[1].rle, images[0].objects[1].rle);
  assert.deepEqual(read[1].objects.map(({ rle }) => rle), [images[1].objects[0].rle]);
  assert.equal(read[0].objects[0].area + read[0].objects[1].area, new Set(images[0].objects.flatMap(({ rle }) => pixelsOf(rle))).size);
});

function pixelsOf(rle) {
  const on = [];
  toPixels(rle).forEach((value, at) => value && on.push(at));
  return on;
}
const { toPixels } = await load("shared/rle.js");

test("YOLO's rows come back with the same pixels, a row for each piece; boxes as boxes", async () => {
  for (const options of [{ images: false }, { images: true }]) {
    const { format, images: read, classes: found } = await again("yolo", options);
    assert.equal(format, "yolo");
    assert.deepEqual(found.map(({ name }) => name), classes.map(({ name }) => name));
    const union = new Set(read[1].objects.flatMap(({ rle }) => pixelsOf(rle)));
    assert.deepEqual([...union].sort((a, b) => a - b), pixelsOf(images[1].objects[0].rle));
    assert.equal(imageFor(read[0], images).id, "aa");
  }
  const { images: boxes } = await again("yolo", { as: "boxes" });
  assert.deepEqual(boxes.map(({ objects }) => objects.length), [2, 1]);
  assert.ok(boxes[1].objects[0].area >= images[1].objects.length);
});

test("a project file brings all that there was: ids, prompts, states, photographs", async () => {
  const { images: read, photos, classes: found } = await again("project", { images: true });
  assert.deepEqual(photos.map(({ path }) => path), ["photos/in/a.jpg", "photos/in/b.jpg"]);
  assert.deepEqual(found, classes.map(({ id, ...one }) => one));
  assert.deepEqual(read.map(({ id, mark, names }) => [id, mark, names]), images.map(({ id, mark, names }) => [id, mark, names]));
  const { classId, ...kept } = images[0].objects[0];
  assert.deepEqual(read[0].objects[0], { ...kept, class: "cup" });
});

test("files that hold no labels, damaged ones and newer projects say what to do", async () => {
  const refused = async (path, text, says) => {
    const read = async () => (await recognized(await unpacked([{ path, blob: new Blob([text]) }]))).read();
    await assert.rejects(read, says);
  };
  await refused("a.zip", "no archive", /no ZIP archive/);
  await refused("a.json", "{}", /no labels in a.json.*COCO, YOLO/);
  await refused("a.json", "{", /^Error: a.json: /);
  await refused("project.json", '{"format": "labeling-ground-project", "version": 2}', /version 2; this page reads 1/);
  setLanguage("ko");
  await refused("a.zip", "no archive", /ZIP 파일이 아니거나/);
  setLanguage("en");
});

test("labels find their image by id, place in the archive, name with folders, name, or stem, and by none of two alike", () => {
  const open = [{ id: "1", names: ["x/a.jpg"] }, { id: "2", names: ["y/a.jpg", "b.png"] }, { id: "3", names: ["c.jpg"] }];
  const at = (image, ids) => imageFor({ names: [], ...image }, open, ids)?.id ?? null;
  assert.equal(at({ id: "2", names: ["c.jpg"] }), "2");
  assert.equal(at({ id: "9", names: ["c.jpg"] }), null); // that id's photograph is not here
  assert.equal(at({ names: ["a.jpg"] }), null);
  assert.equal(at({ names: ["x/a.jpg"] }), "1");
  assert.equal(at({ names: ["set/y/a.jpg"] }), "2");
  assert.equal(at({ names: ["elsewhere/b.png"] }), "2");
  assert.equal(at({ names: ["images/c"], byStem: true }), "3");
  assert.equal(at({ names: ["a.jpg"] }, new Map([["images/a.jpg", "1"]])), "1");
});

test("new objects are those of another id, and another class or mask", () => {
  const [a, b] = [{ id: "a", classId: "1", rle: { counts: "x" } }, { id: "b", classId: "1", rle: { counts: "y" } }];
  assert.deepEqual(merged([a], [{ ...a, name: "other" }, { ...a, id: "c" }, b, { ...a, id: "d", classId: "2" }], "add"), [a, b, { ...a, id: "d", classId: "2" }]);
  assert.deepEqual(merged([a], [b], "replace"), [b]);
});

test("names of a data.yaml in any of its forms", () => {
  const wanted = new Map([[0, "cup"], [1, "it's: #1"]]);
  for (const text of ["names:\n  0: cup\n  1: \"it's: #1\"\nnc: 2\n", "nc: 2\nnames: ['cup', 'it''s: #1']\n", "names:\n- cup\n- 'it''s: #1'\npath: x\n"]) {
    assert.deepEqual(classNames(text), wanted, text);
  }
  assert.deepEqual(classNames("train: x\n"), new Map());
});

/** As much of the page as the intake takes. */
function pageOf({ seen = new Map(), stored = new Map() } = {}) {
  const page = {
    choices: { classes: [{ id: "7", name: "cup", colour: "#123456" }], classId: "7" },
    album: { images: [{ id: "aa", names: ["in/a.jpg"], width: 40, height: 30, mark: null, objects: 0 }], missing: [],
      expect: (image) => page.album.missing.push(image), change: (image, change) => Object.assign(image, change) },
    editor: { changeWork: (image, change) => seen.has(image.id) && seen.set(image.id, change(seen.get(image.id))), resume() {} },
    storage: { get: async (_, id) => stored.get(id), put: async (_, work) => stored.set(work.id, work) },
    choose: (change) => Object.assign(page.choices, change),
    draw() {},
  };
  return { page, seen, stored };
}

test("a project is taken in: classes by name, labels on what is open, the rest waits for its photographs", async () => {
  for (const seen of [new Map(), new Map([["aa", { objects: [] }]])]) {
    const { page, stored } = pageOf({ seen });
    const read = await again("project");
    const report = await takeIn(page, read, { ids: new Map(), mode: "add" });
    assert.deepEqual(report, { objects: 3, images: 1, waiting: 1, unread: 0, unknown: [], resized: [] });
    assert.deepEqual(page.choices.classes.map(({ name, colour }) => [name, colour]), [["cup", "#123456"], ['a "b": ü', "#00ff00"]]);
    assert.equal(page.choices.classId, "7");
    const { objects } = seen.get("aa") ?? stored.get("aa");
    assert.deepEqual(objects.map(({ id, classId, model }) => [id, classId, model]), [["o1", "7", "sam-vit-h"], ["o2", "8", "sam-vit-h"]]);
    assert.equal(page.album.images[0].mark, "done");
    assert.deepEqual(page.album.missing, [{ id: "bb", names: ["in/b.jpg"], mark: "review", objects: 1 }]);
    assert.equal(stored.get("bb").objects.length, 1);
  }
});

test("labels of images that are not open, and of another size, are left out and named", async () => {
  const { page } = pageOf();
  page.album.images[0].width = 41;
  const report = await takeIn(page, await again("coco-rle"), { ids: new Map(), mode: "add" });
  assert.deepEqual([report.objects, report.unknown, report.resized], [0, ["in/b.jpg"], ["in/a.jpg"]]);
});
