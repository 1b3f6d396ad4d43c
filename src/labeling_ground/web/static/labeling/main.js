// Puts the page together.

import { Album, filesOf, nameOf } from "./album.js";
import { Decoder } from "../decode/decoder.js";
import { Editor } from "./editor.js";
import { KEY, askForKey, confirmed } from "../shared/dialogs.js";
import { make } from "../shared/elements.js";
import { ExportDialog } from "../export/dialog.js";
import { watch } from "./gestures.js";
import { listen, table } from "./keys.js";
import { Painter } from "./painter.js";
import { drawClasses, drawObjects, drawThumbs } from "./panels.js";
import { sceneOf } from "./scene.js";
import { Server, pause } from "../shared/server.js";
import { Storage, notes } from "../shared/storage.js";
import { ourTurn } from "./turn.js";
import { counted, languageFor, speak, t } from "../shared/words.js";
import * as works from "./work.js";

const COLOURS = ["#3ecf8e", "#ff7a59", "#4aa8ff", "#ffd23f", "#c77dff", "#ff5d8f", "#2fd6d6", "#a3d93d", "#ff9f1c"];
const STRETCH = "0.5,99.5"; // percentiles
const $ = (id) => document.getElementById(id);

class Page {
  choices = {
    language: languageFor(notes.get("language"), navigator.language),
    client: `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`,
    classes: null,
    classId: null,
    opacity: 40,
    hover: true,
    prepare: true,
    decodeHere: false,
    stretch: false,
    imageId: null,
    exporting: { background: false, images: true, pieces: "all", tolerance: "0" },
  };
  tool = "plus";
  trouble = null; // "gone" or "busy"
  #storageTrouble = null;
  #keyAsked = null;
  #told = 0;
  #drawAsked = false;

  constructor() {
    this.canvas = $("canvas");
    this.storage = new Storage();
    this.painter = new Painter(this.canvas, () => sceneOf(this.editor, this.choices));
    this.server = new Server({
      base: document.baseURI,
      client: this.choices.client,
      key: () => sessionStorage.getItem(KEY),
    });
    const trouble = (kind) => this.#trouble(kind);
    const changed = () => this.draw();
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
    this.exporting = new ExportDialog({
      labeled: (onlyThis) => this.#labeled(onlyThis),
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
      keep: (id, work) => this.#kept(this.storage.put("work", { id, ...work })),
      classId: () => this.choices.classId,
      maskless: (image) => this.tell(t("maskless", { name: nameOf(image) })),
    });
  }

  async start() {
    speak(this.choices.language);
    await this.#turn();
    let saved = [];
    try {
      await this.storage.open();
      Object.assign(this.choices, await this.storage.get("choices", "page"));
      saved = await this.album.restore();
    } catch (error) {
      this.#storageTrouble = error.message;
    }
    const { choices } = this;
    this.server.client = choices.client;
    this.server.stretch = choices.stretch ? STRETCH : null;
    choices.language = languageFor(notes.get("language"), choices.language);
    speak(choices.language);
    if (!choices.classes?.length) {
      choices.classes = [{ id: "1", name: t("firstClass"), colour: COLOURS[0] }];
      choices.classId = "1";
    }
    this.#connect();
    this.#language();
    this.decoder.turn(choices.decodeHere);
    this.draw();
    for (const work of saved) if (work.objects.some((one) => one.pending)) this.editor.resume(this.album.find(work.id), work);
    const last = this.album.find(choices.imageId) ?? this.album.images[0];
    if (last) this.open(last);
    document.documentElement.dataset.started = "yes"; // for whoever drives the page from outside
  }

