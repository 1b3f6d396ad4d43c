// What can be brought in: which format some files are, and what is in them.

import { fromCoco, isCoco } from "./coco.js";
import { fromLabelStudio, isLabelStudio } from "./labelstudio.js";
import { fromMasks, fromPictures, isMasks } from "./masks.js";
import { baseOf, isMask, isPhoto, jsonOf } from "./parts.js";
import { fromProject, isProject } from "./project.js";
import { unzipped } from "./unzip.js";
import { fromYolo, isYolo } from "./yolo.js";
import { FILE_WORDS } from "../shared/file-words.js";
import { learn, t } from "../shared/words.js";

learn(FILE_WORDS);

/** The files with those of archives in their place, `[{path, read() → Promise<Blob>}]`, from `[{path, blob}]`. */
export async function unpacked(files) {
  const found = await Promise.all(files.map(({ path, blob }) => (/\.zip$/i.test(path) ? unzipped(blob) : [{ path, read: async () => blob }])));
  return found.flat().filter(({ path }) => !/(^|\/)(__MACOSX\/|\.)/.test(path));
}

/** Which format unpacked files are, `{format, photos, read(sizeOf)}`. Throws an `Error` that says what can be read where it is none. */
export async function recognized(files) {
  const photos = files.filter(({ path }) => isPhoto(path) && !isMask(path));
  if (isProject(files)) return { format: "project", photos: photos.filter(({ path }) => path.startsWith("photos/")), read: () => fromProject(files) };
  if (isMasks(files)) return { format: "masks", photos, read: () => fromMasks(files) };
  if (isYolo(files)) return { format: "yolo", photos, read: (sizeOf) => fromYolo(files, sizeOf) };
  const listed = await Promise.all(files.filter(({ path }) => /\.json$/i.test(path)).map(jsonOf));
  const coco = listed.filter(isCoco), tasks = listed.filter(isLabelStudio);
  if (coco.length) return { format: "coco-rle", photos, read: async () => together(await Promise.all(coco.map((one) => fromCoco(one, files)))) };
  if (tasks.length) return { format: "labelstudio", photos, read: async () => together(tasks.map(fromLabelStudio)) };
  const pictures = files.filter(({ path }) => /\.png$/i.test(path));
  if (pictures.length && pictures.length === files.filter(({ path }) => !/\.txt$/i.test(path)).length) {
    return { format: "masks", photos: [], read: () => fromPictures(pictures) };
  }
  const names = files.slice(0, 3).map(({ path }) => baseOf(path)).join(", ");
  throw new Error(t("noLabels", { names }));
}

function together(parts) {
  const classes = new Map(parts.flatMap((part) => part.classes).map((one) => [one.name, one]));
  return { classes: [...classes.values()], images: parts.flatMap((part) => part.images) };
}
