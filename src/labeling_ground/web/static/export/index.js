// What can be taken home, by the names of the export dialog.

import { toCoco } from "./coco.js";
import { toCvat } from "./cvat.js";
import { toLabelme } from "./labelme.js";
import { toLabelStudio } from "./labelstudio.js";
import { toMasks } from "./masks.js";
import { toPanoptic } from "./panoptic.js";
import { toProject } from "./project.js";
import { toVoc } from "./voc.js";
import { toYolo } from "./yolo.js";
import { zip } from "./zip.js";
import { FILE_WORDS } from "../shared/file-words.js";
import { learn } from "../shared/words.js";

learn(FILE_WORDS);

/**
 * By name: what makes the files, `make(set, options, progress)` → `{path: text, Uint8Array or Blob}`, where `progress(done, of)`
 * counts images; the `options` that it has ("points": it holds point labels, "whole": all there is); and `as`, what objects may be in it, the usual first.
 */
export const FORMATS = {
  "coco-rle": { options: ["images", "parts"], make: (set, options, progress) => toCoco(set, { ...options, shape: "rle" }, progress) },
  "coco-polygons": { options: ["tolerance", "images", "parts"], make: (set, options, progress) => toCoco(set, { ...options, shape: "polygons" }, progress) },
  panoptic: { options: ["images", "parts"], make: toPanoptic },
  yolo: { options: ["pieces", "tolerance", "images", "parts"], as: ["segments", "boxes"], make: toYolo },
  voc: { options: ["images", "parts"], make: toVoc },
  labelme: { options: ["tolerance", "images", "points"], as: ["polygons", "masks"], make: toLabelme },
  cvat: { options: ["tolerance", "images", "points"], as: ["masks", "polygons"], make: toCvat },
  labelstudio: { options: ["points"], make: (set, _, progress) => ({ "label-studio.json": JSON.stringify(toLabelStudio(set, progress)) }) },
  masks: { options: ["images"], as: ["objects", "classes"], make: toMasks },
  project: { options: ["images", "whole"], make: toProject },
};

/** The one file of an export, `{name, blob}`: what was made, or an archive where that is several files. `report(step, done, of)` hears of "images" and "files". */
export async function packed(format, set, options, report = () => {}) {
  const files = await FORMATS[format].make(set, options, (done, of) => report("images", done, of));
  const [[name, content], ...more] = Object.entries(files);
  if (more.length === 0 && name.endsWith(".json") && !name.includes("/")) return { name, blob: new Blob([content], { type: "application/json" }) };
  const parts = await zip(files, (done, of) => report("files", done, of));
  return { name: `${format}.zip`, blob: new Blob(parts, { type: "application/zip" }) };
}
