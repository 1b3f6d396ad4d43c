import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { load, root } from "./page.mjs";

const { keyOf, table } = await load("labeling/keys.js");
const { t } = await load("shared/words.js");

const pressed = (key, code, held = {}) => keyOf({ key, code, shiftKey: false, ctrlKey: false, metaKey: false, ...held });

test("CapsLock changes no key", () => {
  assert.equal(pressed("C", "KeyC"), "c"); // CapsLock on
  assert.equal(pressed("c", "KeyC", { shiftKey: true }), "C"); // CapsLock on, and Shift
  assert.equal(pressed("c", "KeyC"), "c");
  assert.equal(pressed("C", "KeyC", { shiftKey: true }), "C");
  assert.equal(pressed("Z", "KeyZ", { ctrlKey: true }), "Mod+z"); // undo stays undo
  assert.equal(pressed("z", "KeyZ", { metaKey: true, shiftKey: true }), "Mod+Z");
});

test("a layout without Latin letters has them by their place, and others keep theirs", () => {
  assert.equal(pressed("ㅊ", "KeyC"), "c");
  assert.equal(pressed("ㅋ", "KeyZ", { ctrlKey: true }), "Mod+z");
  assert.equal(pressed("я", "KeyZ", { shiftKey: true }), "Z");
  assert.equal(pressed("a", "KeyQ"), "a"); // a French keyboard
  for (const key of ["Enter", "1", "?", "]", "PageDown", "Process", "F2"]) assert.equal(pressed(key, ""), key);
});

test("signs and digits are told by their place where a layout or an input method has others there", () => {
  assert.equal(pressed("б", "Comma"), ","); // a Russian keyboard
  assert.equal(pressed("х", "BracketLeft"), "[");
  assert.equal(pressed("Process", "KeyC"), "c"); // a Korean input method at work
  assert.equal(pressed("Process", "Slash", { shiftKey: true }), "?");
  assert.equal(pressed("Process", "Enter"), "Process"); // Enter ends a syllable
  assert.equal(pressed("&", "Digit1"), "1"); // a French keyboard, whose digits need Shift
  assert.equal(pressed("1", "Digit1", { shiftKey: true }), "1");
  assert.equal(pressed("!", "Digit1", { shiftKey: true }), "!");
  assert.equal(pressed("ㅁ", "KeyA", { ctrlKey: true }), "Mod+a");
});

test("every key of the table is one that can be pressed, and none is there twice", () => {
  const keys = table({ editor: {} }).flatMap((row) => row.keys);
  assert.equal(new Set(keys).size, keys.length);
  for (const key of keys.filter((one) => /^[a-z]$/i.test(one))) {
    assert.equal(pressed(key, `Key${key.toUpperCase()}`, { shiftKey: key !== key.toLowerCase() }), key);
  }
});

test("the tips name keys of the table, and each tool names its own", async () => {
  const html = await readFile(new URL("labeling/index.html", root), "utf8");
  const keys = new Set(table({ editor: {} }).flatMap((row) => row.keys));
  const named = [...html.matchAll(/data-key="([^"]+)"/g)].map(([, key]) => key);
  const asPressed = (key) => {
    const parts = key.replace("Ctrl ", "Mod+ ").replace("Esc", "Escape").split(" ");
    const isLetter = parts.at(-1).length === 1;
    const last = isLetter && !parts.includes("Shift") ? parts.at(-1).toLowerCase() : parts.at(-1);
    return parts[0] === "Mod+" ? `Mod+${last}` : last;
  };
  assert.deepEqual(named.filter((key) => !keys.has(asPressed(key))), []);
  assert.equal(new Set(named).size, named.length);
  const tools = html.match(/<button [^>]*data-tool=[^>]*>/g);
  assert.ok(tools.length > 8 && tools.every((one) => one.includes("data-key=")));
});

test("the key that saves elsewhere says that everything is kept, or why it is not", () => {
  const told = [];
  const page = { editor: {}, storageTrouble: null, tell: (text) => told.push(text) };
  const { run } = table(page).find(({ keys }) => keys.includes("Mod+s"));
  run();
  page.storageTrouble = "full";
  run();
  assert.deepEqual(told, [t("isKept"), t("notKept", { why: "full" })]);
});
