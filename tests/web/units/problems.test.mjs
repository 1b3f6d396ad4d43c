import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { reasonOf, remarked, remarksIn, sentenceOf } = await load("shared/problems.js");
const { Refused } = await load("shared/server.js");
const { setLanguage, t } = await load("shared/words.js");

const damaged = new Refused(400, { type: "urn:labeling-ground:problem:damaged-image", detail: "The JPEG ends early." }, null);
const strange = new Refused(418, { type: "urn:labeling-ground:problem:teapot", detail: "Short and stout." }, null);

test("a refusal is told by the server's sentence, and in another language by the page's own before that", () => {
  assert.equal(sentenceOf(damaged), t("refused", { why: "The JPEG ends early." }));
  setLanguage("ko");
  const [own, servers, ...more] = sentenceOf(damaged).split("\n");
  assert.match(own, /이미지 파일이 손상/);
  assert.deepEqual([servers, more], ["서버 메시지: The JPEG ends early.", []]);
  assert.equal(reasonOf(damaged), own);
  assert.equal(sentenceOf(strange), "서버 메시지: Short and stout."); // no sentence of ours
  assert.equal(sentenceOf(new Refused(413, null, null)), "서버 메시지: HTTP 413"); // a proxy's
  assert.equal(sentenceOf(structuredClone(damaged.problem)), sentenceOf(damaged)); // as it comes out of the storage
  setLanguage("en");
});

test("what the page itself found wrong is not put into the server's mouth", () => {
  for (const error of [new Error("Click again."), "Click again."]) assert.equal(sentenceOf(error), "Click again.");
});

test("what the server remarks on an image is said in the page's words, and names its switch", () => {
  const range = "This 16-bit image uses 1.6 % of its range, so it has little contrast. Send it with stretch=0.5,99.5 to spread its values over the full range.";
  assert.equal(remarked(`Not SAM. ${range}`), `Not SAM. ${t("remark-range", { what: "1.6" })}`);
  assert.match(t("remark-range"), new RegExp(`«${t("stretch")}»`));
  assert.equal(remarksIn(`Not SAM. ${range}`), t("remark-range", { what: "1.6" }));
  assert.equal(remarksIn("Not SAM."), "");
});
