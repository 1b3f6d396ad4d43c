// Reads labels as the page does: node import.mjs images.json folder file…; prints the format and what is in the files.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { load } from "./page.mjs";

const { recognized, unpacked } = await load("import/index.js");
const { imageFor } = await load("import/match.js");
const [, , known, folder, ...names] = process.argv;
const images = JSON.parse(known);
const files = await Promise.all(names.map(async (path) => ({ path, blob: new Blob([await readFile(join(folder, path))]) })));
try {
  const { format, photos, read } = await recognized(await unpacked(files));
  const labels = await read((wanted) => imageFor({ names: wanted, byStem: true }, images));
  console.log(JSON.stringify({ format, photos: photos.map(({ path }) => path), ...labels }));
} catch (error) {
  console.log(JSON.stringify({ problem: error.message }));
}
