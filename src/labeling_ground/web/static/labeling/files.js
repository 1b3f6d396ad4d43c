// Files as they come to the page: chosen, dropped or pasted.

const IMAGE_NAME = /\.(jpe?g|png|webp|bmp|tiff?|gif|avif|hei[cf])$/i;

/** Those that are images by their type or name, in the order of their paths, numbers by their value. */
export function photosOf(files) {
  const photos = files.filter((file) => file.type.startsWith("image/") || IMAGE_NAME.test(file.name));
  return photos.sort((a, b) => pathOf(a).localeCompare(pathOf(b), undefined, { numeric: true }));
}

/** Where a file lay, as far as that is told. */
export function pathOf(file) {
  return file.path ?? (file.webkitRelativePath || file.name);
}

/** The files of a drop or a paste, those inside folders too. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) return [...transfer.files];
  const found = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push(Object.assign(file, { path: entry.fullPath.replace(/^\//, "") }));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return;
    for (const one of some) await walk(one, found);
  }
}
