// What the export takes: images with their objects.

import { EMPTY, hasPrompt } from "./work.js";

/** Every image with its objects and how many are `unfinished`, or only the open one; those that the editor has not seen come from the storage. */
export function labeled({ album, editor, storage }, onlyThis = false) {
  const images = onlyThis ? [editor.image].filter(Boolean) : album.images;
  return Promise.all(images.map(async (image) => {
    const { id, names, width, height, state, mark } = image;
    const file = album.pictureOf(image);
    const { objects, ...making } = editor.workOf(id) ?? (await storage.get("work", id).catch(() => null)) ?? EMPTY;
    const unfinished = objects.filter(({ pending }) => pending).length + (hasPrompt(making) ? 1 : 0);
    return { id, names, width, height, state, mark, file, original: image.file, isRedrawn: file !== image.file, objects, unfinished };
  }));
}
