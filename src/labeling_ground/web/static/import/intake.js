// Takes labels that were read from files into the work.

import { imageFor, merged } from "./match.js";
import * as classes from "../labeling/classes.js";
import { EMPTY, newId, restored } from "../labeling/work.js";

/**
 * Put labels, `{classes, images}`, on the images that they are of. Of images that are not open those with an id wait for their
 * photographs. Returns `{objects, images, waiting}`, how many, `unread`, how many annotations were none that is read, and the names of
 * images that are not open (`unknown`) or of another size (`resized`), whose labels were left out.
 */
export async function takeIn(page, { classes: theirs, images }, { ids, mode }) {
  const classIds = takeClasses(page, theirs);
  const report = { objects: 0, images: 0, waiting: 0, unread: 0, unknown: [], resized: [] };
  for (const one of images) {
    const objects = one.objects.map(({ class: name, ...object }) => ({ points: [], box: null, hidden: false, ...object, id: object.id ?? newId(), classId: classIds.get(name) }));
    const image = imageFor(one, page.album.images, ids);
    report.unread += one.unread;
    if (!image && !one.id) report.unknown.push(one.names[0]);
    else if (image && objects.some(({ rle }) => rle && (rle.size[0] !== image.height || rle.size[1] !== image.width))) report.resized.push(one.names[0]);
    else {
      if (image) await onImage(page, image, { objects, mark: one.mark, mode });
      else await waits(page, one, { objects, mode });
      report.objects += objects.length;
      report[image ? "images" : "waiting"]++;
    }
  }
  page.draw();
  return report;
}

/** Our classes and theirs, matched by name; returns ids by name. */
function takeClasses(page, theirs) {
  let all = page.choices.classes;
  for (const { name, ...more } of theirs) {
    if (all.some((one) => one.name === name)) continue;
    const { classes: grown, classId } = classes.added(all, name);
    all = classes.changed({ classes: grown }, classId, more).classes;
  }
  page.choose({ classes: all });
  return new Map(all.map(({ id, name }) => [name, id]));
}

async function onImage(page, image, { objects, mark, mode }) {
  const { album, editor, storage } = page;
  const change = (work) => ({ ...work, objects: merged(work.objects, objects, mode) });
  if (!editor.changeWork(image, change)) {
    const work = change(restored(await storage.get("work", image.id)));
    await storage.put("work", { id: image.id, ...work });
    image.objects = work.objects.length;
    if (work.objects.some(({ pending }) => pending)) editor.resume(image, work);
  }
  if (mark && (mode === "replace" || !image.mark)) album.change(image, { mark });
}

async function waits(page, { id, names, mark }, { objects, mode }) {
  const { album, storage } = page;
  const before = (await storage.get("work", id)) ?? EMPTY;
  const work = { ...before, id, objects: merged(before.objects, objects, mode) };
  await storage.put("work", work);
  album.expect({ id, names, mark: mark ?? null, objects: work.objects.length });
}
