// The image that is being labeled: its work, the asks to the server, and what is to be seen of them.

import { Asks, Backlog } from "./asks.js";
import { Refused } from "../shared/server.js";
import { History } from "./history.js";
import { Newest } from "./newest.js";
import { Picture } from "./painter.js";
import { t } from "../shared/words.js";
import { Viewport } from "./viewport.js";
import * as works from "./work.js";

export class Editor extends Viewport {
  image = null;
  waiting = null; // {kind, since, share}: what is being waited for
  badge = null; // the newest answer
  stale = null; // the mask of the prompt before the last click, until there is a newer one
  selection = []; // ids of finished objects, in the order in which they were selected
  problem = null; // the error that the last ask ended with
  masksShown = true;
  hovering = true;

  #histories = new Map();
  #asking = new Newest();
  #opening = null;
  #asked = null; // the work whose prompt is on its way to the server

  /**
   * `size()` is the canvas's; `redraw()` paints soon, `paint()` now; `changed()` redraws everything; `keep(id, work)` stores;
   * `maskless(image, object)` hears of an object that was finished early and has no mask, `made(work, id)` of one that has one.
   */
  constructor({ album, server, decoder, trouble, size, redraw, paint, changed, keep, classId, maskless, made }) {
    super({ server, decoder, redraw });
    Object.assign(this, { album, server, decoder, size, redraw, paint, changed, keep, classId, maskless, made });
    this.asks = new Asks({ album, server, decoder, trouble });
    this.backlog = new Backlog({
      asks: this.asks,
      answered: (image, object, { masks, model, version }) => this.#settle(image, object, masks[0], undefined, { model, version }),
      refused: (image, object, error) => this.#settle(image, object, null, error instanceof Refused ? error.problem : error.message),
    });
  }

  /** The object that was selected last. */
  get selected() {
    return this.selection.at(-1) ?? null;
  }

  get work() {
    return this.#history?.now ?? works.EMPTY;
  }

  /** Whether the pointer asks for previews: only while nothing is being made, since the next click would start it. */
  get takesPreviews() {
    return this.hovering && this.image?.state === "ready" && !works.hasPrompt(this.work);
  }

