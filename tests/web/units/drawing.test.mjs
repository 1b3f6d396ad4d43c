import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { bannerOf, hintOf, remark } = await load("labeling/drawing.js");
const { EMPTY, neighbour, withMask, withPoint } = await load("labeling/work.js");
const { Refused } = await load("shared/server.js");
const { speak, t } = await load("shared/words.js");

const connection = { trouble: null, isBack: false };

test("the banner says the worst there is, and nothing where all is well", () => {
  assert.equal(bannerOf({ connection, storageTrouble: null }), null);
  const full = { connection, storageTrouble: "full" };
  assert.equal(bannerOf(full), t("notKept", { why: "full" }));
  assert.equal(bannerOf({ ...full, connection: { trouble: null, isBack: true } }), t("back"));
  const failed = new Refused(503, { type: "urn:labeling-ground:problem:backend-failed", detail: "The model cannot be loaded." }, 1);
  assert.equal(bannerOf({ connection: { trouble: "busy", why: failed } }), `${t("refused", { why: failed.message })}\n${t("again")}`);
  const full503 = new Refused(503, { type: "urn:labeling-ground:problem:overloaded", detail: "40 wait." }, 1);
  assert.equal(bannerOf({ connection: { trouble: "busy", why: full503 } }), t("busy"));
  for (const trouble of ["busy", "gone"]) assert.equal(bannerOf({ ...full, connection: { trouble, isBack: true } }), t(trouble));
});

test("the hint says why a prompt has no mask, before what was told last", () => {
  const off = withPoint(EMPTY, { x: 1, y: 2, label: 0 });
  assert.equal(hintOf({ work: EMPTY, problem: null }), null);
  assert.equal(hintOf({ work: EMPTY, problem: null, told: "hello" }), "hello");
  assert.equal(hintOf({ work: off, problem: null, told: "hello" }), t("needPositive"));
  assert.equal(hintOf({ work: withMask(EMPTY, { rle: {}, area: 4 }), problem: null }), null);
  assert.equal(hintOf({ work: off, problem: new Error("too large"), told: "hello" }), "too large");
});

test("the next object and the one before go round in a ring", () => {
  const work = { objects: ["a", "b", "c"].map((id) => ({ id })) };
  assert.deepEqual(["a", "c"].map((id) => neighbour(work, id, 1)), ["b", "a"]);
  assert.deepEqual(["a", "c"].map((id) => neighbour(work, id, -1)), ["c", "b"]);
  assert.deepEqual([1, -1].map((step) => neighbour(work, null, step)), ["a", "c"]);
  assert.equal(neighbour({ objects: [] }, null, 1), null);
});

test("what a model says of itself is said in the page's language, and what is remarked besides stays", () => {
  speak("ko", { documentElement: {}, querySelectorAll: () => [] });
  const models = [{ name: "classical", note: "Not SAM." }, { name: "sam", note: null }, { name: "own", note: "Mine." }];
  assert.equal(remark(models, "Not SAM. White on white."), `${t("note-classical")} White on white.`);
  assert.match(t("note-classical"), /Segment Anything이 아니라/);
  assert.deepEqual([remark(models, "Mine."), remark(models, ""), remark([], undefined)], ["Mine.", "", ""]);
  speak("en", { documentElement: {}, querySelectorAll: () => [] });
});
