// Puts the page together.

import { Album, nameOf } from "./album.js";
import { initialChoices } from "./choices.js";
import * as classes from "./classes.js";
import { Connection } from "./connection.js";
import { connect } from "./controls.js";
import { Decoder } from "../decode/decoder.js";
import { Editor } from "./editor.js";
import { drawLists, drawState } from "./drawing.js";
import { KEY, confirmed, renewKey } from "../shared/dialogs.js";
import { pathOf } from "./files.js";
import { connectConcepts } from "./concepts.js";
import { connectEverything } from "./everything.js";
import { Found, withFound } from "./found.js";
import { ExportDialog } from "../export/dialog.js";
import { labeled } from "./labeled.js";
import { Handwork } from "./handwork.js";
import { ImportDialog, sorted } from "../import/dialog.js";
import { drawHelp } from "./help.js";
import { Painter } from "./painter.js";
import { reasonOf, remarksIn, sentenceOf } from "../shared/problems.js";
import { sceneOf } from "./scene.js";
import { Selection } from "./selection.js";
import { Server, persistently } from "../shared/server.js";
import { Storage, notes } from "../shared/storage.js";
import { turnInDialog } from "./turn.js";
import { Upcoming } from "./upcoming.js";
import { counted, languageFor, learn, speak, t } from "../shared/words.js";
import * as works from "./work.js";
import { Workflow } from "./workflow.js";
import { SET_WORDS } from "./set-words.js";
import { WORK_WORDS } from "./work-words.js";

const STRETCH = "0.5,99.5"; // percentiles
const $ = (id) => document.getElementById(id);

class Page {
  choices = initialChoices();
  tool = "plus";
  storageTrouble = null;
  changedAt = null; // when something of the labels was last changed in this tab
  models = []; // those that the server serves
  #told = 0;
  #drawAsked = false;

  constructor() {
    this.canvas = $("canvas");
    this.storage = new Storage();
    this.painter = new Painter(this.canvas, () => withFound(sceneOf(this.editor, this.choices, this.hand.seen), this.found));
    this.server = new Server({ base: document.baseURI, client: this.choices.client, key: () => sessionStorage.getItem(KEY) });
    const trouble = (...news) => this.connection.met(...news);
    const changed = () => this.draw();
    this.connection = new Connection({ server: this.server, changed, askForKey: () => renewKey() });
    const kept = (promise) => this.#kept(promise);
    const pictured = (image, isResized) => {
      if (isResized && image === this.editor.image) this.tell(t("otherPicture"));
      return this.editor.pictured(image, isResized);
    };
    this.album = new Album({ storage: this.storage, server: this.server, trouble, changed, kept, pictured });
    this.decoder = new Decoder({
      server: this.server,
      makeWorker: () => new Worker(new URL("../decode/worker.js", import.meta.url), { type: "module" }),
      trouble,
      changed,
    });
    this.upcoming = new Upcoming({ server: this.server });
    this.workflow = new Workflow(this);
    this.importing = new ImportDialog(this);
    this.selection = new Selection(this);
    this.exporting = new ExportDialog({
      labeled: (onlyThis) => labeled(this, onlyThis),
      classes: () => this.choices.classes,
      options: () => this.choices.exporting,
      choose: (exporting) => this.choose({ exporting }),
    });
    this.editor = new Editor({
      album: this.album,
      server: this.server,
      decoder: this.decoder,
      trouble,
      changed,
      size: () => ({ width: this.canvas.clientWidth, height: this.canvas.clientHeight }),
      redraw: () => this.painter.ask(),
      paint: () => this.painter.now(),
      keep: (id, work) => {
        this.changedAt = Date.now();
        return this.#kept(this.storage.put("work", { id, ...work }));
      },
      classId: () => this.choices.classId,
      maskless: (image) => this.tell(t("maskless", { name: nameOf(image) })),
      made: (work, id) => this.selection.warn(work, id),
    });
    this.found = new Found({ editor: this.editor, classId: () => this.choices.classId, changed });
  }