  get #history() {
    return this.image ? this.#histories.get(this.image.id) : null;
  }

  get canUndo() {
    return this.#history?.canUndo ?? false;
  }

  get canRedo() {
    return this.#history?.canRedo ?? false;
  }

  /** Put an image on the editor; `saved` is what was stored of its work, if anything. */
  async open(image, saved) {
    this.close();
    const { signal } = (this.#opening = new AbortController());
    this.image = image;
    this.resume(image, saved);
    this.changed();
    await this.#show(image, signal).catch((error) => {
      if (!signal.aborted) this.#wait(null);
      throw error;
    });
    if (signal.aborted) return false;
    this.#askIfNeeded();
    return this.#getReady(image, signal);
  }

  async #show(image, signal) {
    const picture = await Picture.of(this.album.pictureOf(image));
    if (signal.aborted) return picture.close();
    const { picture: before } = this;
    this.picture = picture;
    if (before?.width === picture.width && before.height === picture.height) this.redraw();
    else this.fit();
    before?.close();
    return picture.addHalves().then(() => this.redraw(), () => {}); // closed meanwhile
  }

  /** An image turned out to be another picture than was drawn; on one of another size, prompts meant something else. */
  async pictured(image, isResized) {
    const history = this.#histories.get(image.id);
    if (isResized && history) {
      history.amendAll((work) => works.unasked(work, t("otherPicture")));
      this.keep(image.id, history.now);
    }
    if (image !== this.image) return;
    this.#askIfNeeded();
    await this.#show(image, this.#opening.signal).catch((error) => this.#fail(error));
    this.changed();
  }

  /** Take up an image's work, `saved` as it was stored, and get the masks that it still lacks. */
  resume(image, saved) {
    if (!this.#histories.has(image.id)) this.#histories.set(image.id, new History(works.restored(saved)));
    for (const object of this.workOf(image.id).objects) if (object.pending) this.backlog.add(image, object);
  }

  /** Change the work on an image, as a step that undo takes back. Whether it was opened before, so that its work is here. */
  changeWork(image, change) {
    const history = this.#histories.get(image.id);
    if (!history) return false;
    history.push(change(history.now));
    image.objects = history.now.objects.length;
    if (image === this.image) this.#moved({ stale: null });
    else this.keep(image.id, history.now);
    for (const object of history.now.objects) if (object.pending) this.backlog.add(image, object);
    return true;
  }

  /** Another model answers from now on: what is being made is asked again; finished objects keep their masks. */
  remodeled() {
    this.#stopAsking();
    if (!this.image) return undefined;
    Object.assign(this, { stale: works.chosen(this.work)?.rle ?? this.stale, badge: null, problem: null });
    this.#amend(works.unanswered(this.work));
    this.#askIfNeeded();
    return this.#getReady(this.image, this.#opening.signal);
  }

  /** Put the image away: another one comes. */
  close() {
    this.#opening?.abort();
    this.#stopAsking();
    this.picture?.close();
    Object.assign(this, { picture: null, waiting: null, badge: null, stale: null, boxing: null, cross: null, corner: null,
      selection: [], problem: null, image: null });
    this.#wait("checking");
  }

  /** Nothing is open any more. */
  clear() {
    this.close();
    this.#wait(null);
  }

  forget(id) {
    this.backlog.drop(id);
    this.#histories.delete(id);
  }

  /** The work on an image, as far as this editor has seen the image. */
  workOf(id) {
    return this.#histories.get(id)?.now;
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
    this.problem = error;
    this.changed();
  }

  // --- the prompt ------------------------------------------------------------------------------------------------------

  /** A click on a pixel: label 1 on the object, 0 off it. */
  click(pixel, label) {
    this.selection = [];
    this.#step(works.withPoint(this.work, { ...pixel, label }));
  }

  box(box) {
    this.boxing = null;
    if (box) this.selection = [];
    if (box) this.#step(works.withBox(this.work, box));
    else this.redraw();
  }

  movePoint(index, pixel) {
    this.#step(works.withPointMoved(this.work, index, pixel));
  }

  removePoint(index) {
    this.#step(works.withoutPoint(this.work, index));
  }

  /** Give a finished object, or with `null` the one in the making, a mask that was made by hand. */
  reshape(id, mask) {
    this.#step(id === null ? works.withMask(this.work, mask) : works.reshaped(this.work, id, mask));
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

  /** Finish the object in the making. Where its mask is not there yet, the object gets it however late it comes. */
  finish() {
    const classId = this.work.objects.find((one) => one.id === this.work.editing)?.classId ?? this.classId();
    const [id, pending] = [works.newId(), works.newId()];
    const next = works.finished(this.work, { id, classId, pending });
    if (next === null) return false;
    const object = next.objects.find((one) => one.pending === pending);
    if (object) this.backlog.add(this.image, object); // before the ask for the prompt is called off, which it joins
    const made = this.work.editing ?? id;
    this.#step(next);
    this.made(this.work, made);
    return true;
  }

  #settle(image, object, mask, trouble, made) {
    const history = this.#histories.get(image.id);
    if (!history) return;
    history.amendAll((work) => works.settled(work, object.pending, mask, trouble, made));
    this.keep(image.id, history.now);
    if (!mask?.area) this.maskless(image, object);
    else if (image === this.image) this.made(history.now, object.id);
    this.changed();
  }

  undo() {
    if (this.#history?.undo()) this.#moved({ stale: null });
  }

  redo() {
    if (this.#history?.redo()) this.#moved({ stale: null });
  }

  /** Take a step: the work becomes what `change` makes of it. */
  apply(change) {
    if (this.image) this.#step(change(this.work));
  }

  /** Put objects into an image, which need not be open; `saved` is its work as it was stored. */
  receive(image, saved, objects) {
    this.resume(image, saved);
    const history = this.#histories.get(image.id);
    history.push({ ...history.now, objects: [...history.now.objects, ...objects] });
    image.objects = history.now.objects.length;
    this.keep(image.id, history.now);
    this.changed();
  }

  edit(id) {
    if (this.work.objects.find((one) => one.id === id)?.locked) return;
    this.selection = [];
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

  selectNext(step) {
    this.select(works.neighbour(this.work, this.selected, step));
  }

  /** Select an object, or none with `null`; with `adds` besides those that are, or no longer where it is one of them. */
  select(id, adds = false) {
    const others = this.selection.filter((one) => one !== id);
    if (!adds) this.selection = id === null ? [] : [id];
    else this.selection = others.length < this.selection.length ? others : [...others, id];
    this.changed();
  }

  #step(work) {
    if (!this.image || work === this.work) return;
    const before = works.chosen(this.work)?.rle ?? this.stale ?? this.preview?.rle ?? null;
    this.#history.push(work);
    this.#moved({ stale: works.isAskable(work) && !work.answer ? before : null });
  }

  #amend(work) {
    if (!this.image) return;
    this.#history.amend(work);
    this.#kept();
  }

  #moved({ stale }) {
    this.stale = stale;
    this.unhover();
    if (this.image.state !== "failed") this.problem = null;
    this.selection = this.selection.filter((id) => this.work.objects.some((one) => one.id === id));
    this.#askIfNeeded();
    this.#kept();
  }

  #kept() {
    this.image.objects = this.work.objects.length;
    this.keep(this.image.id, this.work);
    this.changed();
  }

  #stopAsking() {
    this.#asking.drop();
    this.#asked = null;
    this.unhover();
    this.decoder.close();
  }

  #askIfNeeded() {
    const { image, work } = this;
    if (!image || work.answer || !works.isAskable(work)) {
      this.#asked = null;
      this.#asking.drop();
      if (this.waiting?.kind === "decoding") this.waiting = null;
      return;
    }
    if (this.#asked && works.samePrompt(this.#asked, work)) return;
    this.#asked = work;
    const started = performance.now();
    this.#asking.ask(async (signal) => {
      try {
        const answer = await this.asks.masks(image, work, signal, (kind, share) => this.#wait(kind, share));
        if (signal.aborted || this.image !== image) return;
        this.#wait(null);
        this.badge = { ...answer, ms: performance.now() - started };
        this.stale = null;
        if (works.samePrompt(this.work, work)) this.#amend(works.withAnswer(this.work, answer));
        this.paint();
        performance.measure("click-to-mask", { start: started, detail: { outcome: answer.outcome, serverMs: answer.serverMs } });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        this.#fail(error);
      } finally {
        if (this.#asked === work) this.#asked = null;
      }
    });
  }
}
