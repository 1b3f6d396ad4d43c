// Masks that a model found by itself, until somebody has picked those to keep as objects.

import { areaOf, covers, rleOf, spansOf, united } from "../shared/spans.js";
import { newId } from "./work.js";

export class Found {
  progress = null; // {done, of} while the model looks
  masks = new Map(); // id → {id, rle, spans, area, score, bbox, points}
  picked = new Set(); // ids
  #standing = []; // ids of the masks that are shown
  #used = new Set(); // ids of masks that were kept or merged: they do not come back
  #image = null;
  #looking = null;
  #made = {}; // {source, model, version}: how the masks came to be

  /** `classId()` is the class of what is kept; `changed()` draws. */
  constructor({ editor, classId, changed }) {
    Object.assign(this, { editor, classId, changed });
  }

  /** Whether masks are there, or on their way, for the open image. */
  get isOpen() {
    return this.#image !== null && this.#image === this.editor.image;
  }

  /** The masks that are shown, the largest first, so that a small one is painted on top. */
  get shown() {
    return this.#standing.map((id) => this.masks.get(id)).filter(Boolean).sort((a, b) => b.area - a.area);
  }

  /**
   * Have a model look for masks: `look(image, signal, see)`, where `see({masks, standing, progress, made})` shows what there is so far.
   * What was found before is put away. Throws what `look` throws, but for its being called off.
   */
  async look(look) {
    this.close();
    const { image } = this.editor;
    if (!image) return;
    this.#image = image;
    this.progress = { done: 0, of: 0 };
    const { signal } = (this.#looking = new AbortController());
    this.changed();
    try {
      await look(image, signal, (news) => signal.aborted || this.#see(news));
    } catch (error) {
      if (signal.aborted) return;
      this.close();
      throw error;
    }
    if (!signal.aborted) this.#see({ progress: null });
  }

  #see({ masks = [], standing, progress, made }) {
    for (const mask of masks) if (!this.#used.has(mask.id)) this.masks.set(mask.id, { ...mask, spans: spansOf(mask.rle) });
    if (standing) {
      const kept = [...this.masks.keys()].filter((id) => this.#isMerged(id));
      this.#standing = [...kept, ...standing.filter((id) => this.masks.has(id))];
      this.picked = new Set([...this.picked].filter((id) => this.#standing.includes(id)));
    }
    if (progress !== undefined) this.progress = progress;
    if (made) this.#made = made;
    this.changed();
  }

  #isMerged(id) {
    return typeof id === "string";
  }

  /** Pick the smallest mask at a pixel; where it is picked already, the next larger one in its place. `label` 0 takes all there back. */
  pick(pixel, label = 1) {
    const here = this.shown.filter(({ spans, rle }) => covers(spans, rle.size[0], pixel)).reverse();
    const [smallest, ...larger] = here;
    if (!smallest) return;
    if (label === 0) for (const { id } of here) this.picked.delete(id);
    else if (!this.picked.has(smallest.id)) this.picked.add(smallest.id);
    else {
      this.picked.delete(smallest.id);
      const next = larger.find(({ id }) => !this.picked.has(id));
      if (next) this.picked.add(next.id);
    }
    this.changed();
  }

  /** Pick all masks that lie inside a box, `[x0, y0, x1, y1]`, or, without one, all there are. */
  pickAll(box = null) {
    for (const { id, bbox: [x, y, width, height] } of this.shown) {
      if (!box || (x >= box[0] && y >= box[1] && x + width <= box[2] && y + height <= box[3])) this.picked.add(id);
    }
    this.changed();
  }

  /** Make one mask of those that are picked. */
  merge() {
    const parts = this.shown.filter(({ id }) => this.picked.has(id));
    if (parts.length < 2) return;
    const spans = parts.map((part) => part.spans).reduce(united);
    const edges = parts.map(({ bbox: [x, y, width, height] }) => [x, y, x + width, y + height]);
    const [x0, y0] = [0, 1].map((i) => Math.min(...edges.map((edge) => edge[i])));
    const [x1, y1] = [2, 3].map((i) => Math.max(...edges.map((edge) => edge[i])));
    const id = newId();
    this.#drop(parts);
    this.masks.set(id, { id, spans, rle: rleOf(spans, parts[0].rle.size), area: areaOf(spans), score: null, bbox: [x0, y0, x1 - x0, y1 - y0],
      points: parts.flatMap(({ points }) => points) });
    this.#standing.push(id);
    this.picked = new Set([id]);
    this.changed();
  }

  #drop(masks) {
    for (const { id } of masks) {
      this.#used.add(id);
      this.masks.delete(id);
      this.picked.delete(id);
    }
    this.#standing = this.#standing.filter((id) => this.masks.has(id));
  }

  /** Keep what is picked as objects, in one step that undo takes back. Whether there was any. */
  keep() {
    const chosen = this.shown.filter(({ id }) => this.picked.has(id));
    if (chosen.length === 0) return false;
    const classId = this.classId();
    const made = chosen.map(({ rle, area, score, points }) => ({ id: newId(), name: "", classId, hidden: false, rle, area, score, points, box: null, ...this.#made }));
    this.editor.changeWork(this.#image, (work) => ({ ...work, objects: [...work.objects, ...made] }));
    this.#drop(chosen);
    if (this.#standing.length === 0 && !this.progress) this.close();
    this.changed();
    return true;
  }

  /** Put away what was found, and call off what is looked for. */
  close() {
    this.#looking?.abort();
    this.#looking = this.#image = this.progress = null;
    this.masks.clear();
    this.picked.clear();
    this.#used.clear();
    this.#standing = [];
    this.#made = {};
    this.changed();
  }
}

/** A scene with the found masks on it: what is picked in its class's colour, the rest as dashed outlines. */
export function withFound(scene, found) {
  if (!found.isOpen) return scene;
  const masks = found.shown.map(({ id, rle }) => (found.picked.has(id)
    ? { rle, colour: scene.colour, opacity: 0.5, strong: true }
    : { rle, colour: "#ffffff", opacity: 0, strong: false, dashed: true }));
  return { ...scene, masks: [...scene.masks, ...masks] };
}
