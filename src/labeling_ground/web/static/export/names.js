// Names of files in an archive: safe on every system, and different from each other.

/** A name for each image, without folder and ending. */
export function fileNames(images) {
  return distinct(images.map(({ name }) => safe(stem(name))), (name) => name);
}

/**
 * Where each image belongs, its folders kept, no two in one place. Where the images are `copied`, those that the server has
 * drawn (`isRedrawn`) are JPEG. `keyOf(path)` is what must differ too, such as the path of what belongs to the image.
 */
export function photoPaths(images, copied, keyOf = (path) => path) {
  const wanted = images.map((image) => {
    const parts = stem(image.name).split("/").filter((part) => part !== "");
    return `${(parts.length ? parts : ["image"]).map(safe).join("/")}${safe(photoEnding(image, copied)).replace(/^_/, ".")}`;
  });
  return distinct(wanted, keyOf);
}

/** The path without its ending. */
export function stem(path) {
  return path.replace(/\.[^./]*$/, "");
}

/** The ending of an image's file, as it is `copied`. */
export function photoEnding({ name, file, isRedrawn }, copied) {
  if (copied && isRedrawn) return ".jpg";
  return /\.[^./]+$/.exec(name)?.[0] ?? ending(file);
}

/**
 * Where each image and its label file belong, `[{image, label}]`, by the rule of the trainers that read YOLO's format: the
 * last folder `images` of the path becomes `labels`, and the ending `.txt`.
 */
export function yoloPaths(images, copied) {
  return photoPaths(images, copied, (path) => labelOf(`images/${path}`)).map((path) => ({ image: `images/${path}`, label: labelOf(`images/${path}`) }));
}

function labelOf(image) {
  const path = `/${image}`;
  const at = path.lastIndexOf("/images/");
  return `${stem(`${path.slice(0, at)}/labels/${path.slice(at + "/images/".length)}`.slice(1))}.txt`;
}

function distinct(names, keyOf) {
  const taken = new Set();
  return names.map((name) => {
    const [, start, end] = /^(.*?)(\.[^./]*)?$/s.exec(name);
    let unique = name;
    for (let n = 2; taken.has(keyOf(unique).toLowerCase()); n++) unique = `${start}-${n}${end ?? ""}`;
    taken.add(keyOf(unique).toLowerCase());
    return unique;
  });
}

function safe(name) {
  return name.replace(/[\\/:*?"<>|\u0000-\u001f]/g, "_").replace(/^\.+/, "_") || "image";
}

function ending(file) {
  return `.${/^image\/(\w+)/.exec(file?.type ?? "")?.[1] ?? "jpg"}`;
}
