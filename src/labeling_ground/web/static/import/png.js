// Reads the values of a PNG as they are (ISO/IEC 15948): a canvas would give colours for places in a palette.

import { t } from "../shared/words.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // by colour type
const MOST_PIXELS = 2 ** 28;

/**
 * `{width, height, values, isIndexed}`; `values` are row-major numbers: grey, the place in a palette, or of colours red + 256 green +
 * 65536 blue. 1 to 8 bits, not interlaced. Throws an `Error` that says what it is else.
 */
export async function decodedPng(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (SIGNATURE.some((byte, i) => bytes[i] !== byte)) throw new Error(t("pngNone"));
  const { head, data } = chunks(bytes);
  const [width, height] = [head.getUint32(0), head.getUint32(4)];
  const [depth, kind, interlaced] = [head.getUint8(8), head.getUint8(9), head.getUint8(12)];
  if (depth > 8 || interlaced) throw new Error(t("pngDeep"));
  if (!(kind in CHANNELS) || width * height > MOST_PIXELS) throw new Error(t("pngLarge"));
  const channels = CHANNELS[kind];
  const wide = Math.ceil((width * channels * depth) / 8);
  const rows = new Uint8Array(await new Response(new Blob(data).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  if (rows.length !== (wide + 1) * height) throw new Error(t("pngDamaged"));
  unfilter(rows, wide, Math.max(1, (channels * depth) >> 3));
  return { width, height, isIndexed: kind === 3, values: valuesOf(rows, { width, height, wide, depth, channels }) };
}

function chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const data = [];
  let head = null;
  for (let at = 8; at + 12 <= bytes.length; ) {
    const long = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (name === "IHDR") head = new DataView(bytes.buffer, bytes.byteOffset + at + 8, 13);
    if (name === "IDAT") data.push(bytes.subarray(at + 8, at + 8 + long));
    at += 12 + long;
  }
  if (!head) throw new Error(t("pngDamaged"));
  return { head, data };
}

function unfilter(rows, wide, step) {
  let above = new Uint8Array(wide);
  for (let at = 0; at < rows.length; at += wide + 1) {
    const row = rows.subarray(at + 1, at + 1 + wide);
    const kind = rows[at];
    for (let x = 0; x < wide; x++) {
      const left = x >= step ? row[x - step] : 0, up = above[x], corner = x >= step ? above[x - step] : 0;
      row[x] += [0, left, up, (left + up) >> 1, paeth(left, up, corner)][kind] ?? 0;
    }
    above = row;
  }
}

function paeth(left, up, corner) {
  const from = left + up - corner;
  const [a, b, c] = [Math.abs(from - left), Math.abs(from - up), Math.abs(from - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function valuesOf(rows, { width, height, wide, depth, channels }) {
  const values = new Uint32Array(width * height);
  for (let y = 0, at = 0; y < height; y++) {
    const row = rows.subarray(y * (wide + 1) + 1, (y + 1) * (wide + 1));
    for (let x = 0; x < width; x++, at++) {
      if (channels >= 3) values[at] = row[x * channels] + 256 * row[x * channels + 1] + 65536 * row[x * channels + 2];
      else if (depth === 8) values[at] = row[x * channels];
      else values[at] = (row[(x * depth) >> 3] >> (8 - depth - ((x * depth) & 7))) & (2 ** depth - 1);
    }
  }
  return values;
}
