// Writes exports of a data set, for other programs to read: node export.mjs set.json folder options.json, a name for each set of options.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { load } from "./page.mjs";

const { packed } = await load("export/index.js");
const { parted } = await load("export/parts.js");
const [, , from, to, wanted] = process.argv;
const set = JSON.parse(await readFile(from, "utf8"));
for (const image of set.images) image.file = new Blob([await readFile(image.file)]);
for (const { format, parts, ...options } of JSON.parse(wanted)) {
  const images = parts ? parted(set.images, parts) : set.images;
  const { name, blob } = await packed(format, { ...set, images }, options);
  await writeFile(join(to, name), new Uint8Array(await blob.arrayBuffer()));
}
