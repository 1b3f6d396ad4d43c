import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { FORMATS, packed } = await load("export/index.js");
const { dataSet } = await load("export/set.js");
const { recognized, unpacked } = await load("import/index.js");
const { boxLabel } = await load("import/parts.js");
const { fromCoco } = await load("import/coco.js");
const { merged } = await load("import/match.js");

const classes = [{ id: "1", name: "cup" }];
const { class: _, ...box } = boxLabel("cup", [4, 5, 20, 17], [30, 40]);
const point = { kind: "point", byHand: true, name: "tip", rle: null, points: [{ x: 7, y: 29, label: 1 }], box: null };
const objects = [box, point].map((one, n) => ({ id: `o${n}`, classId: "1", hidden: false, ...one }));
const labeled = [{ id: "a", names: ["a.jpg"], width: 40, height: 30, state: "ready", mark: "done", file: new Blob(["x"]), objects }];

async function exported(format, options = {}) {
  const { images } = dataSet(labeled, null, { takesPoints: FORMATS[format].options.includes("points") });
  return FORMATS[format].make({ classes, images }, options, () => {});
}

test("formats without points leave them out, and say how many", () => {
  const { images, left } = dataSet(labeled, ["done"]);
  assert.deepEqual([images[0].objects, left], [[objects[0]], { state: 0, refused: 0, mask: 0, points: 1 }]);
  assert.equal(dataSet(labeled, ["done"], { takesPoints: true }).left.points, 0);
});

test("boxes and points come back from Label Studio's JSON as what they are", async () => {
  const text = (await exported("labelstudio"))["label-studio.json"];
  const types = JSON.parse(text)[0].annotations[0].result.map(({ type, from_name: name }) => [type, name]);
  assert.deepEqual(types, [["rectanglelabels", "box"], ["keypointlabels", "point"]]);
  const { read } = await recognized(await unpacked([{ path: "a.json", blob: new Blob([text]) }]));
  const [image] = (await read()).images;
  assert.deepEqual(image.objects, [{ class: "cup", ...box }, { class: "cup", ...point }]);
});

test("CVAT and LabelMe have shapes of their own for them", async () => {
  const cvat = (await exported("cvat"))["annotations.xml"];
  assert.match(cvat, /<box label="cup" source="manual" occluded="0" z_order="0" xtl="4" ytl="5" xbr="20" ybr="17">/);
  assert.match(cvat, /<points label="cup" [^>]*points="7.5,29.5"><attribute name="name">tip</);
  const { shapes } = JSON.parse((await exported("labelme"))["a.json"]);
  assert.deepEqual(shapes.map(({ shape_type: type, points }) => [type, points]), [["rectangle", [[4, 5], [20, 17]]], ["point", [[7.5, 29.5]]]]);
});

test("attributes are declared and written where they cannot be taken for something else", async () => {
  const odd = { ...objects[0], attributes: { label: "broken", points: "none", "a<b": "\"yes\"" } };
  const set = { classes: [{ ...classes[0], attributes: [{ name: "a<b", kind: "text" }] }], images: [{ ...labeled[0], name: "a.jpg", objects: [odd] }] };
  const cvat = FORMATS.cvat.make(set, {}, () => {})["annotations.xml"];
  assert.match(cvat, /<attributes><attribute><name>a&lt;b<\/name>.*<name>model<\/name>/);
  assert.match(cvat, /<attribute name="a&lt;b">&quot;yes&quot;<\/attribute>/);
  const [shape] = JSON.parse((await FORMATS.labelme.make(set, {}, () => {}))["a.json"]).shapes;
  assert.deepEqual([shape.label, shape.points.length, shape.attributes], ["cup", 2, odd.attributes]);
  const [listed] = JSON.parse((await FORMATS.masks.make(set, {}, () => {}))["masks.json"]);
  assert.deepEqual([listed.class, listed.attributes], ["cup", odd.attributes]);
});

test("boxes come back from YOLO's boxes, and from COCO's where there is no segmentation", async () => {
  const files = Object.entries(await exported("yolo", { as: "boxes", images: false })).map(([path, text]) => ({ path, blob: new Blob([text]) }));
  const { read } = await recognized(await unpacked(files));
  const [image] = (await read(() => ({ width: 40, height: 30 }))).images;
  assert.deepEqual(image.objects, [{ class: "cup", ...box }]);
  const coco = { images: [{ id: 1, file_name: "a.jpg", width: 40, height: 30 }], categories: [{ id: 1, name: "cup" }],
    annotations: [{ image_id: 1, category_id: 1, bbox: [4, 5, 16, 12] }] };
  assert.deepEqual((await fromCoco(coco, [])).images[0].objects, [{ class: "cup", ...box }]);
});

test("a point that is there already is none that is new", () => {
  const again = { ...objects[1], id: "other" };
  assert.deepEqual(merged(objects, [again], "add"), objects);
  const moved = { ...again, points: [{ x: 8, y: 29, label: 1 }] };
  assert.deepEqual(merged(objects, [moved], "add"), [...objects, moved]);
});

test("a project holds them as they are", async () => {
  const { blob, name } = await packed("project", { classes, images: labeled.map((image) => ({ ...image, original: image.file })) }, {});
  const { read } = await recognized(await unpacked([{ path: name, blob }]));
  const [image] = (await read()).images;
  assert.deepEqual(image.objects.map(({ kind, box: edges, points }) => [kind, edges, points]), [["box", [4, 5, 20, 17], []], ["point", null, point.points]]);
});
