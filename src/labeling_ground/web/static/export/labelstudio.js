// Label Studio tasks with brush masks. Its brush RLE packs the mask as RGBA bytes, every pixel four times the same value.

import { className, middleOf, nested, provenance } from "./parts.js";
import { decodeCounts } from "../shared/rle.js";

const SIZES = [3, 4, 8, 16]; // bits of a run's length that a run may choose from

/** Tasks to import. Labels of the project are the classes' names; the tags are called `tag` and `image`. */
export function toLabelStudio({ images, classes }, progress = () => {}) {
  return images.map((image, i) => {
    const result = image.objects.map((object) => region(object, image, classes));
    progress(i + 1, images.length);
    return { data: { image: image.name }, annotations: [{ result }] };
  });
}

function region(object, image, classes) {
  const { name, ...made } = provenance(object);
  const meta = { ...(name && { text: [name] }), ...made, ...nested(object) };
  const label = [className(classes, object)];
  return {
    id: object.id,
    ...valued(object, image, label),
    to_name: "image",
    original_width: image.width,
    original_height: image.height,
    image_rotation: 0,
    ...(Object.keys(meta).length && { meta }),
  };
}

/** Masks are brushes of the control `tag`; boxes and points that no model made are regions of `box` and `point`. */
function valued({ kind, rle, box, points }, { width, height }, label) {
  const [x, y] = [(value) => (100 * value) / width, (value) => (100 * value) / height];
  if (kind === "box") {
    const value = { x: x(box[0]), y: y(box[1]), width: x(box[2] - box[0]), height: y(box[3] - box[1]), rotation: 0, rectanglelabels: label };
    return { type: "rectanglelabels", from_name: "box", value };
  }
  if (kind === "point") {
    const middle = middleOf(points[0]);
    return { type: "keypointlabels", from_name: "point", value: { x: x(middle[0]), y: y(middle[1]), width: 0.5, keypointlabels: label } };
  }
  return { type: "brushlabels", from_name: "tag", value: { format: "rle", rle: Array.from(brushRle(rle)), brushlabels: label } };
}

/** The brush RLE of a COCO RLE, as bytes. */
function brushRle(rle) {
  const [height, width] = rle.size;
  const out = new Bits();
  out.write(height * width * 4, 32);
  out.write(8 - 1, 5); // bits of a value
  for (const size of SIZES) out.write(size - 1, 4);
  for (const [length, value] of rowRuns(decodeCounts(rle.counts), width, height)) {
    for (let left = length * 4; left > 0; left -= 65536) writeRun(out, Math.min(left, 65536), value);
  }
  return out.bytes();
}

function writeRun(out, length, value) {
  const index = SIZES.findIndex((size) => length <= 2 ** size);
  out.write(1, 1); // a value that repeats
  out.write(index, 2);
  out.write(length - 1, SIZES[index]);
  out.write(value ? 255 : 0, 8);
}

// COCO's runs go down the columns, these go along the rows.
function rowRuns(columnRuns, width, height) {
  const pixels = new Uint8Array(width * height);
  let at = 0;
  columnRuns.forEach((run, i) => {
    if (i % 2) for (let k = at; k < at + run; k++) pixels[(k % height) * width + Math.floor(k / height)] = 1;
    at += run;
  });
  const found = [];
  for (let from = 0; from < pixels.length; ) {
    let to = from + 1;
    while (to < pixels.length && pixels[to] === pixels[from]) to++;
    found.push([to - from, pixels[from]]);
    from = to;
  }
  return found;
}

class Bits {
  #bytes = new Uint8Array(1024);
  #length = 0; // in bits

  write(value, bits) {
    for (let i = bits - 1; i >= 0; i--) {
      const byte = this.#length >> 3;
      if (byte === this.#bytes.length) {
        const more = new Uint8Array(2 * byte);
        more.set(this.#bytes);
        this.#bytes = more;
      }
      if ((value >>> i) & 1) this.#bytes[byte] |= 128 >> (this.#length & 7);
      this.#length++;
    }
  }

  bytes() {
    return this.#bytes.slice(0, Math.ceil(this.#length / 8));
  }
}
