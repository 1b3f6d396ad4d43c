// What can be taken home, by the names of the export dialog.

import { toCoco } from "./coco.js";
import { toLabelStudio } from "./labelstudio.js";
import { toMasks } from "./masks.js";
import { toYolo } from "./yolo.js";
import { zip } from "./zip.js";

const json = (value) => new Blob([JSON.stringify(value)], { type: "application/json" });
const archive = (files) => new Blob(zip(files), { type: "application/zip" });

export const FORMATS = {
  "coco-rle": { file: "coco.json", make: (set) => json(toCoco(set, "rle")) },
  "coco-polygons": { file: "coco-polygons.json", make: (set) => json(toCoco(set, "polygons")) },
  masks: { file: "masks.zip", make: async (set) => archive(await toMasks(set)) },
  yolo: { file: "yolo.zip", make: (set) => archive(toYolo(set)) },
  labelstudio: { file: "label-studio.json", make: (set) => json(toLabelStudio(set)) },
};
