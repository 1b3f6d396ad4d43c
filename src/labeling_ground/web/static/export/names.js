// Names of files in an archive: safe on every system, and different from each other.

/** A name for each image, without folder and ending. */
export function fileNames(images) {
  return distinct(images.map(({ name }) => safe(name.replace(/\.[^.]*$/, ""))), (name) => name);
}

/**
 * Where each image and its label file belong, `[{image, label}]`, by the rule of the trainers that read YOLO's format: the
 * last folder `images` of the path becomes `labels`, and the ending `.txt`. Folders stay, and no two share a label file.
 * Where the images are `copied`, those that the server has drawn (`isRedrawn`) are JPEG.
 */
export function yoloPaths(images, copied) {
  const wanted = images.map(({ name: own, file, isRedrawn }) => {
    const name = copied && isRedrawn ? `${own.replace(/\.[^./]*$/, "")}.jpg` : own;
    const parts = name.split("/").filter((part) => part !== "");
    return `images/${(parts.length ? parts : ["image"]).map(safe).join("/")}${hasEnding(name) ? "" : ending(file)}`;
  });
  return distinct(wanted, labelOf).map((image) => ({ image, label: labelOf(image) }));
}

function labelOf(image) {
  const path = `/${image}`;
  const at = path.lastIndexOf("/images/");
  return `${path.slice(0, at)}/labels/${path.slice(at + "/images/".length)}`.slice(1).replace(/\.[^./]*$/, ".txt");
}

function distinct(names, keyOf) {
  const taken = new Set();
  return names.map((name) => {
    const [, stem, end] = /^(.*?)(\.[^./]*)?$/s.exec(name);
    let unique = name;
    for (let n = 2; taken.has(keyOf(unique).toLowerCase()); n++) unique = `${stem}-${n}${end ?? ""}`;
    taken.add(keyOf(unique).toLowerCase());
    return unique;
  });
}

function safe(name) {
  return name.replace(/[\\/:*?"<>|\u0000-\u001f]/g, "_").replace(/^\.+/, "_") || "image";
}

function hasEnding(name) {
  return /\.[^./]+$/.test(name);
}

function ending(file) {
  return `.${/^image\/(\w+)/.exec(file?.type ?? "")?.[1] ?? "jpg"}`;
}
