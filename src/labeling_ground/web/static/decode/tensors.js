// Safetensors, the form in which the server sends embeddings: the header's length in 8 bytes, a JSON header, raw numbers.

const READERS = {
  F32: (buffer, from, to) => new Float32Array(buffer.slice(from, to)), // a copy: what is in a file need not be aligned
  F16: (buffer, from, to) => widened(new Uint16Array(buffer.slice(from, to))),
};

/** The tensors of a file, in fp32, and the words that came with them: `{tensors: {name: {shape, data}}, metadata}`. */
export function read(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const start = 8 + length;
  if (start > buffer.byteLength) throw new Error("This is no whole safetensors file.");
  const { __metadata__: metadata = {}, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
    if (!READERS[dtype]) throw new Error(`The tensor ${name} is of the type ${dtype}, which this page does not read.`);
    const data = start + to <= buffer.byteLength ? READERS[dtype](buffer, start + from, start + to) : [];
    if (data.length !== shape.reduce((product, size) => product * size, 1)) throw new Error(`The tensor ${name} is not whole.`);
    tensors[name] = { shape, data };
  }
  return { tensors, metadata };
}

let table = null;

/** Numbers in half precision, given by their bits, as fp32. There are 65,536 of them: a table is fastest. */
function widened(bits) {
  table ??= Float32Array.from({ length: 65536 }, (_, half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  });
  const wide = new Float32Array(bits.length);
  for (let at = 0; at < bits.length; at++) wide[at] = table[bits[at]];
  return wide;
}
