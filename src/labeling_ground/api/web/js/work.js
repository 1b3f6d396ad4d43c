// The work on one image as a value that is never changed, only replaced, so that undo is nothing but the value before.
//
//   objects   finished ones: {id, name, classId, rle, score, area, points, box, hidden}
//   points    clicks of the object in the making: {x, y, label}, label 1 on it and 0 off it
//   box       [x0, y0, x1, y1] or null
//   answer    what the server said to these, or null: not asked yet
//   choice    which of the answer's masks
//   editing   the finished object that is being edited again, or null

export const EMPTY = Object.freeze({ objects: [], points: [], box: null, answer: null, choice: 0, editing: null });

const noPrompt = { points: [], box: null, answer: null, choice: 0, editing: null };

export function hasPrompt(work) {
  return work.points.length > 0 || work.box !== null;
}

/** Whether the server can make a mask of it: without a box, one click at least is on the object. */
export function isAskable(work) {
  return work.box !== null || work.points.some((point) => point.label === 1);
}

export function withPoint(work, point) {
  return { ...work, points: [...work.points, point], answer: null, choice: 0 };
}

export function withBox(work, box) {
  return { ...work, box, answer: null, choice: 0 };
}

export function withAnswer(work, answer) {
  return { ...work, answer, choice: 0 };
}

/** The candidate `step` further, around the end. */
export function stepped(work, step) {
  const many = work.answer?.masks.length ?? 0;
  return many ? { ...work, choice: (work.choice + step + many) % many } : work;
}

export function chosen(work) {
  return work.answer?.masks[work.choice] ?? null;
}

export function discarded(work) {
  return { ...work, ...noPrompt };
}

/** The object in the making becomes a finished one, in the place of the one that was edited. `null` without a mask. */
export function finished(work, { id, classId }) {
  const mask = chosen(work);
  if (!mask || mask.area === 0) return null;
  const made = { id, name: "", classId, hidden: false, rle: mask.rle, score: mask.score, area: mask.area,
    points: work.points, box: work.box };
  const at = work.objects.findIndex((object) => object.id === work.editing);
  const objects = [...work.objects];
  if (at < 0) objects.push(made);
  else objects[at] = { ...made, id: objects[at].id, name: objects[at].name };
  return { ...work, objects, ...noPrompt };
}

/** Take a finished object up again, with its clicks and its mask. */
export function editedAgain(work, id) {
  const object = work.objects.find((one) => one.id === id);
  if (!object) return work;
  const answer = { masks: [{ rle: object.rle, score: object.score, area: object.area }], kept: true };
  return { ...work, points: object.points, box: object.box, answer, choice: 0, editing: id };
}

export function changed(work, id, change) {
  return { ...work, objects: work.objects.map((object) => (object.id === id ? { ...object, ...change } : object)) };
}

export function without(work, id) {
  const rest = { ...work, objects: work.objects.filter((object) => object.id !== id) };
  return work.editing === id ? { ...rest, ...noPrompt } : rest;
}

/** What is worth keeping over a reload. */
export function kept({ objects, points, box, editing }) {
  return { objects, points, box, editing };
}

export function restored(saved) {
  return { ...EMPTY, ...saved };
}
