import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { dataSet } = await load("export/set.js");
const { byPart, parted } = await load("export/parts.js");

const rle = { size: [2, 2], counts: "04" };
const labeled = [
  { id: "a", names: ["a.png", "copy of a.png"], state: "ready", mark: "done", objects: [{ id: "1", rle }, { id: "2", rle: null, pending: "p" }], unfinished: 1 },
  { id: "b", names: ["bare.png"], state: "ready", mark: "nothing", objects: [] },
  { id: "c", names: ["refused.png"], state: "failed", mark: null, objects: [] },
  { id: "d", names: ["waits.png"], state: "ready", mark: "done", objects: [{ id: "3", rle: null, pending: "q" }] },
  { id: "e", names: ["later.png"], state: "ready", mark: null, objects: [{ id: "4", rle }], unfinished: 2 },
];
const shown = ({ images, left }) => [images.map(({ name, objects }) => `${name} ${objects.length}`), left];

test("what is done goes along, with every name, and what holds nothing; not what waits for all of its masks", () => {
  const set = dataSet(labeled, ["done", "nothing"]);
  assert.deepEqual(shown(set), [["a.png 1", "copy of a.png 1", "bare.png 0"], { state: 2, refused: 1, mask: 2, points: 0 }]);
  assert.deepEqual(set.unfinished, [{ name: "a.png", n: 1 }]);
});

test("other states go along where they are chosen, but what the server refused is no background", () => {
  assert.deepEqual(shown(dataSet(labeled, ["working", "unbegun"])), [["later.png 1"], { state: 4, refused: 1, mask: 0, points: 0 }]);
});

test("whatever their state, all go along with no states chosen", () => {
  assert.deepEqual(shown(dataSet(labeled.slice(4), null)), [["later.png 1"], { state: 0, refused: 0, mask: 0, points: 0 }]);
});

const many = Array.from({ length: 50 }, (_, n) => ({ id: `image ${n}`, name: `${n}.jpg` }));
const validating = (images, how) => parted(images, how).filter(({ part }) => part === "val").map(({ id }) => id);

test("a share validates, the same for one seed in any order, another for another seed", () => {
  const chosen = validating(many, { share: 0.2, seed: 7 });
  assert.equal(chosen.length, 10);
  assert.deepEqual(validating(many.toReversed(), { share: 0.2, seed: 7 }).sort(), chosen.toSorted());
  assert.notDeepEqual(validating(many, { share: 0.2, seed: 8 }), chosen);
});

test("an image under two names is in one part; of a few one validates, and one always trains", () => {
  const twice = [...many, ...many.map((image) => ({ ...image, name: `copy of ${image.name}` }))];
  assert.equal(validating(twice, { share: 0.2, seed: 7 }).length, 20);
  assert.equal(validating(many.slice(0, 2), { share: 0.1, seed: 1 }).length, 1);
  assert.deepEqual(validating(many.slice(0, 1), { share: 0.3, seed: 1 }), []);
  assert.deepEqual(validating(many, { share: 0, seed: 1 }), []);
});

test("parts are apart where something validates, else all is one", () => {
  assert.deepEqual(byPart(parted(many, { share: 0, seed: 1 })).map(([part, some]) => [part, some.length]), [["", 50]]);
  assert.deepEqual(byPart(parted(many, { share: 0.1, seed: 1 })).map(([part, some]) => [part, some.length]), [["train", 45], ["val", 5]]);
});
