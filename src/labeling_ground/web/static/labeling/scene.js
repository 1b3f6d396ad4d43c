// What is to be painted: the picture of the open image, its masks, and the prompt of the object in the making.

import * as works from "./work.js";

/** The scene for `Painter`, from the editor, the page's choices of classes and opacity, and what a hand is at. */
export function sceneOf({ picture, view, cross, work, masksShown, selected, stale, preview, boxing }, choices, hand = {}) {
  const colourOf = (classId) => choices.classes.find((one) => one.id === classId)?.colour ?? "#888888";
  const opacity = choices.opacity / 100;
  const edited = work.objects.find((one) => one.id === work.editing);
  const colour = colourOf(edited?.classId ?? choices.classId);
  const isSeen = (object) => masksShown && !object.hidden && object !== edited && object.rle;
  const masks = work.objects.filter(isSeen).map(({ id, rle, classId }) => (
    { rle, colour: colourOf(classId), opacity, strong: id === selected }));
  const active = works.chosen(work);
  const passing = stale ?? preview?.rle;
  if (active) masks.push({ rle: active.rle, colour, opacity: Math.max(0.2, opacity), strong: true });
  else if (passing) masks.push({ rle: passing, colour, opacity: opacity * 0.6, strong: true, dashed: true });
  const pending = work.objects.filter((one) => one.pending);
  const boxes = [...pending, { box: boxing ?? work.box }].map((one) => one.box).filter(Boolean);
  const { moved } = hand;
  const points = work.points.map((point, i) => (moved?.index === i ? { ...point, ...moved.pixel } : point));
  return { picture, view, masks, cross, colour, boxes, points: [...pending.flatMap((one) => one.points), ...points], hand };
}
