import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { test } from "node:test";
import { load } from "./page.mjs";

const { words } = await load("words.js");
const web = new URL("../../../src/labeling_ground/api/web/", import.meta.url);

test("every word is there in both languages, with the same blanks", () => {
  const blanks = (text) => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort();
  for (const [name, all] of Object.entries(words)) {
    assert.equal(all.length, 2, name);
    assert.deepEqual(blanks(all[0]), blanks(all[1]), name);
    assert.ok(all.every((text) => text.trim()), name);
  }
});

test("the page uses no word that is not there", async () => {
  const page = await readFile(new URL("index.html", web), "utf8");
  const used = [...page.matchAll(/data-(?:t|tip|label|placeholder)="(\w+)"/g)].map(([, name]) => name);
  assert.ok(used.length > 40);
  for (const file of (await readdir(new URL("js/", web))).filter((name) => name.endsWith(".js"))) {
    const text = await readFile(new URL(`js/${file}`, web), "utf8");
    used.push(...[...text.matchAll(/\bt\("([\w-]+)"/g), ...text.matchAll(/help: "(\w+)"/g)].map(([, name]) => name));
  }
  assert.deepEqual(used.filter((name) => !(name in words)), []);
});
