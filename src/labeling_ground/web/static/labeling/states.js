// How far the work on each image is, and which images are shown and come next by it.

/** The states in the order of the work. The first two follow from the objects; the others are what somebody said of the image. */
export const STATES = ["unbegun", "working", "review", "done", "nothing", "skipped"];
const SETTLED = ["done", "nothing", "skipped"];

/** An image's state, from its `mark` (one of the last four states, or none) and how many `objects` it has. */
export function stateOf({ mark, objects }) {
  if (mark && !(mark === "nothing" && objects > 0)) return mark; // somebody found something after all
  return objects > 0 ? "working" : "unbegun";
}

/** How many images are in each state, `{unbegun, working, …}`. */
export function tally(images) {
  const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  for (const image of images) counts[stateOf(image)]++;
  return counts;
}

/** How many of the images need no more work, `{done, of}`. */
export function progressOf(images) {
  return { done: images.filter((image) => SETTLED.includes(stateOf(image))).length, of: images.length };
}

/** The images in `state` (or "all") of which a name contains `text`, whatever the case and however accents are written. */
export function shownOf(images, { state = "all", text = "" }) {
  const plain = (words) => words.normalize("NFC").toLocaleLowerCase();
  const wanted = plain(text.trim());
  return images.filter((image) => (state === "all" || stateOf(image) === state) && image.names.some((name) => plain(name).includes(wanted)));
}

/**
 * The next image that is not done, after `current` and then from the beginning: one that is not begun or in work, or, where
 * there is none, one to review. `null` where all is done.
 */
export function nextNotDone(images, current) {
  return notDoneAfter(images, current)[0] ?? null;
}

/** The images that will be opened after `current`, as far as one can tell: those that are not done; but whoever looks at one that is done looks through all. */
export function expectedAfter(images, current) {
  const isDone = current && SETTLED.includes(stateOf(current));
  return isDone ? images.slice(images.indexOf(current) + 1) : notDoneAfter(images, current);
}

function notDoneAfter(images, current) {
  const at = images.indexOf(current);
  const others = [...images.slice(at + 1), ...images.slice(0, Math.max(at, 0))];
  const those = (...states) => others.filter((image) => states.includes(stateOf(image)));
  return [...those("unbegun", "working"), ...those("review")];
}