  /** Our turn to write, or, while another tab is at it, the word that it is. */
  async #turn() {
    const dialog = $("elsewhere-dialog");
    const tell = (takeOver) => {
      $("take-over").onclick = () => {
        $("take-over").onclick = null; // a second click would take it from the first
        takeOver();
      };
      dialog.onclose = () => dialog.showModal(); // Escape does not make it our turn
      dialog.showModal();
    };
    await ourTurn({
      elsewhere: tell,
      lost: (takeBack) => {
        this.storage.retire();
        tell(() => takeBack().then(() => location.reload())); // what the other tab did is read anew
      },
    });
    dialog.onclose = null;
    dialog.close();
  }

  // --- images ----------------------------------------------------------------------------------------------------------

  async add(files) {
    if (files.length === 0) return;
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
    if (failed.length) words.push(t("notAnImage", { name: failed.join(", ") }));
    if (words.length) this.tell(words.join(" "));
    this.#prepare();
  }

  async open(image) {
    if (image === this.editor.image) return;
    this.album.stopPreparing();
    this.choose({ imageId: image.id });
    this.editor.close();
    const saved = await this.storage.get("work", image.id).catch(() => null);
    if (this.choices.imageId !== image.id) return;
    try {
      await this.editor.open(image, saved);
    } catch (error) {
      this.tell(t("notAnImage", { name: `${nameOf(image)} (${error.message})` }));
    }
    if (this.choices.imageId === image.id) this.#prepare();
  }

  /** Read images with their values stretched, or as their files say. */
  stretch(on) {
    const { image } = this.editor;
    this.choose({ stretch: on });
    this.server.stretch = on ? STRETCH : null;
    this.album.stopPreparing();
    this.album.reread();
    this.decoder.turn(this.choices.decodeHere); // it has the embedding of the other reading
    this.editor.close();
    if (image) this.open(image);
    else this.editor.clear();
  }

  #prepare() {
    const { image } = this.editor;
    if (this.choices.prepare && image?.state === "ready") this.album.prepare(this.album.images.indexOf(image));
    else this.album.stopPreparing();
  }

  go(step) {
    const next = this.album.images[this.album.images.indexOf(this.editor.image) + step];
    if (next) this.open(next);
  }

  async removeImage() {
    const { image } = this.editor;
    if (!image || !(await confirmed(t("removeImage", { name: nameOf(image), objects: counted("objectsOf", image.objects) }), t("remove")))) return;
    const at = this.album.images.indexOf(image);
    this.editor.close();
    this.editor.forget(image.id);
    await this.album.remove(image.id);
    const next = this.album.images[at] ?? this.album.images[at - 1];
    if (next) await this.open(next);
    else this.editor.clear();
    this.draw();
  }

  // --- classes ---------------------------------------------------------------------------------------------------------

  /** A number key: the selected object's class, or the one of what comes next. */
  pickClass(index) {
    const one = this.choices.classes[index];
    if (!one) return;
    const { selected, work } = this.editor;
    if (selected) this.editor.change(selected, { classId: one.id });
    else if (work.editing) this.editor.change(work.editing, { classId: one.id });
    this.choose({ classId: one.id });
    this.draw();
  }

  addClass(name) {
    const { classes } = this.choices;
    const id = String(1 + Math.max(0, ...classes.map((one) => Number(one.id))));
    const colour = COLOURS.find((value) => !classes.some((one) => one.colour === value)) ?? COLOURS[classes.length % COLOURS.length];
    this.choose({ classes: [...classes, { id, name, colour }], classId: id });
    this.draw();
  }

  async #removeClass(id) {
    const name = this.choices.classes.find((one) => one.id === id).name;
    const isUsed = ({ objects }) => objects.some((object) => object.classId === id);
    if ((await this.#labeled()).some(isUsed) || isUsed(this.editor.work)) { // the latter perhaps since the others were asked
      this.tell(t("classInUse", { name }));
      return;
    }
    const classes = this.choices.classes.filter((one) => one.id !== id);
    this.choose({ classes, classId: this.choices.classId === id ? classes[0].id : this.choices.classId });
    this.draw();
  }

  #changeClass(id, change) {
    this.choose({ classes: this.choices.classes.map((one) => (one.id === id ? { ...one, ...change } : one)) });
    this.draw();
  }

  // --- commands --------------------------------------------------------------------------------------------------------

  take(tool) {
    this.tool = tool;
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
    this.canvas.classList.toggle("pan", tool === "pan");
    this.editor.unhover();
  }

  finish() {
    if (works.hasPrompt(this.editor.work) && !this.editor.finish() && works.chosen(this.editor.work)) this.tell(t("emptyMask"));
  }

  clickAtCross(label) {
    if (this.editor.cross) this.editor.click(this.editor.cross, label);
  }

  selectNext(step) {
    const { objects } = this.editor.work;
    if (objects.length === 0) return;
    const at = objects.findIndex((one) => one.id === this.editor.selected);
    this.editor.select(objects[(at + step + objects.length + (at < 0 && step < 0 ? 1 : 0)) % objects.length].id);
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

  openFiles() {
    $("files").click();
  }

  openHelp() {
    $("help-dialog").showModal();
  }

  openExport() {
    if (!$("export").disabled) this.exporting.open();
  }

  /** Every image with its objects, or only the open one; those that the editor has not seen come from the storage. */
  async #labeled(onlyThis = false) {
    const images = onlyThis ? [this.editor.image].filter(Boolean) : this.album.images;
    return Promise.all(images.map(async (image) => {
      const { id, names, width, height, state } = image;
      const file = this.album.pictureOf(image);
      const seen = this.editor.objectsOf(id) ?? (await this.storage.get("work", id).catch(() => null))?.objects;
      return { id, names, width, height, state, file, isRedrawn: file !== image.file, objects: seen ?? [] };
    }));
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
      this.#storageTrouble = error?.message ?? String(error);
      this.draw();
    }
  }

  #trouble(kind) {
    if (kind === "key") return this.#askForKey();
    if (kind === "gone" && this.trouble !== "gone") this.#lookOut();
    if (kind === "busy" && this.trouble === null) this.trouble = "busy";
    if (kind === null && this.trouble === "busy") this.trouble = null;
    this.draw();
    return undefined;
  }

  /** Say that the server is gone until it is back, whether or not anything waits for it. */
  async #lookOut() {
    this.trouble = "gone";
    do await pause(1000);
    while (!(await this.server.isReady()));
    this.trouble = null;
    this.isBack = true;
    this.draw();
    await pause(3000);
    this.isBack = false;
    this.draw();
  }

  #askForKey() {
    const refused = sessionStorage.getItem(KEY) ? t("keyRefused") : "";
    this.#keyAsked ??= askForKey({ trouble: refused }).then((key) => {
      sessionStorage.setItem(KEY, key ?? "");
      this.#keyAsked = null;
    });
    return this.#keyAsked;
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------

  /** Draw everything anew with the next frame. */
  draw() {
    this.painter.ask();
    if (this.#drawAsked) return;
    this.#drawAsked = true;
    queueMicrotask(() => {
      this.#drawAsked = false;
      this.#drawLists();
      this.#drawState();
      if ($("export-dialog").open) this.exporting.draw();
    });
  }

  #drawLists() {
    const { editor, choices } = this;
    const { images } = this.album;
    drawClasses($("classes"), { classes: choices.classes, current: choices.classId }, {
      pick: (id) => this.pickClass(choices.classes.findIndex((one) => one.id === id)),
      change: (id, change) => this.#changeClass(id, change),
      remove: (id) => this.#removeClass(id),
    });
    const { objects, editing } = editor.work;
    drawObjects($("objects"), { objects, classes: choices.classes, selected: editor.selected, editing }, {
      select: (id) => editor.select(id),
      change: (id, change) => editor.change(id, change),
      hide: (id) => editor.hide(id),
      edit: (id) => editor.edit(id),
      remove: (id) => editor.remove(id),
    });
    $("object-count").textContent = objects.length || "";
    $("no-objects").hidden = objects.length > 0;
    drawThumbs($("thumbs"), { images, current: editor.image?.id }, (image) => this.open(image));
    $("strip").hidden = images.length < 2;
    $("welcome").hidden = images.length > 0;
    $("where").hidden = images.length === 0;
    const at = images.indexOf(editor.image);
    $("position").textContent = `${at + 1} / ${images.length}`;
    $("image-name").textContent = editor.image ? nameOf(editor.image) : "";
    $("previous").disabled = at <= 0;
    $("next").disabled = at < 0 || at >= images.length - 1;
    $("export").disabled = images.length === 0;
  }

  #drawState() {
    const { editor, choices } = this;
    const { work, badge } = editor;
    editor.hovering = choices.hover;
    $("undo").disabled = !editor.canUndo;
    $("redo").disabled = !editor.canRedo;
    $("opacity").value = choices.opacity;
    $("hover").checked = choices.hover;
    $("prepare").checked = choices.prepare;
    $("decode-here").checked = choices.decodeHere;
    $("stretch").checked = choices.stretch;
    const why = this.#whyNotHere();
    $("decode-state").hidden = !this.decoder.isOn;
    $("decode-state").dataset.state = this.decoder.state;
    $("decode-state").textContent = why || t(`decode-${this.decoder.state}`);
    $("prompt-bar").hidden = !works.hasPrompt(work);
    const active = works.chosen(work);
    $("finish").disabled = !works.isAskable(work);
    $("prompt-bar").dataset.mask = active ? "yes" : "no";
    const many = work.answer?.masks.length ?? 0;
    $("candidate-previous").disabled = $("candidate-next").disabled = many < 2;
    const values = active && { n: work.choice + 1, of: many, score: active.score.toFixed(2) };
    $("candidate").textContent = active ? t("candidate", values) : "…";
    $("candidate").title = active ? t("candidateTip", values) : "";
    $("badge").hidden = !badge;
    if (badge) {
      $("badge").dataset.outcome = badge.outcome;
      const [outcome, ms, model] = $("badge").children;
      outcome.textContent = t(badge.outcome);
      ms.textContent = `${badge.ms < 10 ? badge.ms.toFixed(1) : Math.round(badge.ms)} ms`;
      model.textContent = badge.model;
      const times = { ms: badge.ms.toFixed(1), server: badge.serverMs?.toFixed(1) };
      const tip = t(badge.outcome === "here" ? "hereTip" : "badgeTip", times);
      $("badge").title = [tip, why, badge.note].filter(Boolean).join("\n");
    }
    const said = [badge && t("model", { model: badge.model }), badge?.note || editor.image?.note];
    $("model").textContent = said.filter(Boolean).join(" – ");
    this.#drawHint(work, active);
    this.#drawBanner();
    this.#drawWaiting();
  }

  /** Why the server decodes although the page should, as a sentence. */
  #whyNotHere() {
    const { trouble } = this.decoder;
    return trouble ? t("notHere", { why: t(trouble.word, trouble.values) }) : "";
  }

  #drawHint(work, active) {
    let text = this.told ?? null;
    if (this.editor.problem !== null) text = t("refused", { why: this.editor.problem });
    else if (works.hasPrompt(work) && !works.isAskable(work)) text = t("needPositive");
    else if (active?.area === 0) text = t("emptyMask");
    $("hint").hidden = !text;
    $("hint").textContent = text ?? "";
  }

  #drawBanner() {
    const banner = $("banner");
    let text = null;
    if (this.trouble === "gone") text = t("gone");
    else if (this.trouble === "busy") text = t("busy");
    else if (this.isBack) text = t("back");
    else if (this.#storageTrouble) text = t("notKept", { why: this.#storageTrouble });
    banner.classList.toggle("good", text === t("back"));
    banner.hidden = !text;
    banner.textContent = text ?? "";
  }

  #drawWaiting() {
    const { waiting } = this.editor;
    clearTimeout(this.clock);
    $("waiting").hidden = !waiting && !this.adding;
    const bar = $("waiting").querySelector("progress");
    bar.hidden = waiting?.kind !== "uploading";
    if (waiting) {
      const seconds = ((performance.now() - waiting.since) / 1000).toFixed(1);
      $("waiting-text").textContent = t(waiting.kind, { s: seconds });
      if (!bar.hidden) bar.value = waiting.share ?? 0;
      this.clock = setTimeout(() => this.#drawWaiting(), 100);
    } else if (this.adding) {
      $("waiting-text").textContent = t("opening", this.adding);
    }
  }

  // --- events ----------------------------------------------------------------------------------------------------------

  #connect() {
    const { editor } = this;
    const click = (id, run) => $(id).addEventListener("click", run);
    const files = (id) => $(id).addEventListener("change", async () => {
      const chosen = [...$(id).files];
      $(id).value = "";
      await this.add(chosen);
    });
    files("files");
    files("folder-files");
    for (const id of ["open", "welcome-open"]) click(id, () => this.openFiles());
    for (const id of ["open-folder", "welcome-folder"]) click(id, () => $("folder-files").click());
    click("previous", () => this.go(-1));
    click("next", () => this.go(1));
    click("remove-image", () => this.removeImage());
    click("undo", () => editor.undo());
    click("redo", () => editor.redo());
    click("zoom-in", () => editor.zoom(1.25));
    click("zoom-out", () => editor.zoom(0.8));
    click("zoom-fit", () => editor.fit());
    click("candidate-previous", () => editor.candidate(-1));
    click("candidate-next", () => editor.candidate(1));
    click("discard", () => editor.discard());
    click("finish", () => this.finish());
    click("help", () => this.openHelp());
    click("export", () => this.openExport());
    click("panel-switch", () => {
      const open = $("panel").classList.toggle("open");
      $("panel-switch").setAttribute("aria-expanded", String(open));
    });
    for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => this.take(button.dataset.tool));
    document.addEventListener("click", (event) => {
      // After a click by mouse the keys go on with the image: Enter finishes, and does not press that button again.
      const pressed = event.detail > 0 && event.target.closest("#tools button, #prompt-bar button, #where button, #thumbs button, .pick");
      if (pressed && !document.querySelector("dialog[open]")) this.canvas.focus({ preventScroll: true });
    });
    $("add-class").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = event.target.elements.namedItem("name");
      if (field.value.trim()) this.addClass(field.value.trim());
      field.value = "";
    });
    $("opacity").addEventListener("input", () => this.opacity(Number($("opacity").value) - this.choices.opacity));
    $("hover").addEventListener("change", () => this.toggleHover());
    $("prepare").addEventListener("change", () => {
      this.choose({ prepare: $("prepare").checked });
      this.#prepare();
    });
    $("stretch").addEventListener("change", () => this.stretch($("stretch").checked));
    $("decode-here").addEventListener("change", () => {
      this.choose({ decodeHere: $("decode-here").checked });
      this.decoder.turn(this.choices.decodeHere);
    });
    $("language").addEventListener("change", () => {
      this.choose({ language: $("language").value });
      notes.set("language", this.choices.language);
      this.#language();
      this.draw();
    });
    this.#watchFiles();
    const gestures = watch(this.canvas, () => this.tool, {
      click: (at, label) => {
        const pixel = editor.pixelAt(at);
        editor.cross = null;
        if (pixel) editor.click(pixel, label);
      },
      boxing: (a, b) => {
        editor.boxing = a && editor.boxBetween(a, b);
        editor.redraw();
      },
      box: (a, b) => editor.box(editor.boxBetween(a, b)),
      pan: (dx, dy) => editor.pan(dx, dy),
      zoom: (at, factor) => editor.zoom(factor, at),
      hover: (at) => editor.hover(at && editor.pixelAt(at)),
    });
    this.rows = table(this);
    listen(this.rows, this.canvas);
    for (const [kind, down] of [["keydown", true], ["keyup", false]]) {
      document.addEventListener(kind, (event) => event.key === " " && gestures.space(down));
    }
    addEventListener("blur", () => gestures.space(false));
    let size = null;
    new ResizeObserver(() => {
      const now = `${this.canvas.clientWidth} ${this.canvas.clientHeight}`;
      if (size !== now) editor.resized();
      size = now;
    }).observe(this.canvas);
  }

  #watchFiles() {
    const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      $("drop").hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) $("drop").hidden = true;
    });
    document.addEventListener("drop", async (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      $("drop").hidden = true;
      await this.add(await filesOf(event.dataTransfer));
    });
    document.addEventListener("paste", async (event) => {
      if (event.clipboardData.files.length) await this.add([...event.clipboardData.files]);
    });
  }

  #language() {
    speak(this.choices.language);
    $("language").value = this.choices.language;
    const mouse = [["keyClick", "helpClick"], ["keyAlt", "helpAlt"], ["keyDrag", "helpBox"], ["keyWheel", "helpWheel"],
      ["keySpaceDrag", "helpPan"], ["keyPress", "helpAlt"],
      ["keyFingers", "helpFingers"]].map(([key, help]) => helpRow([t(key)], t(help)));
    const keys = this.rows.filter((row) => row.help).map((row) => helpRow(row.shown ?? row.keys, t(row.help)));
    $("help-keys").replaceChildren(...mouse, ...keys);
    this.exporting.speak();
  }
}

function helpRow(keys, text) {
  const shown = keys.flatMap((key, i) => (i ? [" ", make("kbd", {}, key)] : [make("kbd", {}, key)]));
  return make("div", {}, make("span", {}, text), make("span", {}, ...shown));
}

await new Page().start();
