// What the decoding modules make of a folder's `asks.json` and binary files, as JSON on stdout: Python compares it with
// what the server makes of the same.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { load } from "./page.mjs";

const { order, paint } = await load("decode/masks.js");
const { LOW_RES, frameOf, lowResLogits, tokensOf } = await load("decode/prompts.js");
const { read } = await load("decode/tensors.js");

const folder = process.argv[2];
const bytes = async (name) => {
  const file = await readFile(join(folder, name));
  return file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
};
const asks = JSON.parse(await readFile(join(folder, "asks.json"), "utf8"));
const made = { masks: [], prompts: [], tensors: {} };
const logits = new Float32Array(await bytes("logits.bin"));
for (const { family, width, height, scores } of asks.masks) {
  const frame = frameOf(family, { width, height });
  made.masks.push(order(scores).map((index) => {
    const one = logits.subarray(index * LOW_RES * LOW_RES, (index + 1) * LOW_RES * LOW_RES);
    return { ...paint(one, frame, family), score: scores[index] };
  }));
}
for (const { family, width, height, points, box } of asks.prompts) {
  const { coords, labels } = tokensOf({ points, box }, frameOf(family, { width, height }), family);
  made.prompts.push({ coords: [...coords], labels: [...labels] });
}
made.starts = asks.starts.map(({ family, width, height, rle }) => [...lowResLogits(rle, frameOf(family, { width, height }))]);
const { tensors, metadata } = read(await bytes("embedding.safetensors"));
made.metadata = metadata;
for (const [name, { shape, data }] of Object.entries(tensors)) {
  made.tensors[name] = { shape, bits: [...new Uint32Array(data.buffer, data.byteOffset, data.length)] };
}
process.stdout.write(JSON.stringify(made));
