// What is done with finished objects: which lies where, merging, subtracting, copying, order. Works in, works out.

import { areaOf, common, covers, rleOf, spansOf, united, without as cutOff } from "../shared/spans.js";
import { changed, newId, reshaped } from "./work.js";

const TWIN = 0.9; // of two masks' union that both cover, from which on they are taken for the same thing
const DOT = 8; // pixels of the image around a point label within which it is meant

const spans = new WeakMap(); // rle → its spans

/** The spans of a mask, worked out once. */
export function spansIn(rle) {
  if (!spans.has(rle)) spans.set(rle, spansOf(rle));
  return spans.get(rle);
}

/** The objects at a pixel that can be selected there, the topmost first: not those that are hidden or locked. */
export function objectsAt({ objects }, pixel, reach = DOT) {
  const isThere = ({ kind, rle, points }) => (kind === "point"
    ? Math.hypot(points[0].x - pixel.x, points[0].y - pixel.y) <= reach
    : rle && covers(spansIn(rle), rle.size[0], pixel));
  return objects.filter((object) => !object.hidden && !object.locked && isThere(object)).reverse();
}

/** The one to select next at a place: the one below the one that is selected, or the topmost. */
export function nextAt(found, selected) {
  const at = found.findIndex(({ id }) => id === selected);
  return found.length ? found[(at + 1) % found.length].id : null;
}

const chosenOf = ({ objects }, ids) => ids.map((id) => objects.find((one) => one.id === id)).filter((one) => one?.rle);
const masked = (some, size) => ({ rle: rleOf(some, size), area: areaOf(some) });

/** The objects as one, in the place and with the class of the first of `ids`; as it is where there are not two masks. */
export function merged(work, ids) {
  const [first, ...others] = chosenOf(work, ids);
  if (others.length === 0) return work;
  const all = others.reduce((sum, { rle }) => united(sum, spansIn(rle)), spansIn(first.rle));
  const gone = others.map(({ id }) => id);
  const rest = { ...work, objects: work.objects.filter(({ id }) => !gone.includes(id)) };
  return drawnAnew(rest, first.id, masked(all, first.rle.size));
}

/** The first of `ids` without what the others cover; as it is where nothing would be left, or nothing changes. */
export function subtracted(work, ids) {
  const [first, ...others] = chosenOf(work, ids);
  if (others.length === 0) return work;
  const left = others.reduce((rest, { rle }) => cutOff(rest, spansIn(rle)), spansIn(first.rle));
  const area = areaOf(left);
  return area === 0 || area === first.area ? work : drawnAnew(work, first.id, masked(left, first.rle.size));
}

/** An object with a mask that no click stands for any more. */
function drawnAnew(work, id, mask) {
  return changed(reshaped(work, id, mask), id, { kind: undefined, points: [], box: null });
}

/** Copies of objects, each with an id of its own; those that wait for their mask are not copied. */
export function copies(objects) {
  return objects.filter(({ pending }) => !pending).map((object) => ({ ...object, id: newId(), locked: false }));
}

/** With copies of the objects, on top. Returns the work and the copies' ids. */
export function duplicated(work, ids) {
  const made = copies(work.objects.filter(({ id }) => ids.includes(id)));
  return { work: { ...work, objects: [...work.objects, ...made] }, ids: made.map(({ id }) => id) };
}

/** With the objects `step` places further up, or down, among the others. */
export function raised(work, ids, step) {
  const objects = [...work.objects];
  const order = step > 0 ? [...objects].reverse() : [...objects];
  for (const object of order.filter(({ id }) => ids.includes(id))) {
    const at = objects.indexOf(object), to = at + step;
    if (to < 0 || to >= objects.length || ids.includes(objects[to].id)) continue;
    objects.splice(at, 1);
    objects.splice(to, 0, object);
  }
  return objects.every((object, i) => object === work.objects[i]) ? work : { ...work, objects };
}

/** A label that no model makes: of `kind` "box", which covers `box`, or "point". */
export function plainLabel({ kind, classId, points = [], box = null, mask = null }) {
  return { id: newId(), kind, name: "", classId, hidden: false, byHand: true, points, box, rle: null, ...mask };
}

/** The object, other than this one, whose mask is nearly the same, or `undefined`. */
export function twinOf({ objects }, id) {
  const one = objects.find((object) => object.id === id);
  if (!one?.rle) return undefined;
  const mine = spansIn(one.rle);
  return objects.find((other) => {
    if (other === one || !other.rle || Math.min(one.area, other.area) < TWIN * Math.max(one.area, other.area)) return false;
    const both = areaOf(common(mine, spansIn(other.rle)));
    return both >= TWIN * (one.area + other.area - both);
  });
}
