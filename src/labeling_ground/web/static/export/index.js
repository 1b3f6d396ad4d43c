// What can be taken home, by the names of the export dialog.

import { toCoco } from "./coco.js";
import { toLabelStudio } from "./labelstudio.js";
import { toMasks } from "./masks.js";
import { toYolo } from "./yolo.js";
import { zip } from "./zip.js";

const json = (value) => new Blob([JSON.stringify(value)], { type: "application/json" });
const archive = async (files) => new Blob(await zip(files), { type: "application/zip" });

/** By name: the file's name, the options it has, and what makes it; `make(set, options, progress)` tells `progress(done, of)`. */
export const FORMATS = {
  "coco-rle": { file: "coco.json", options: ["background"], make: (set, _, progress) => json(toCoco(set, "rle", progress)) },
  "coco-polygons": { file: "coco-polygons.json", options: ["background"], make: (set, _, progress) => json(toCoco(set, "polygons", progress)) },
  masks: { file: "masks.zip", options: [], make: async (set, _, progress) => archive(await toMasks(set, progress)) },
  yolo: {
    file: "yolo.zip",
    options: ["background", "pieces", "tolerance", "images"],
    make: (set, options, progress) => archive(toYolo(set, options, progress)),
  },
  labelstudio: { file: "label-studio.json", options: [], make: (set, _, progress) => json(toLabelStudio(set, progress)) },
};
