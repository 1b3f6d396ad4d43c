// YOLO: a text file for each image; rows of a class and either a box or the corners of a piece, as shares.

import { filled } from "../shared/shapes.js";
import { baseOf, boxLabel, jsonOf, objectOf, stemOf } from "./parts.js";
import { t } from "../shared/words.js";

const isLabels = ({ path }) => path.endsWith(".txt") && /(^|\/)labels\//.test(path);

export const isYolo = (files) => files.some(isLabels);

/**
 * The images that label files belong to, with their objects. `sizeOf(names)` is an image's `{width, height}` as far as it is open.
 * Rows of one object's pieces are objects of their own.
 */
export async function fromYolo(files, sizeOf) {
  const described = files.find(({ path }) => /(^|\/)data\.ya?ml$/.test(path));
  const names = described ? classNames(await (await described.read()).text()) : new Map();
  const list = files.find(({ path }) => baseOf(path) === "renamed.json");
  const renamed = new Map(list ? Object.entries(await jsonOf(list)).map(([name, path]) => [stemOf(path), name]) : []);
  const images = [];
  for (const file of files.filter(isLabels)) {
    const path = stemOf(file.path.replace(/(^|.*\/)labels\//, "$1images/"));
    const inside = path.replace(/^.*?(^|\/)images\//, "");
    const wanted = [path, inside, ...(renamed.has(`images/${inside}`) ? [stemOf(renamed.get(`images/${inside}`))] : [])];
    const found = sizeOf(wanted.toReversed());
    const rows = (await (await file.read()).text()).split("\n").map((line) => line.trim().split(/\s+/).map(Number)).filter((row) => row.length > 4);
    if (rows.flat().some(Number.isNaN)) throw new Error(t("notNumbers", { path: file.path }));
    const objects = found ? rows.map((row) => labelOf(names.get(row[0]) ?? `class ${row[0]}`, row.slice(1), found)) : [];
    images.push({ names: wanted.toReversed(), byStem: true, objects, unread: 0 });
  }
  const used = new Set(images.flatMap(({ objects }) => objects.map((object) => object.class)));
  return { classes: [...new Set([...names.values(), ...used])].map((name) => ({ name })), images };
}

function labelOf(name, shares, { width, height }) {
  const size = [height, width];
  const pixels = shares.map((share, i) => share * (i % 2 ? height : width));
  if (pixels.length > 4) return objectOf(name, { spans: filled([pixels], size), size });
  const [x, y, w, h] = pixels;
  return boxLabel(name, [x - w / 2, y - h / 2, x + w / 2, y + h / 2], size);
}

/** The names in a data.yaml, by number: a mapping, a list of lines, or a list in brackets. */
export function classNames(text) {
  const lines = text.split(/\r?\n/);
  const at = lines.findIndex((line) => /^names\s*:/.test(line));
  if (at < 0) return new Map();
  const inline = /^names\s*:\s*\[(.*)\]\s*(?:#.*)?$/.exec(lines[at])?.[1];
  if (inline !== undefined) return new Map((inline.match(/"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,]+/g) ?? []).map((one, i) => [i, plain(one)]));
  const found = new Map();
  for (const line of lines.slice(at + 1)) {
    const [, number, name] = /^\s*(?:(\d+)\s*:|-)\s*(.*)$/.exec(line) ?? [];
    if (name === undefined) {
      if (line.replace(/#.*/, "").trim()) break;
    } else {
      found.set(number === undefined ? found.size : Number(number), plain(name));
    }
  }
  return found;
}

function plain(text) {
  const word = text.trim();
  const [quoted] = /^(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')/.exec(word) ?? [];
  if (quoted?.startsWith('"')) return JSON.parse(quoted);
  return quoted ? quoted.slice(1, -1).replaceAll("''", "'") : word.replace(/\s+#.*$/, "");
}
