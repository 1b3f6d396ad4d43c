// Archives without compression: what goes in is small or compressed already. PKWARE's APPNOTE 6.3, without ZIP64.

import { t } from "../shared/words.js";

const encoder = new TextEncoder();
const MOST_BYTES = 2 ** 32 - 1024, MOST_FILES = 65_534;
let table = null;

/** CRC-32 of the parts, one after the other (ISO 3309). */
export function crc32(...parts) {
  table ??= Uint32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  let crc = ~0;
  for (const bytes of parts) for (const byte of bytes) crc = table[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** A ZIP archive of `{path: text, Uint8Array or Blob}`, as the parts of a Blob; `progress(done, of)` counts files. */
export async function zip(files, progress = () => {}) {
  const parts = [], directory = [];
  let offset = 0, listed = 0;
  const all = Object.entries(files);
  for (const [path, content] of all) {
    const bytes = await bytesOf(content); // of one file at a time; a Blob's stay where they are
    const name = encoder.encode(path);
    const common = [
      [20, 2], [0x800, 2], [0, 2], [0, 2], [0x21, 2], // version, UTF-8 names, stored, midnight of 1980-01-01
      [crc32(bytes), 4], [bytes.length, 4], [bytes.length, 4], [name.length, 2], [0, 2],
    ];
    const head = pack([0x04034b50, 4], ...common);
    directory.push(pack([0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), name);
    listed += 46 + name.length;
    parts.push(head, name, content instanceof Blob ? content : bytes);
    offset += head.length + name.length + bytes.length;
    if (offset + listed > MOST_BYTES || directory.length / 2 > MOST_FILES) throw new Error(t("archiveTooLarge"));
    progress(directory.length / 2, all.length);
  }
  const many = directory.length / 2;
  const end = pack([0x06054b50, 4], [0, 2], [0, 2], [many, 2], [many, 2], [listed, 4], [offset, 4], [0, 2]);
  return [...parts, ...directory, end];
}

async function bytesOf(content) {
  if (typeof content === "string") return encoder.encode(content);
  return content instanceof Blob ? new Uint8Array(await content.arrayBuffer()) : content;
}

function pack(...fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [, size]) => sum + size, 0));
  let at = 0;
  for (const [value, size] of fields) for (let i = 0; i < size; i++) bytes[at++] = (value >>> (8 * i)) & 255;
  return bytes;
}
