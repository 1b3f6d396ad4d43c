import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { test } from "node:test";
import { load } from "./page.mjs";

const { learn, languageFor, words } = await load("shared/words.js");
const { CACHE_WORDS } = await load("operator/words.js");
const { SET_WORDS } = await load("labeling/set-words.js");
const { FILE_WORDS } = await load("shared/file-words.js");
const { WORK_WORDS } = await load("labeling/work-words.js");
learn({ ...SET_WORDS, ...WORK_WORDS, ...FILE_WORDS });
const own = { ...words }; // before the operator's page adds its own
const web = new URL("../../../src/labeling_ground/web/static/", import.meta.url);

test("every word is there in both languages, with the same blanks", () => {
  const blanks = (text) => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort();
  for (const [name, all] of [...Object.entries(own), ...Object.entries(CACHE_WORDS)]) {
    assert.equal(all.length, 2, name);
    assert.deepEqual(blanks(all[0]), blanks(all[1]), name);
    assert.ok(all.every((text) => text.trim()), name);
  }
});

test("a number before a plural has another form for one", () => {
  const all = { ...own, ...CACHE_WORDS };
  const plurals = Object.keys(all).filter((name) => /\{(?!model|name)\w+\} [a-z-]{2,}s\b/.test(all[name][0]));
  assert.ok(plurals.length >= 4);
  assert.deepEqual(plurals.filter((name) => !(`${name}-one` in all)), []);
});

/** The words that a page and its scripts name. */
async function used(page, folders) {
  const found = [...(await readFile(new URL(page, web), "utf8")).matchAll(/data-(?:t|tip|label|placeholder)="([\w-]+)"/g)];
  for (const folder of folders) {
    const files = (await readdir(new URL(folder, web))).filter((name) => name.endsWith(".js"));
    for (const file of files) {
      const text = await readFile(new URL(folder + file, web), "utf8");
      found.push(...text.matchAll(/\b(?:t|counted)\("([\w-]+)"/g), ...text.matchAll(/help: "(\w+)"/g));
    }
  }
  return found.map(([, name]) => name);
}

test("the labeling page uses no word that is not there", async () => {
  const found = await used("labeling/index.html", ["shared/", "labeling/", "export/", "import/"]);
  assert.ok(found.length > 60);
  assert.deepEqual(found.filter((name) => !(name in own)), []);
});

test("nor does the operator's page, and its own words are other ones", async () => {
  assert.deepEqual(Object.keys(CACHE_WORDS).filter((name) => name in own), []);
  learn(CACHE_WORDS);
  const found = await used("operator/cache.html", ["operator/"]);
  assert.ok(found.length > 60);
  assert.deepEqual(found.filter((name) => !(name in words)), []);
});

test("the chosen language goes before the browser's, and English is for all others", () => {
  assert.equal(languageFor("ko", "en-US"), "ko");
  assert.equal(languageFor(null, "ko-KR"), "ko");
  assert.equal(languageFor("xx", "fr"), "en");
});
