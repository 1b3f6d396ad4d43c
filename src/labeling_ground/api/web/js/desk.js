// The image that is being labeled: its work, the asks to the server, and what is to be seen of them.

import { History } from "./history.js";
import { Newest } from "./newest.js";
import { Picture } from "./painter.js";
import { Refused, persistently } from "./server.js";
import * as views from "./view.js";
import * as works from "./work.js";

const REST = 60; // milliseconds that the pointer rests before a preview is asked for

export class Desk {
  image = null;
  picture = null;
  view = null;
  waiting = null; // {kind, since, share}: what is being waited for
  badge = null; // the newest answer
  preview = null; // {at, rle}: the mask under the pointer
  stale = null; // the mask of the prompt before the last click, until there is a newer one
  boxing = null; // the box that is being drawn
  cross = null; // the keyboard's place
  corner = null; // the first corner of the keyboard's box
  selected = null; // a finished object's id
  problem = null; // what the server refused, or a word of ours
  masksShown = true;
  hovering = true;

  #histories = new Map();
  #asking = new Newest();
  #looking = new Newest();
  #opening = null;
  #ready = null;
  #rest = 0;
  #pixel = null;
  #fitted = true;
  #toFinish = null;

  /** `size()` is the canvas's; `redraw()` paints soon, `paint()` now; `changed()` redraws everything; `keep(id, work)` stores. */
  constructor({ album, server, decoder, trouble, size, redraw, paint, changed, keep, classId }) {
    Object.assign(this, { album, server, decoder, trouble, size, redraw, paint, changed, keep, classId });
  }

  get work() {
    return this.#history?.now ?? works.EMPTY;
  }

