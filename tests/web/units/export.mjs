// Writes every export of a data set, for other programs to read: node export.mjs set.json folder [options.json]
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { load } from "./page.mjs";

const { FORMATS } = await load("export/index.js");
const [, , from, to, options = "{}"] = process.argv;
const set = JSON.parse(await readFile(from, "utf8"));
for (const image of set.images) image.file = new Blob([await readFile(image.file)]);
for (const { file, make } of Object.values(FORMATS)) {
  const blob = await make(set, JSON.parse(options), () => {});
  await writeFile(join(to, file), new Uint8Array(await blob.arrayBuffer()));
}
