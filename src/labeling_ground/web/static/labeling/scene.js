// What is to be painted: the picture of the open image, its masks and labels, and the prompt of the object in the making.

import { spansIn } from "./objects.js";
import { eachStretch } from "../shared/spans.js";
import * as works from "./work.js";

const UNKNOWN = "#888888"; // of a class that is there no more
const GOLDEN = 137.508; // degrees: hues that far apart are unlike each other, however many there are

/** The scene for `Painter`, from the editor, the page's choices of classes and looks, and what a hand is at. */
export function sceneOf({ picture, view, cross, work, masksShown, selection, stale, preview, boxing }, choices, hand = {}) {
  const classOf = (classId) => choices.classes.find((one) => one.id === classId);
  const colourOf = ({ id, classId }) => (choices.colours === "object" ? colourFrom(id) : classOf(classId)?.colour ?? UNKNOWN);
  const opacity = choices.outline ? 0 : choices.opacity / 100;
  const edited = work.objects.find((one) => one.id === work.editing);
  const colour = classOf(edited?.classId ?? choices.classId)?.colour ?? UNKNOWN;
  const seen = work.objects.filter((object) => masksShown && !object.hidden && object !== edited);
  const masks = seen.filter(({ rle }) => rle).map((object) => (
    { rle: object.rle, colour: colourOf(object), opacity, strong: selection.includes(object.id) }));
  const active = works.chosen(work);
  const passing = stale ?? preview?.rle;
  if (active) masks.push({ rle: active.rle, colour, opacity: choices.outline ? 0 : Math.max(0.2, opacity), strong: true });
  else if (passing) masks.push({ rle: passing, colour, opacity: opacity * 0.6, strong: true, dashed: true });
  const dots = seen.filter(({ kind }) => kind === "point").map((object) => (
    { ...object.points[0], colour: colourOf(object), strong: selection.includes(object.id) }));
  const labels = choices.labels ? seen.filter(({ rle, kind }) => rle || kind === "point").map((object) => (
    { ...anchorOf(object), colour: colourOf(object), text: works.shownName(object, work.objects, choices.classes) })) : [];
  const pending = work.objects.filter((one) => one.pending);
  const boxes = [...pending, { box: boxing ?? work.box }].map((one) => one.box).filter(Boolean);
  const { moved } = hand;
  const points = work.points.map((point, i) => (moved?.index === i ? { ...point, ...moved.pixel } : point));
  return { picture, view, masks, cross, colour, boxes, dots, labels, points: [...pending.flatMap((one) => one.points), ...points], hand };
}

/** A colour of an object's own, from its id. */
function colourFrom(id) {
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + letter.charCodeAt(0)) % 9973;
  return `hsl(${Math.round((sum * GOLDEN) % 360)} 85% 62%)`;
}

const anchors = new WeakMap(); // rle → its topmost pixel

/** Where an object's label stands: at its topmost pixel. */
function anchorOf({ rle, points }) {
  if (!rle) return points[0];
  if (!anchors.has(rle)) {
    let best = { x: 0, y: Infinity };
    eachStretch(spansIn(rle), rle.size[0], (x, y) => (best = y < best.y ? { x, y } : best));
    anchors.set(rle, best);
  }
  return anchors.get(rle);
}