  get #history() {
    return this.image ? this.#histories.get(this.image.id) : null;
  }

  /** The class under which the present prompt will be finished as soon as there is a mask, or `null`. */
  get promised() {
    return this.#toFinish?.work === this.work ? this.#toFinish.classId : null;
  }

  get canUndo() {
    return this.#history?.canUndo ?? false;
  }

  get canRedo() {
    return this.#history?.canRedo ?? false;
  }

  /** Put an image on the desk; `saved` is what was stored of its work, if anything. */
  async open(image, saved) {
    this.close();
    const { signal } = (this.#opening = new AbortController());
    this.image = image;
    if (!this.#histories.has(image.id)) this.#histories.set(image.id, new History(works.restored(saved)));
    this.changed();
    const picture = await Picture.of(image.file).catch((error) => {
      if (!signal.aborted) this.#wait(null);
      throw error;
    });
    if (signal.aborted) return picture.close();
    this.picture = picture;
    this.fit();
    picture.addHalves().then(() => this.redraw(), () => {}); // closed meanwhile
    this.#ready = this.#getReady(image, signal);
    this.#askIfNeeded();
    return this.#ready;
  }

  /** Put the image away: another one comes. */
  close() {
    this.#opening?.abort();
    this.#ready = null; // of the next image nothing is known
    this.#asking.drop();
    this.unhover();
    this.decoder.close();
    this.picture?.close();
    Object.assign(this, { picture: null, waiting: null, badge: null, stale: null, boxing: null, cross: null, corner: null,
      selected: null, problem: null, image: null });
    this.#wait("checking");
  }

  /** Nothing is open any more. */
  clear() {
    this.close();
    this.#wait(null);
  }

  forget(id) {
    this.#histories.delete(id);
  }

  /** Every object of an image, as far as this desk has seen it. */
  objectsOf(id) {
    return this.#histories.get(id)?.now.objects;
  }

  async #getReady(image, signal) {
    try {
      await this.album.ready(image, signal, (kind, share) => this.#wait(kind, share));
      this.#wait(null);
      this.decoder.open(image.id);
      return true;
    } catch (error) {
      if (error.name !== "AbortError") this.#fail(error);
      return false;
    }
  }

  #wait(kind, share) {
    const since = this.waiting?.kind === kind ? this.waiting.since : performance.now();
    this.waiting = kind && { kind, since, share };
    this.changed();
  }

  #fail(error) {
    this.waiting = null;
    this.problem = error.message;
    this.changed();
  }

  // --- the prompt ------------------------------------------------------------------------------------------------------

  /** A click on a pixel: label 1 on the object, 0 off it. */
  click(pixel, label) {
    this.#step(works.withPoint(this.work, { ...pixel, label }));
  }

  box(box) {
    this.boxing = null;
    if (box) this.#step(works.withBox(this.work, box));
    else this.redraw();
  }

  discard() {
    this.corner = null;
    if (works.hasPrompt(this.work)) this.#step(works.discarded(this.work));
    else this.select(null);
  }

  /** Take the next candidate, or with -1 the one before. */
  candidate(step) {
    this.#amend(works.stepped(this.work, step));
  }

  finish() {
    if (!this.work.answer && works.isAskable(this.work)) {
      this.#toFinish = { work: this.work, classId: this.classId() }; // fast hands: finished as soon as there is a mask
      return true;
    }
    return this.#finish(this.classId());
  }

  #finish(chosen) {
    const classId = this.work.objects.find((one) => one.id === this.work.editing)?.classId ?? chosen;
    const next = works.finished(this.work, { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), classId });
    if (next) this.#step(next);
    return next !== null;
  }

  undo() {
    if (!this.#history?.undo()) return;
    this.stale = null;
    this.#moved();
  }

  redo() {
    if (!this.#history?.redo()) return;
    this.stale = null;
    this.#moved();
  }

  // --- finished objects ------------------------------------------------------------------------------------------------

  edit(id) {
    this.selected = null;
    this.#step(works.editedAgain(this.work, id));
  }

  remove(id) {
    this.#step(works.without(this.work, id));
  }

  change(id, change) {
    this.#step(works.changed(this.work, id, change));
  }

  /** Hiding is looking, not labeling: undo does not care. */
  hide(id) {
    const object = this.work.objects.find((one) => one.id === id);
    if (object) this.#amend(works.changed(this.work, id, { hidden: !object.hidden }));
  }

  select(id) {
    this.selected = id;
    this.changed();
  }

  #step(work) {
    if (!this.image || work === this.work) return;
    const before = works.chosen(this.work)?.rle ?? this.stale ?? this.preview?.rle ?? null;
    this.stale = works.isAskable(work) && !work.answer ? before : null;
    this.#history.push(work);
    this.#moved();
  }

  #amend(work) {
    if (!this.image) return;
    this.#history.amend(work);
    this.#kept();
  }

  #moved() {
    this.unhover();
    if (this.image.state !== "failed") this.problem = null;
    if (!this.work.objects.some((one) => one.id === this.selected)) this.selected = null;
    this.#askIfNeeded();
    this.#kept();
  }

  #kept() {
    this.image.objects = this.work.objects.length;
    this.keep(this.image.id, works.kept(this.work));
    this.changed();
  }

  #askIfNeeded() {
    const { image, work } = this;
    if (!image || work.answer || !works.isAskable(work)) {
      this.#asking.drop();
      if (this.waiting?.kind === "decoding") this.waiting = null;
      return;
    }
    const asked = performance.now();
    this.#asking.ask(async (signal) => {
      try {
        const answer = await this.#masks(image, work, signal, () => this.#wait("decoding"));
        if (this.image !== image) return;
        this.#wait(null);
        this.badge = { ...answer, ms: performance.now() - asked };
        this.stale = null;
        if (this.work === work) {
          this.#amend(works.withAnswer(work, answer));
          if (this.#toFinish?.work === work) this.#finish(this.#toFinish.classId);
        }
        this.paint();
        performance.measure("click-to-mask", { start: asked, detail: { outcome: answer.outcome, serverMs: answer.serverMs } });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        this.#fail(error);
      }
    });
  }

  /** Masks for a prompt; an image that the server forgot is sent again, and the prompt repeated. */
  async #masks(image, prompt, signal, begun) {
    for (let again = true; ; again = false) {
      if (!(await this.#ready)) throw new DOMException("The image is not ready.", "AbortError");
      signal.throwIfAborted(); // called off while the image was on its way: nothing is to be waited for any more
      begun();
      const here = await this.decoder.masks(image.id, prompt, signal);
      if (here) return here;
      try {
        const ask = () => this.server.masks(image.id, prompt, signal);
        return await persistently(ask, { server: this.server, signal, trouble: this.trouble });
      } catch (error) {
        if (!(error instanceof Refused && error.type === "unknown-image" && again && this.image === image)) throw error;
        this.album.forgotten(image);
        this.#ready = this.#getReady(image, this.#opening.signal);
      }
    }
  }

  // --- the preview -----------------------------------------------------------------------------------------------------

  /** The pointer rests on, or passes over, a pixel. Asks only while nothing is being made: the next click would start it. */
  hover(pixel) {
    if (pixel && this.#pixel && pixel.x === this.#pixel.x && pixel.y === this.#pixel.y) return;
    this.#pixel = pixel;
    clearTimeout(this.#rest);
    const wanted = pixel && this.hovering && this.image?.state === "ready" && !works.hasPrompt(this.work);
    if (!wanted) {
      this.unhover();
      return;
    }
    this.#rest = setTimeout(() => this.#look(this.image, pixel), REST);
  }

  unhover() {
    clearTimeout(this.#rest);
    this.#looking.drop();
    this.#pixel = null;
    if (this.preview) {
      this.preview = null;
      this.redraw();
    }
  }

  #look(image, pixel) {
    this.#looking.ask(async (signal) => {
      try {
        const prompt = { points: [{ ...pixel, label: 1 }], box: null };
        const here = await this.decoder.masks(image.id, prompt, signal, { preview: true });
        const { masks } = here ?? (await this.server.masks(image.id, prompt, signal));
        if (this.image !== image || this.#pixel !== pixel) return;
        this.preview = { rle: masks[0].rle };
        this.redraw();
      } catch (error) {
        if (error.name === "AbortError") throw error; // otherwise: a preview that fails is no trouble; a click will tell
      }
    });
  }

  // --- the view --------------------------------------------------------------------------------------------------------

  fit() {
    if (!this.picture) return;
    this.view = views.fit(this.picture, this.size());
    this.#fitted = true;
    this.redraw();
  }

  /** The canvas has another size: a whole image stays whole, and a place that one looks at closely stays. */
  resized() {
    if (this.#fitted) this.fit();
    else this.pan(0, 0);
  }

  zoom(factor, at) {
    if (!this.picture) return;
    const size = this.size();
    this.view = views.zoom(this.view, at ?? { x: size.width / 2, y: size.height / 2 }, factor, this.picture, size);
    this.#fitted = false;
    this.redraw();
  }

  pan(dx, dy) {
    if (!this.picture) return;
    this.view = views.pan(this.view, dx, dy, this.picture, this.size());
    this.#fitted = false;
    this.redraw();
  }

  pixelAt(screen) {
    return this.picture ? views.pixelAt(views.toImage(this.view, screen), this.picture) : null;
  }

  boxBetween(a, b) {
    if (!this.picture) return null;
    return views.boxBetween(views.toImage(this.view, a), views.toImage(this.view, b), this.picture);
  }

  /** Move the keyboard's cross by screen pixels, or by single ones of the image. */
  moveCross(dx, dy, fine) {
    if (!this.picture) return;
    const size = this.size();
    const from = this.cross ?? this.pixelAt({ x: size.width / 2, y: size.height / 2 }) ?? { x: 0, y: 0 };
    const step = fine ? 1 : Math.max(1, Math.round(12 / this.view.scale));
    const clamp = (value, many) => Math.min(many - 1, Math.max(0, value));
    this.cross = { x: clamp(from.x + dx * step, this.picture.width), y: clamp(from.y + dy * step, this.picture.height) };
    if (this.corner) this.boxing = this.#keyboardBox();
    this.hover(this.cross);
    this.redraw();
  }

  /** Set one corner of a box at the cross, then the other. */
  cornerAtCross() {
    if (!this.cross) return;
    if (this.corner) {
      const box = this.#keyboardBox();
      this.corner = null;
      this.box(box);
    } else {
      this.corner = this.cross;
    }
  }

  #keyboardBox() {
    return views.boxBetween(this.corner, { x: this.cross.x + 1, y: this.cross.y + 1 }, this.picture);
  }
}
