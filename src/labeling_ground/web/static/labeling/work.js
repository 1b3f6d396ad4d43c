// The work on one image as a value that is never changed, only replaced, so that undo is nothing but the value before.
//
//   objects   finished ones: {id, name, classId, rle, score, area, model, points, box, hidden}; one that was finished before its
//             mask was there has no `rle` yet, but `pending`, a name for the ask; where that failed, `trouble` says why
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
  return { ...work, answer };
}

/** Whether an answer to the one prompt is an answer to the other. */
export function samePrompt(a, b) {
  return a?.points === b?.points && a?.box === b?.box;
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

/**
 * The object in the making becomes a finished one, in the place of the one that was edited. Before its mask is there it
 * becomes a pending one. `null` if it has an empty mask, or a prompt that cannot have any.
 */
export function finished(work, { id, classId, pending }) {
  const mask = chosen(work);
  if (mask ? mask.area === 0 : !isAskable(work)) return null;
  const { points, box } = work;
  const made = { id, name: "", classId, hidden: false, ...(mask ? masked(mask, work.answer.model) : { rle: null, pending }), points, box };
  const at = work.objects.findIndex((object) => object.id === work.editing);
  const objects = [...work.objects];
  if (at < 0) objects.push(made);
  else objects[at] = { ...made, id: objects[at].id, name: objects[at].name };
  return { ...work, objects, ...noPrompt };
}

function masked({ rle, score, area }, model) {
  return { rle, score, area, ...(model && { model }) };
}

/** A pending object gets its mask; without one, `trouble` says why it has none ("" if the mask is empty). */
export function settled(work, pending, mask, trouble = "", model = undefined) {
  if (!work.objects.some((object) => object.pending === pending)) return work;
  const result = mask?.area ? masked(mask, model) : { trouble };
  return { ...work, objects: work.objects.map((object) => (object.pending === pending ? { ...object, pending: null, ...result } : object)) };
}

/** Without the answer to the prompt: another model is to give one. */
export function unanswered(work) {
  return work.answer ? { ...work, answer: null, choice: 0 } : work;
}

/** Without what was asked on a picture that turned out to be another one; pending objects say so in `trouble`. */
export function unasked(work, trouble) {
  const objects = work.objects.map((object) => (object.pending ? { ...object, pending: null, trouble } : object));
  return { ...work, objects, ...noPrompt };
}

/** Take a finished object up again, with its clicks and its mask. */
export function editedAgain(work, id) {
  const object = work.objects.find((one) => one.id === id);
  if (!object) return work;
  const answer = object.rle && { masks: [masked(object)], model: object.model };
  return { ...work, points: object.points, box: object.box, answer, choice: 0, editing: id };
}

export function changed(work, id, change) {
  return { ...work, objects: work.objects.map((object) => (object.id === id ? { ...object, ...change } : object)) };
}

export function without(work, id) {
  const rest = { ...work, objects: work.objects.filter((object) => object.id !== id) };
  return work.editing === id ? { ...rest, ...noPrompt } : rest;
}

export function restored(saved) {
  return { ...EMPTY, ...saved };
}

/** The id of the object `step` places after the one with this id, in a ring; of the first or last where none has it. */
export function neighbour({ objects }, id, step) {
  const at = objects.findIndex((one) => one.id === id);
  return objects.length === 0 ? null : objects[(at + step + objects.length + (at < 0 && step < 0 ? 1 : 0)) % objects.length].id;
}

/** An id that no other object has. */
export function newId() {
  return crypto.getRandomValues(new Uint32Array(2)).join("-");
}
