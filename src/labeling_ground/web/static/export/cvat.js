// CVAT for images 1.1: one XML file with masks as runs in their boxes, or with polygons.

import { cutOut } from "../shared/rle.js";
import { pairs } from "./labelme.js";
import { photoPaths } from "./names.js";
import { attributesOf, className, middleOf, xml } from "./parts.js";
import { polygonsOf } from "./polygons.js";

const ATTRIBUTES = ["name", "model", "model_version", "by_hand"]; // beside those of the class

/** The data set as files. `as` is "masks" or "polygons" (pieces of one object share a `group_id`). */
export function toCvat({ images, classes }, { as = "masks", tolerance = 0, images: copied = false } = {}, progress = () => {}) {
  const paths = photoPaths(images, copied);
  const files = {};
  let group = 0;
  const written = images.map((image, i) => {
    const shapes = image.objects.map((object) => {
      const label = className(classes, object);
      const plain = plainOf(object, label);
      if (plain) return plain;
      return as === "masks" ? maskOf(object, label) : polygons(object, { label, tolerance, group: ++group });
    });
    if (copied) files[`images/${paths[i]}`] = image.file;
    progress(i + 1, images.length);
    return `  <image id="${i}" name="${xml(paths[i])}" width="${image.width}" height="${image.height}">\n${shapes.join("")}  </image>\n`;
  });
  const labels = `<labels>\n${classes.map(label).join("")}</labels>`;
  files["annotations.xml"] = `<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task>${labels}</task></meta>
${written.join("")}</annotations>
`;
  return files;
}

function label({ name, colour, attributes = [] }) {
  const all = [...new Set([...attributes.map((one) => one.name), ...ATTRIBUTES])];
  const attribute = (one) => `<attribute><name>${xml(one)}</name><mutable>False</mutable><input_type>text</input_type><default_value></default_value><values></values></attribute>`;
  return `<label><name>${xml(name)}</name><color>${xml(colour ?? "")}</color><type>any</type><attributes>${all.map(attribute).join("")}</attributes></label>\n`;
}

function written(object) {
  return Object.entries(attributesOf(object)).map(([name, value]) => `<attribute name="${xml(name)}">${xml(value)}</attribute>`).join("");
}

/** A box or a point that no model made. */
function plainOf(object, label) {
  const { kind, box, points } = object;
  const common = `label="${xml(label)}" source="manual" occluded="0" z_order="0"`;
  if (kind === "box") return `    <box ${common} xtl="${box[0]}" ytl="${box[1]}" xbr="${box[2]}" ybr="${box[3]}">${written(object)}</box>\n`;
  if (kind === "point") return `    <points ${common} points="${middleOf(points[0]).join(",")}">${written(object)}</points>\n`;
  return null;
}

/** Runs along the rows of the mask's box, the first of them background. */
function maskOf(object, label) {
  const { x, y, width, height, pixels } = cutOut(object.rle);
  const runs = [];
  let value = 0, run = 0;
  for (const pixel of pixels) {
    if (pixel !== value) {
      runs.push(run);
      [run, value] = [0, pixel];
    }
    run++;
  }
  runs.push(run);
  return `    <mask label="${xml(label)}" source="semi-auto" occluded="0" rle="${runs.join(", ")}" left="${x}" top="${y}" width="${width}" height="${height}" z_order="0">${written(object)}</mask>\n`;
}

function polygons(object, { label, tolerance, group }) {
  const found = polygonsOf(object.rle, { tolerance });
  const grouped = found.length > 1 ? ` group_id="${group}"` : "";
  return found.map((ring) => {
    const points = pairs(ring).map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(";");
    return `    <polygon label="${xml(label)}" source="semi-auto" occluded="0" points="${points}" z_order="0"${grouped}>${written(object)}</polygon>\n`;
  }).join("");
}
