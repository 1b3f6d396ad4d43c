// YOLO segmentation: one text file an image, one object a line: class, then corners as shares of width and height.

import { cutOut } from "../rle.js";
import { joined, pieces, trace } from "../outline.js";
import { fileNames } from "./names.js";

/** The data set as files, `{path: text}`. An image without objects has an empty file: it is background. */
export function toYolo({ images, classes }) {
  const names = classes.map((one, i) => `  ${i}: ${JSON.stringify(one.name)}`);
  const files = { "data.yaml": `path: .\ntrain: images\nval: images\nnames:\n${names.join("\n")}\n` };
  fileNames(images).forEach((name, i) => {
    files[`labels/${name}.txt`] = images[i].objects.map((object) => line(object, images[i], classes)).join("");
  });
  return files;
}

function line(object, image, classes) {
  const parts = pieces(trace(cutOut(object.rle)));
  if (parts.length === 0) return "";
  const corners = joined(parts).map((value, i) => share(value / (i % 2 ? image.height : image.width)));
  return `${classes.findIndex((one) => one.id === object.classId)} ${corners.join(" ")}\n`;
}

// Seven digits: a hundredth of a pixel even in the largest image.
function share(value) {
  return String(Math.round(value * 1e7) / 1e7);
}