  async start() {
    const choose = (change) => this.choose(change);
    this.hand = new Handwork({ editor: this.editor, choices: this.choices, choose, tool: () => this.tool, tell: (text) => this.tell(text) });
    speak(this.choices.language);
    $("language").value = this.choices.language;
    await turnInDialog(() => this.storage.retire(), () => this.editor.image && { name: nameOf(this.editor.image), changed: this.changedAt });
    let saved = [];
    try {
      await this.storage.open();
      Object.assign(this.choices, await this.storage.get("choices", "page"));
      saved = await this.album.restore();
    } catch (error) {
      this.storageTrouble = error.message;
    }
    const { choices } = this;
    this.server.client = choices.client;
    this.server.stretch = choices.stretch ? STRETCH : null;
    this.server.model = choices.model;
    choices.language = languageFor(notes.get("language"), choices.language);
    speak(choices.language);
    if (!choices.classes?.length) {
      Object.assign(choices, classes.added([], t("firstClass")));
    }
    connect(this);
    connectEverything(this);
    connectConcepts(this);
    this.speak();
    this.decoder.turn(choices.decodeHere);
    this.draw();
    for (const work of saved) if (work.objects.some((one) => one.pending)) this.editor.resume(this.album.find(work.id), work);
    this.#learnModels();
    const last = this.album.find(choices.imageId) ?? this.album.images[0];
    if (last) this.open(last);
    document.documentElement.dataset.started = "yes"; // for whoever drives the page from outside
  }

  // --- images ----------------------------------------------------------------------------------------------------------

  /** Open the photographs among files, and bring in the labels. */
  async receive(files) {
    const { photos, labels } = sorted(files);
    if (photos.length || !labels.length) await this.add(photos);
    if (labels.length) await this.importing.open(labels);
  }

  async add(files) {
    if (files.length === 0) return;
    this.workflow.failures.forget(files.map(pathOf));
    navigator.storage?.persist?.(); // asks the browser not to clear the work away when it runs short of space
    let first = true;
    const each = (image) => {
      if (first) this.open(image);
      first = false;
      this.draw();
    };
    const { failed, same, many } = await this.album.add(files, each, (n, of) => {
      this.adding = n ? { n, of } : null;
      this.draw();
    });
    if (many === 0) this.tell(t("nothingToOpen"));
    const words = same.map((one) => t("sameBytes", one));
    if (failed.length) words.push(t("notOpened", { name: failed.map(({ name }) => name).join(", ") }));
    if (failed.length < 3) words.push(...failed.map(({ name, why }) => `${name}: ${reasonOf(why)}`));
    this.workflow.failures.add(failed);
    if (words.length) this.tell(words.join("\n"));
    this.prepare();
  }

  async open(image) {
    if (image === this.editor.image) return;
    this.found.close();
    this.album.stopPreparing();
    this.choose({ imageId: image.id });
    this.editor.close();
    const saved = await this.storage.get("work", image.id).catch(() => null);
    if (this.choices.imageId !== image.id) return;
    try {
      if (await this.editor.open(image, saved)) this.#remark(image);
    } catch (error) {
      this.tell(t("notDrawn", { name: nameOf(image), why: sentenceOf(error) }));
    }
    if (this.choices.imageId === image.id) this.prepare();
  }

