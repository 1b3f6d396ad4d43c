import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { filesOf, pathOf, photosOf } = await load("labeling/files.js");

test("images are known by type or name, and come in the order of their paths, numbers by value", () => {
  const files = [{ name: "b10.png", type: "image/png" }, { name: "b9.heic", type: "" }, { name: "notes.txt", type: "text/plain" },
    { name: "z.png", type: "image/png", webkitRelativePath: "a/z.png" }];
  assert.deepEqual(photosOf(files).map(pathOf), ["a/z.png", "b9.heic", "b10.png"]);
});

test("a dropped folder gives the files below it, with their paths, also where a folder is read in parts", async () => {
  const entry = (fullPath) => ({ isFile: true, fullPath, file: (take) => take({ name: fullPath.split("/").at(-1) }) });
  const parts = [[entry("/set/1.png"), entry("/set/2.png")], [entry("/set/3.png")], []];
  const folder = { isDirectory: true, createReader: () => ({ readEntries: (take) => take(parts.shift()) }) };
  const item = (found) => ({ kind: "file", webkitGetAsEntry: () => found });
  const found = await filesOf({ items: [item(folder), { kind: "string" }, item(entry("/4.png"))], files: [] });
  assert.deepEqual(found.map(pathOf), ["set/1.png", "set/2.png", "set/3.png", "4.png"]);
});
