import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { added, changed, namesIn, without } = await load("labeling/classes.js");

test("a class gets an id and a colour that no other has, and is the chosen one then", () => {
  let choices = added([], "cat");
  for (const name of ["dog", "bird"]) choices = added(choices.classes, name);
  assert.deepEqual(choices.classes.map(({ id, name }) => [id, name]), [["1", "cat"], ["2", "dog"], ["3", "bird"]]);
  assert.equal(choices.classId, "3");
  assert.equal(new Set(choices.classes.map((one) => one.colour)).size, 3);
});

test("a colour that was given back is given again, and when all are in use they repeat", () => {
  let choices = { classes: [], classId: null };
  for (let n = 0; n < 9; n++) choices = added(choices.classes, String(n));
  const [first] = choices.classes;
  assert.equal(added(without(choices, "1").classes, "again").classes.at(-1).colour, first.colour);
  assert.equal(added(choices.classes, "tenth").classes.at(-1).colour, first.colour);
});

test("without the chosen class the first is chosen, and otherwise the choice stays", () => {
  const choices = { classes: ["1", "2", "3"].map((id) => ({ id })), classId: "2" };
  assert.equal(without(choices, "2").classId, "1");
  assert.equal(without(choices, "3").classId, "2");
  assert.deepEqual(changed(choices, "3", { name: "new" }).classes.at(-1), { id: "3", name: "new" });
  assert.deepEqual(choices.classes.at(-1), { id: "3" });
});

test("a list of names has commas or lines, and a name that is there is chosen, not made again", () => {
  assert.deepEqual(namesIn(" cat,dog ,\r\n big bird\n\n"), ["cat", "dog", "big bird"]);
  assert.deepEqual(namesIn("x".repeat(100)), ["x".repeat(80)]);
  assert.deepEqual(namesIn(" , "), []);
  const { classes } = added(added([], "cat").classes, "dog");
  assert.deepEqual(added(classes, "cat"), { classes, classId: "1" });
});
