// What the formats share: classes by number, whether an image trains or validates, and who made an object.

/** An object's class as a number from 0, in the order of the set's classes. */
export function classNumber(classes, { classId }) {
  return classes.findIndex((one) => one.id === classId);
}

export function className(classes, object) {
  return classes[classNumber(classes, object)]?.name ?? "";
}

/** An object's attributes as one flat record, and its provenance in it, for formats that have such. */
export function attributesOf(object) {
  return { ...object.attributes, ...provenance(object) };
}

/** The attributes as a record of their own, for formats where their names could be taken for others. */
export function nested({ attributes = {} }) {
  return Object.keys(attributes).length ? { attributes } : {};
}

/** An object's name, the model that made its mask, and whether a hand changed it, as far as there is such: for formats with a place for it. */
export function provenance({ name, model, version, byHand }) {
  return { ...(name && { name }), ...(model && { model }), ...(version && { model_version: version }), ...(byHand && { by_hand: true }) };
}

/**
 * The images with their `part`, "train" or "val": `share` of them, 0 to 1, go to the latter, chosen by the seed and the image's
 * bytes, so that an image under two names is in one part, and the same set is parted in the same way anywhere.
 */
export function parted(images, { share, seed }) {
  const ids = [...new Set(images.map(({ id }) => id))].sort((a, b) => mixed(`${seed} ${a}`) - mixed(`${seed} ${b}`) || (a < b ? -1 : 1));
  const validating = new Set(ids.slice(0, Math.min(Math.round(share * ids.length) || (share > 0 ? 1 : 0), ids.length - 1)));
  return images.map((image) => ({ ...image, part: validating.has(image.id) ? "val" : "train" }));
}

/** A number from 0 to 2³² for a text: FNV-1a, and the last step of MurmurHash3, so that neighbours lie far apart. */
function mixed(text) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** The set by parts, `[["", all]]` where nothing validates, or `[["train", …], ["val", …]]`. */
export function byPart(images) {
  if (images.every(({ part }) => part !== "val")) return [["", images]];
  return ["train", "val"].map((part) => [part, images.filter((image) => image.part === part)]);
}

/** The middle of a pixel, `[x, y]`. */
export function middleOf({ x, y }) {
  return [x + 0.5, y + 0.5];
}

/** Text for an XML file. */
export function xml(text) {
  const safe = String(text).replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "");
  return safe.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);
}
