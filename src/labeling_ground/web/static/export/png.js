// Masks as PNGs (ISO/IEC 15948) with the values that are meant: a canvas would give RGBA with its own rounding.

import { crc32 } from "./zip.js";

const SIGNATURE = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
const GRAY = 0, RGB = 2, INDEXED = 3;

/** An 8-bit gray PNG of row-major bytes. */
export function grayPng(pixels, width, height) {
  return png(pixels, { width, height, kind: GRAY, bytes: 1 });
}

/** A PNG of row-major bytes that are places in a palette, `[[red, green, blue], …]`. */
export function palettePng(pixels, width, height, palette) {
  return png(pixels, { width, height, kind: INDEXED, bytes: 1, palette: Uint8Array.from(palette.flat()) });
}

/** A PNG of row-major triples of red, green and blue. */
export function rgbPng(pixels, width, height) {
  return png(pixels, { width, height, kind: RGB, bytes: 3 });
}

async function png(pixels, { width, height, kind, bytes, palette }) {
  const wide = width * bytes;
  const rows = new Uint8Array(height * (wide + 1)); // a leading 0 in each row: no filter
  for (let y = 0; y < height; y++) rows.set(pixels.subarray(y * wide, (y + 1) * wide), y * (wide + 1) + 1);
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  const head = new DataView(new ArrayBuffer(13));
  head.setUint32(0, width);
  head.setUint32(4, height);
  head.setUint8(8, 8);
  head.setUint8(9, kind);
  const colours = palette ? [chunk("PLTE", palette)] : [];
  const parts = [SIGNATURE, chunk("IHDR", new Uint8Array(head.buffer)), ...colours, chunk("IDAT", data), chunk("IEND", new Uint8Array(0))];
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function chunk(kind, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}
