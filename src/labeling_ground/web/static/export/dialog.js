// The export dialog: what goes along, and the file that comes of it.

import { STATES, stateOf } from "../labeling/states.js";
import { make, unlessDrawn, write } from "../shared/elements.js";
import { counted, language, t } from "../shared/words.js";
import { FORMATS } from "./index.js";
import { parted } from "./parts.js";
import { dataSet } from "./set.js";

const $ = (id) => document.getElementById(id);
const MOST_NAMES = 5;
/** What is chosen unless somebody chooses otherwise; `images` and `as` are by format. While no image is marked, those in work go along, too. */
const USUAL = { states: ["done", "nothing"], images: { yolo: true, project: true }, as: {}, pieces: "all", tolerance: "0", validation: "0", seed: "1" };
const FIELDS = { pieces: "export-pieces", tolerance: "export-tolerance", validation: "export-validation", seed: "export-seed" };

export class ExportDialog {
  #worker = null;
  #isMarked = true; // somebody has said of an image how far it is

  /** `labeled(only)` gives every image with its objects, or only the open one; `classes()` the classes; `choose` keeps. */
  constructor({ labeled, classes, options, choose }) {
    Object.assign(this, { labeled, classes, options, choose });
    this.dialog = $("export-dialog");
    $("formats").addEventListener("change", () => this.draw());
    $("export-one").addEventListener("change", () => this.draw());
    $("export-states").addEventListener("change", () => this.#choose({ states: STATES.filter((state) => $(`export-${state}`).checked) }));
    $("export-images").addEventListener("change", () => this.#choose({ images: { ...this.#chosen.images, [this.#format]: $("export-images").checked } }));
    $("export-as").addEventListener("change", () => this.#choose({ as: { ...this.#chosen.as, [this.#format]: $("export-as").value } }));
    for (const [name, id] of Object.entries(FIELDS)) $(id).addEventListener("input", () => this.#choose({ [name]: $(id).value || USUAL[name] }));
    $("download").addEventListener("click", () => this.#download());
    $("cancel-export").addEventListener("click", () => {
      this.#stop();
      this.draw();
    });
    this.dialog.addEventListener("close", () => this.#stop());
  }

  get #format() {
    return document.querySelector("input[name=format]:checked").value;
  }

  get #chosen() {
    const { images, ...chosen } = this.options();
    return { ...USUAL, ...(!this.#isMarked && { states: ["working", ...USUAL.states] }), ...chosen, images: { ...USUAL.images, ...images } };
  }

  /** What the format is made with: `{as, images, pieces, tolerance}`. */
  get #how() {
    const { images, as, pieces, tolerance } = this.#chosen;
    const format = this.#format;
    return { as: as[format] ?? FORMATS[format].as?.[0], images: images[format] ?? false, pieces, tolerance: Number(tolerance) };
  }

  #choose(change) {
    this.choose({ ...this.options(), ...change });
    this.draw();
  }

  async open() {
    await this.draw();
    this.dialog.showModal();
  }

  /** The formats in the page's language. */
  speak() {
    const before = document.querySelector("input[name=format]:checked")?.value ?? Object.keys(FORMATS)[0];
    $("formats").replaceChildren($("formats").querySelector("legend"), ...Object.keys(FORMATS).map((name) => make("label", {},
      make("input", { type: "radio", name: "format", value: name, checked: name === before }),
      make("span", {}, t(name)),
      make("small", {}, t(`${name}-more`)))));
  }

  /** Say what will be in the file. To be called again when something of the work has changed. */
  async draw() {
    const all = await this.labeled(false);
    this.#isMarked = all.some(({ mark }) => mark);
    const only = $("export-one").checked;
    this.#drawOptions(all, only);
    const labeled = only ? await this.labeled(true) : all;
    const { images, left, unfinished } = this.#setOf(labeled);
    const objects = images.reduce((sum, image) => sum + image.objects.length, 0);
    const lines = [t("summary", { objects: counted("objectsOf", objects), images: counted("imagesOf", images.length) })];
    const validating = new Set(images.filter(({ part }) => part === "val").map(({ id }) => id)).size;
    if (validating) lines.push(counted("validating", validating));
    for (const [kind, n] of Object.entries(left)) if (n) lines.push(counted(`left-${kind}`, n));
    if (unfinished.length) lines.push(t("unfinished", { images: shortened(unfinished.map(({ name, n }) => t("unfinishedIn", { name, n }))) }));
    if (!this.#worker) this.#say(lines.join(" "));
    $("download").disabled = images.length === 0 || this.#worker !== null;
  }

  #drawOptions(all, only) {
    const { states, ...chosen } = this.#chosen;
    const { options, as = [] } = FORMATS[this.#format];
    $("export-states").hidden = options.includes("whole");
    const how = this.#how;
    const counts = STATES.map((state) => all.filter((one) => stateOf({ ...one, objects: one.objects.length }) === state).length);
    unlessDrawn($("export-states"), counts, () => [make("legend", {}, t("exportStates")), ...STATES.map((state, i) => make("label", { className: "check" },
      make("input", { type: "checkbox", id: `export-${state}` }), make("span", {}, t("stateCount", { state: t(`state-${state}`), n: counts[i] }))))]);
    for (const state of STATES) Object.assign($(`export-${state}`), { checked: states.includes(state), disabled: only });
    unlessDrawn($("export-as"), as, () => as.map((one) => make("option", { value: one }, t(`as-${one}`))));
    $("export-as").value = how.as;
    $("export-images").checked = how.images;
    // What somebody is typing stays: news of the work come at any time.
    for (const [name, id] of Object.entries(FIELDS)) if (document.activeElement !== $(id)) $(id).value = chosen[name];
    const isOutlined = !as.length || how.as === "polygons" || how.as === "segments";
    const shown = { as: as.length, images: options.includes("images"), pieces: options.includes("pieces") && isOutlined,
      tolerance: options.includes("tolerance") && isOutlined, validation: options.includes("parts"), seed: options.includes("parts") && chosen.validation !== "0" };
    for (const [name, isShown] of Object.entries(shown)) $(`export-${name}`).closest("label").hidden = !isShown;
  }

  #setOf(labeled) {
    if (FORMATS[this.#format].options.includes("whole")) return { images: labeled, left: {}, unfinished: [] };
    const { states, validation, seed } = this.#chosen;
    const takesPoints = FORMATS[this.#format].options.includes("points");
    const { images, ...set } = dataSet(labeled, $("export-one").checked ? null : states, { takesPoints });
    const share = FORMATS[this.#format].options.includes("parts") ? Number(validation) / 100 : 0;
    return { ...set, images: parted(images, { share, seed }) };
  }

  async #download() {
    const format = this.#format;
    const { images } = this.#setOf(await this.labeled($("export-one").checked));
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.#work(worker);
    worker.onmessage = ({ data: { blob, name, problem, step, done, of } }) => {
      if (of) {
        Object.assign($("export-progress"), { max: of, value: done });
        return this.#say(t(`exporting-${step}`, { done, of }));
      }
      this.#stop();
      if (blob) return this.#save(blob, name);
      return this.#say(t("exportFailed", { why: problem }));
    };
    worker.onerror = (event) => {
      this.#stop();
      this.#say(t("exportFailed", { why: event.message ?? "" }));
    };
    worker.postMessage({ language: language(), format, set: { images, classes: this.classes() }, options: this.#how });
  }

  #save(blob, name) {
    const url = URL.createObjectURL(blob);
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    this.dialog.close();
  }

  /** Call off what is being made. */
  #stop() {
    this.#worker?.terminate();
    this.#work(null);
  }

  #work(worker) {
    this.#worker = worker;
    const isBusy = worker !== null;
    $("download").disabled = isBusy;
    $("export-progress").hidden = $("cancel-export").hidden = !isBusy;
    $("export-progress").removeAttribute("value");
    $("export-options").inert = $("formats").inert = isBusy;
  }

  #say(text) {
    write($("export-summary"), text);
  }
}

function shortened(names) {
  return names.slice(0, MOST_NAMES).join(", ") + (names.length > MOST_NAMES ? ", …" : "");
}
