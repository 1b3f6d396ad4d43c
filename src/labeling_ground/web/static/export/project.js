// The project file, to go on elsewhere: docs/decisions/0040-project-file.md says what lies where.

import { photoPaths } from "./names.js";

export const FORMAT = "labeling-ground-project";
export const VERSION = 1;

/** The files of a project: all images with all that is known of their labels; `copied`: their photographs too, byte by byte. */
export function toProject({ images, classes }, { images: copied = false } = {}, progress = () => {}) {
  const files = {};
  const paths = photoPaths(images.map(({ names, original }) => ({ name: names[0], file: original })), false);
  const listed = images.map(({ id, names, width, height, mark, objects, original }, i) => {
    const labels = `labels/${id}.json`, photo = `photos/${paths[i]}`;
    files[labels] = JSON.stringify({ objects });
    if (copied && original) files[photo] = original;
    progress(i + 1, images.length);
    return { id, names, width, height, mark: mark ?? null, labels, ...(copied && original && { photo }) };
  });
  const head = { format: FORMAT, version: VERSION, made: new Date().toISOString(), classes, images: listed };
  return { "project.json": `${JSON.stringify(head, null, 1)}\n`, ...files };
}
