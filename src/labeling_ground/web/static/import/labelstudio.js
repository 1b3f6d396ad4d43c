// Label Studio's JSON export: brushes, polygons, rectangles and points.

import { fromPixels } from "../shared/rle.js";
import { filled } from "../shared/shapes.js";
import { baseOf, boxLabel, made, objectOf } from "./parts.js";
import { t } from "../shared/words.js";

export const isLabelStudio = (data) => Array.isArray(data) && data.length > 0 && data.every((task) => task?.data && (task.annotations || task.predictions));

/** Each task's image with the objects of its newest annotation that was not cancelled, or of its newest prediction. */
export function fromLabelStudio(tasks) {
  const images = tasks.map((task) => {
    const annotations = (task.annotations ?? []).filter((one) => !one.was_cancelled);
    const results = (annotations.at(-1) ?? task.predictions?.at(-1))?.result ?? [];
    const drawn = results.filter(({ value }) => value && labelsOf(value));
    const objects = drawn.map(region).filter(Boolean);
    return { names: namesOf(task), ...sizeOf(drawn), objects, unread: drawn.length - objects.length };
  });
  const names = new Set(images.flatMap(({ objects }) => objects.map((object) => object.class)));
  return { classes: [...names].map((name) => ({ name })), images };
}

/** What an image may be called: the address in the task, its last part, and that without what Label Studio puts before uploads. */
function namesOf({ data, file_upload: upload }) {
  const address = [data.image, ...Object.values(data)].find((value) => typeof value === "string") ?? upload ?? "?";
  const path = decodeURIComponent(/[?&]d=([^&]+)/.exec(address)?.[1] ?? address.split("?")[0]);
  const base = baseOf(path);
  return [...new Set([path, base, base.replace(/^[0-9a-f]{8}-/, "")])];
}

function sizeOf([first]) {
  return { width: first?.original_width, height: first?.original_height };
}

function labelsOf(value) {
  return value.brushlabels ?? value.polygonlabels ?? value.rectanglelabels ?? value.keypointlabels;
}

function region({ value, original_width: width, original_height: height, meta = {} }) {
  const size = [height, width];
  const more = made({ ...meta, name: meta.text?.[0] });
  const label = labelsOf(value)[0] ?? "?";
  if (value.rle) return objectOf(label, { rle: fromPixels(brushPixels(value.rle, width * height), width, height) }, more);
  const at = { x: (value.x / 100) * width, y: (value.y / 100) * height };
  if (value.keypointlabels) {
    const point = { x: Math.floor(Math.min(at.x, width - 1)), y: Math.floor(Math.min(at.y, height - 1)), label: 1 };
    return { class: label, kind: "point", byHand: true, name: "", rle: null, points: [point], box: null, ...more };
  }
  if (value.width !== undefined && !value.rotation) {
    return boxLabel(label, [at.x, at.y, at.x + (value.width / 100) * width, at.y + (value.height / 100) * height], size, more);
  }
  const ring = value.points?.flat() ?? (value.width === undefined ? null : corners(value, width, height));
  if (!ring) return null;
  return objectOf(label, { spans: filled([ring.map((share, i) => (share / 100) * (i % 2 ? height : width))], size), size }, more);
}

/** A rectangle's corners in percent, turned about its first one. */
function corners({ x, y, width, height, rotation = 0 }, imageWidth, imageHeight) {
  const [cos, sin] = [Math.cos((rotation * Math.PI) / 180), Math.sin((rotation * Math.PI) / 180)];
  const ratio = imageHeight / imageWidth;
  return [[0, 0], [width, 0], [width, height], [0, height]].flatMap(([dx, dy]) => [x + dx * cos - dy * ratio * sin, y + dy * cos + (dx * sin) / ratio]);
}

/** A brush's runs as row-major pixels, 0 or 1, `many` of them: a bit stream of runs, each of one value or of all its values. */
function brushPixels(packed, many) {
  const bytes = Uint8Array.from(packed);
  const pixels = new Uint8Array(many);
  let at = 0;
  const read = (bits) => {
    let value = 0;
    for (let i = 0; i < bits; i++, at++) value = value * 2 + ((bytes[at >> 3] >> (7 - (at & 7))) & 1);
    return value;
  };
  const total = read(32), word = read(5) + 1, sizes = [1, 2, 3, 4].map(() => read(4) + 1);
  if (total !== 4 * many) throw new Error(t("brushResized"));
  for (let filled = 0; filled < total; ) {
    if (at > 8 * bytes.length) throw new Error(t("brushCut"));
    const repeats = read(1), length = read(sizes[read(2)]) + 1;
    const value = repeats ? read(word) : 0;
    // Four values a pixel, all the same in a brush: the last one, its opacity, counts.
    for (const end = filled + length; filled < end; filled++) {
      const one = repeats ? value : read(word);
      if ((filled & 3) === 3 && one > 127) pixels[filled >> 2] = 1;
    }
  }
  return pixels;
}