  /** Say once what is to be known of how an image was read. */
  #remark(image) {
    const remarks = image.isRemarked ? "" : remarksIn(image.note);
    image.isRemarked = true;
    if (remarks) this.tell(remarks);
  }

  /** Read images with their values stretched, or as their files say. */
  stretch(on) {
    const { image } = this.editor;
    this.choose({ stretch: on });
    this.server.stretch = on ? STRETCH : null;
    this.#askAnew();
    this.editor.close();
    if (image) this.open(image);
    else this.editor.clear();
  }

  /** Forget what the server and the decoder here know of the images: the reading or the model is another one now. */
  #askAnew() {
    this.album.stopPreparing();
    this.album.reread();
    this.decoder.turn(this.choices.decodeHere);
  }

  /** Ask another model from now on, of those served. */
  useModel(name) {
    this.choose({ model: name });
    this.server.model = name;
    this.#askAnew();
    this.editor.remodeled()?.then(() => this.prepare());
    this.draw();
  }

  /** Which models there are; one that was chosen and is not served any more is given up for the default one. */
  async #learnModels() {
    const trouble = (...news) => this.connection.met(...news);
    try {
      this.models = await persistently(() => this.server.models(), { server: this.server, trouble });
    } catch (error) {
      return this.tell(sentenceOf(error));
    }
    if (this.server.model && !this.models.some((one) => one.name === this.server.model)) this.useModel(null);
    return this.draw();
  }

  /** Have the next images encoded, unless that is not wanted, or the open one is still waited for. */
  prepare() {
    const { image } = this.editor;
    const isWanted = this.choices.prepare;
    if (isWanted && image?.state !== "ready") return this.album.stopPreparing();
    const next = isWanted ? this.workflow.expected : [];
    this.album.prepare(next);
    return this.upcoming.tell(isWanted ? [image, ...next] : next);
  }

  async removeImage() {
    const { image } = this.editor;
    if (!image || !(await confirmed(t("removeImage", { name: nameOf(image), objects: counted("objectsOf", image.objects) }), t("remove")))) return;
    await this.removeImages([image]);
  }

  /** Take images off the list, with their labels; where the open one is among them, another one is opened. */
  async removeImages(images) {
    const { image } = this.editor;
    const [before, after] = [this.workflow.images, this.workflow.ahead];
    if (images.includes(image)) this.editor.close();
    for (const { id } of images) {
      this.editor.forget(id);
      await this.album.remove(id);
    }
    if (images.includes(image)) {
      const next = after.find((one) => !images.includes(one)) ?? before.findLast((one) => !images.includes(one)) ?? this.album.images[0];
      if (next) await this.open(next);
      else this.editor.clear();
    }
    this.draw();
  }

  // --- classes ---------------------------------------------------------------------------------------------------------

  /** A number key: the selected object's class, or the one of what comes next. */
  pickClass(index) {
    const one = this.choices.classes[index];
    if (!one) return;
    const { selected, work } = this.editor;
    if (selected) this.selection.classify(one.id);
    else if (work.editing) this.editor.change(work.editing, { classId: one.id });
    this.choose({ classId: one.id });
    this.draw();
  }

  addClass(name) {
    this.#chooseClasses(classes.added(this.choices.classes, name));
  }

  async removeClass(id) {
    const name = this.choices.classes.find((one) => one.id === id).name;
    const isUsed = ({ objects }) => objects.some((object) => object.classId === id);
    if ((await labeled(this)).some(isUsed) || isUsed(this.editor.work)) { // the latter perhaps since the others were asked
      this.tell(t("classInUse", { name }));
      return;
    }
    this.#chooseClasses(classes.without(this.choices, id));
  }

  changeClass(id, change) {
    const isTaken = this.choices.classes.some((one) => one.id !== id && one.name === change.name);
    if (isTaken) this.tell(t("classThere", change));
    else this.#chooseClasses(classes.changed(this.choices, id, change));
  }

  #chooseClasses(change) {
    this.choose(change);
    this.draw();
  }

  // --- commands --------------------------------------------------------------------------------------------------------

  take(tool) {
    this.tool = tool;
    this.hand.giveUp();
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
    this.canvas.classList.toggle("pan", tool === "pan");
    this.editor.unhover();
    this.draw();
  }

  undo() {
    if (!this.hand.takeBack()) this.editor.undo();
  }

  discard() {
    if (!this.hand.giveUp()) this.editor.discard();
  }

  /** Remove the click or the corner under the pointer, or else the selected objects. */
  remove() {
    if (!this.hand.removeHere()) this.selection.remove();
  }

  /** Finish the object in the making. Whether it could be. */
  finish() {
    if (!works.hasPrompt(this.editor.work)) return false;
    if (this.editor.finish()) return true;
    this.tell(t(works.chosen(this.editor.work) ? "emptyMask" : "needPositive"));
    return false;
  }

  /** Give the selected object a name. */
  rename() {
    document.querySelector(`#objects [data-id="${this.editor.selected}"] .pick`)?.rename();
  }

  opacity(step) {
    this.choose({ opacity: Math.min(100, Math.max(0, this.choices.opacity + step)) });
    this.draw();
  }

  toggleMasks() {
    this.editor.masksShown = !this.editor.masksShown;
    this.draw();
  }

  toggleHover() {
    this.choose({ hover: !this.choices.hover });
    this.editor.unhover();
    this.draw();
  }

  // --- what is told ----------------------------------------------------------------------------------------------------

  /** A word that stands until the next step. */
  tell(text) {
    this.told = text;
    clearTimeout(this.#told);
    this.#told = setTimeout(() => {
      this.told = null;
      this.draw();
    }, 8000);
    this.draw();
  }

  choose(change) {
    Object.assign(this.choices, change);
    this.#kept(this.storage.put("choices", { ...this.choices }, "page"));
  }

  async #kept(promise) {
    try {
      await promise;
    } catch (error) {
      this.storageTrouble = error?.message ?? String(error);
      this.draw();
    }
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------

  /** Draw everything anew with the next frame. */
  draw() {
    this.painter.ask();
    if (this.#drawAsked) return;
    this.#drawAsked = true;
    queueMicrotask(() => {
      this.#drawAsked = false;
      drawLists(this);
      drawState(this);
      if ($("export-dialog").open) this.exporting.draw();
    });
  }

  /** Say everything in the language that was chosen. */
  speak() {
    speak(this.choices.language);
    $("language").value = this.choices.language;
    drawHelp(this.rows);
    this.exporting.speak();
  }
}

learn({ ...SET_WORDS, ...WORK_WORDS });
await new Page().start();
