// Reads ZIP archives, stored or deflated. PKWARE's APPNOTE 6.3, without ZIP64 and encryption.

import { t } from "../shared/words.js";

const MOST_BYTES = 2 ** 30; // of one file when it is unpacked
const END = 0x06054b50, ENTRY = 0x02014b50;

/** The files of an archive, `[{path, read() → Promise<Blob>}]`; each is unpacked when it is read. Throws an `Error` where it is none. */
export async function unzipped(blob) {
  const tail = new DataView(await blob.slice(Math.max(0, blob.size - 65_557)).arrayBuffer());
  let end = tail.byteLength - 22;
  while (end >= 0 && tail.getUint32(end, true) !== END) end--;
  if (end < 0) throw new Error(t("zipNone"));
  const many = tail.getUint16(end + 10, true), size = tail.getUint32(end + 12, true), from = tail.getUint32(end + 16, true);
  if (from === 0xffffffff || many === 0xffff) throw new Error(t("zip64"));
  const directory = new DataView(await blob.slice(from, from + size).arrayBuffer());
  const found = [];
  for (let at = 0, n = 0; n < many; n++) {
    if (at + 46 > directory.byteLength || directory.getUint32(at, true) !== ENTRY) throw new Error(t("zipDirectory"));
    const [name, extra, comment] = [28, 30, 32].map((field) => directory.getUint16(at + field, true));
    const path = new TextDecoder().decode(new Uint8Array(directory.buffer, at + 46, name));
    const entry = {
      flags: directory.getUint16(at + 8, true), method: directory.getUint16(at + 10, true), packed: directory.getUint32(at + 20, true),
      size: directory.getUint32(at + 24, true), offset: directory.getUint32(at + 42, true), path,
    };
    if (!path.endsWith("/")) found.push({ path, read: () => contents(blob, entry) });
    at += 46 + name + extra + comment;
  }
  return found;
}

async function contents(blob, { flags, method, packed, size, offset, path }) {
  if (flags & 1) throw new Error(t("zipEncrypted", { path }));
  if (method !== 0 && method !== 8) throw new Error(t("zipMethod", { path }));
  if (size > MOST_BYTES) throw new Error(t("zipLarge", { path }));
  const head = new DataView(await blob.slice(offset, offset + 30).arrayBuffer());
  const from = offset + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const data = blob.slice(from, from + packed);
  return method === 0 ? data : inflated(data, size, path);
}

/** Deflated bytes unpacked: no more of them than the archive says. */
async function inflated(data, size, path) {
  const reader = data.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  let many = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    many += value.length;
    if (many > size) break;
    parts.push(value);
  }
  if (many !== size) throw new Error(t("zipDamaged", { path }));
  return new Blob(parts);
}
