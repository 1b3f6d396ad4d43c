// What the export takes: images with their objects.

/** Every image with its objects, or only the open one; those that the editor has not seen come from the storage. */
export function labeled({ album, editor, storage }, onlyThis = false) {
  const images = onlyThis ? [editor.image].filter(Boolean) : album.images;
  return Promise.all(images.map(async (image) => {
    const { id, names, width, height, state } = image;
    const file = album.pictureOf(image);
    const seen = editor.objectsOf(id) ?? (await storage.get("work", id).catch(() => null))?.objects;
    return { id, names, width, height, state, file, isRedrawn: file !== image.file, objects: seen ?? [] };
  }));
}
