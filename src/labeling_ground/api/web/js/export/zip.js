// Archives without compression: what goes in is small or compressed already. PKWARE's APPNOTE 6.3, without ZIP64.

const encoder = new TextEncoder();
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

/** A ZIP archive of `{path: text or Uint8Array}`, as the parts of a Blob. */
export function zip(files) {
  const parts = [], directory = [];
  let offset = 0, listed = 0;
  for (const [path, content] of Object.entries(files)) {
    const bytes = typeof content === "string" ? encoder.encode(content) : content;
    const name = encoder.encode(path);
    const common = [
      [20, 2], [0x800, 2], [0, 2], [0, 2], [0x21, 2], // version, UTF-8 names, stored, midnight of 1980-01-01
      [crc32(bytes), 4], [bytes.length, 4], [bytes.length, 4], [name.length, 2], [0, 2],
    ];
    const head = pack([0x04034b50, 4], ...common);
    directory.push(pack([0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), name);
    listed += 46 + name.length;
    parts.push(head, name, bytes);
    offset += head.length + name.length + bytes.length;
  }
  const many = directory.length / 2;
  const end = pack([0x06054b50, 4], [0, 2], [0, 2], [many, 2], [many, 2], [listed, 4], [offset, 4], [0, 2]);
  return [...parts, ...directory, end];
}

function pack(...fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [, size]) => sum + size, 0));
  let at = 0;
  for (const [value, size] of fields) for (let i = 0; i < size; i++) bytes[at++] = (value >>> (8 * i)) & 255;
  return bytes;
}
