// The work on one image as a value that is never changed, only replaced, so that undo is nothing but the value before.
//
//   objects   finished ones: {id, name, classId, rle, score, area, model, version, points, box, hidden}; one that was finished before its
//             mask was there has no `rle` yet, but `pending`, a name for the ask, and the `mask` that it starts from; where
//             that failed, `trouble` says why; `byHand`: no model made the mask as it is; `rings`: the corners of a polygon,
//             of which `rle` is the inside; `kind` "box" and "point" are labels that no model made, a point without an
//             `rle`; `locked`: it is not to be changed; `attributes`: {name: value}, as its class has them
//   points    clicks of the object in the making: {x, y, label}, label 1 on it and 0 off it
//   box       [x0, y0, x1, y1] or null
//   mask      what the prompt starts from, or null: {rle, ref, byHand}; `ref` names it as a candidate of a prediction,
//             {prediction_id, index}, where the server made it
//   answer    what the server said to these, or null: not asked yet; `byHand` where the mask was changed by hand since
//   choice    which of the answer's masks
//   editing   the finished object that is being edited again, or null

export const EMPTY = Object.freeze({ objects: [], points: [], box: null, mask: null, answer: null, choice: 0, editing: null });

const noPrompt = { points: [], box: null, mask: null, answer: null, choice: 0, editing: null };

export function hasPrompt(work) {
  return work.points.length > 0 || work.box !== null || work.mask !== null || work.answer !== null;
}

/** Whether the server can make a mask of it: without a box or a mask, one click at least is on the object. */
export function isAskable(work) {
  return work.box !== null || work.mask !== null || work.points.some((point) => point.label === 1);
}

/** One more click, which starts from the mask that is chosen now. */
export function withPoint(work, point) {
  return { ...work, points: [...work.points, point], mask: refined(work), answer: null, choice: 0 };
}

/** A box in place of the one before. */
export function withBox(work, box) {
  return { ...work, box, mask: byHand(work), answer: null, choice: 0 };
}

/** The click at place `at` is on another pixel. What the model made of the click before is not started from. */
export function withPointMoved(work, at, pixel) {
  const points = work.points.map((point, i) => (i === at ? { ...point, ...pixel } : point));
  return { ...work, points, mask: byHand(work), answer: null, choice: 0 };
}

/** Without the click at place `at`; a mask that was made by hand stays. */
export function withoutPoint(work, at) {
  const rest = { ...work, points: work.points.filter((_, i) => i !== at), mask: byHand(work), answer: null, choice: 0 };
  if (rest.points.length > 0 || rest.box !== null) return rest;
  return rest.mask ? { ...rest, answer: { masks: [{ ...rest.mask, ref: undefined }], byHand: true } } : discarded(work);
}

/** A finished object with a mask that was made or changed by hand, `{rle, area}`, and `rings` where it is a polygon. */
export function reshaped(work, id, { rle, area, rings }) {
  const reshape = ({ rings: _, trouble: __, ...object }) => ({ ...object, rle, area, byHand: true, ...(rings && { rings }) });
  return { ...work, objects: work.objects.map((object) => (object.id === id ? reshape(object) : object)) };
}

/** The object in the making with a mask that was made or changed by hand, `{rle, area}`, and `rings` where it is a polygon. */
export function withMask(work, mask) {
  return { ...work, answer: { masks: [{ score: null, ...mask }], model: work.answer?.model, version: work.answer?.version, byHand: true }, choice: 0 };
}

function refined(work) {
  const mask = chosen(work);
  if (!mask) return work.mask;
  if (!mask.area) return null;
  const { predictionId, byHand: isByHand = false } = work.answer;
  const ref = predictionId && !isByHand ? { prediction_id: predictionId, index: work.choice } : null;
  return { rle: mask.rle, area: mask.area, ref, byHand: isByHand };
}

function byHand(work) {
  if (work.answer?.byHand) return refined(work);
  return work.mask?.byHand ? work.mask : null;
}

export function withAnswer(work, answer) {
  return { ...work, answer };
}

/** Whether an answer to the one prompt is an answer to the other. */
export function samePrompt(a, b) {
  return a?.points === b?.points && a?.box === b?.box && a?.mask === b?.mask;
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
  const made = { id, name: "", classId, hidden: false, points, box,
    ...(mask ? masked(mask, work.answer) : { rle: null, pending, mask: work.mask }) };
  const at = work.objects.findIndex((object) => object.id === work.editing);
  const objects = [...work.objects];
  if (at < 0) objects.push(made);
  else objects[at] = { ...made, id: objects[at].id, name: objects[at].name, ...(objects[at].attributes && { attributes: objects[at].attributes }) };
  return { ...work, objects, ...noPrompt };
}

function masked({ rle, score, area, rings }, { model, version, byHand: isByHand }) {
  return { rle, score, area, ...(rings && { rings }), ...(model && { model }), ...(version && { version }), ...(isByHand && { byHand: true }) };
}

/** A pending object gets its mask; without one, `trouble` says why it has none ("" if the mask is empty). */
export function settled(work, pending, mask, trouble = "", made = {}) {
  if (!work.objects.some((object) => object.pending === pending)) return work;
  const result = mask?.area ? masked(mask, made) : { trouble };
  const settle = ({ mask: _, ...object }) => ({ ...object, pending: null, ...result });
  return { ...work, objects: work.objects.map((object) => (object.pending === pending ? settle(object) : object)) };
}

/** Without the answer to the prompt: another model is to give one. What was changed by hand stays. */
export function unanswered(work) {
  return work.answer && !work.answer.byHand ? { ...work, answer: null, choice: 0 } : work;
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
  const answer = object.rle && { masks: [masked(object, {})], model: object.model, version: object.version, ...(object.byHand && { byHand: true }) };
  return { ...work, ...noPrompt, points: object.points, box: object.box, answer, editing: id };
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

/** The name that an object shows while it has none of its own: its class and the place among those of it. */
export function numberedName(object, objects, classes) {
  const alike = objects.filter((one) => one.classId === object.classId);
  return `${classes.find((one) => one.id === object.classId)?.name ?? "?"} ${alike.indexOf(object) + 1}`;
}

/** What an object is called, in the list as on the image. */
export function shownName(object, objects, classes) {
  return object.name || numberedName(object, objects, classes);
}

/** An id that no other object has. */
export function newId() {
  return crypto.getRandomValues(new Uint32Array(2)).join("-");
}
