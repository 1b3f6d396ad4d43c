// The export dialog: what goes along, and the file that comes of it.

import { make } from "../shared/elements.js";
import { counted, t } from "../shared/words.js";
import { FORMATS } from "./index.js";
import { dataSet } from "./set.js";

const $ = (id) => document.getElementById(id);
const FIELDS = { background: "export-background", images: "export-images", pieces: "export-pieces", tolerance: "export-tolerance" };

export class ExportDialog {
  #worker = null;

  /** `labeled(only)` gives every image with its objects, or only the open one; `classes()` the classes; `choose` keeps. */
  constructor({ labeled, classes, options, choose }) {
    Object.assign(this, { labeled, classes, options, choose });
    this.dialog = $("export-dialog");
    $("formats").addEventListener("change", () => this.draw());
    $("export-one").addEventListener("change", () => this.draw());
    for (const [name, id] of Object.entries(FIELDS)) {
      $(id).addEventListener("change", () => {
        this.choose({ ...this.options(), [name]: valueOf($(id)) });
        this.draw();
      });
    }
    $("download").addEventListener("click", () => this.#download());
    this.dialog.addEventListener("close", () => this.#stop());
  }

  get #format() {
    return document.querySelector("input[name=format]:checked").value;
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
    const shown = FORMATS[this.#format].options;
    for (const [name, id] of Object.entries(FIELDS)) {
      $(id).closest("label").hidden = !shown.includes(name);
      setValue($(id), this.options()[name]);
    }
    const labeled = await this.labeled($("export-one").checked);
    const { images, left } = this.#setOf(labeled);
    const objects = images.reduce((sum, image) => sum + image.objects.length, 0);
    const lines = [t("summary", { objects: counted("objectsOf", objects), images: counted("imagesOf", images.length) })];
    for (const [kind, n] of Object.entries(left)) if (n) lines.push(counted(`left-${kind}`, n));
    const unfinished = labeled.filter((image) => image.unfinished > 0).map(({ names, unfinished: n }) => t("unfinishedIn", { name: names[0], n }));
    if (unfinished.length) lines.push(t("unfinished", { images: shortened(unfinished) }));
    if (!this.#worker) this.#say(lines.join(" "));
    $("download").disabled = objects === 0 || this.#worker !== null;
  }

  #setOf(labeled) {
    return dataSet(labeled, { format: this.#format, background: this.options().background });
  }

  async #download() {
    const format = this.#format;
    const { images } = this.#setOf(await this.labeled($("export-one").checked));
    const options = { ...this.options(), tolerance: Number(this.options().tolerance) };
    const worker = (this.#worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" }));
    $("download").disabled = true;
    worker.onmessage = ({ data: { blob, problem, kind, done, of } }) => {
      if (of) return this.#say(t("exporting", { done, of }));
      this.#stop();
      if (blob) return this.#save(blob, FORMATS[format].file);
      return this.#say(kind === "TooLarge" ? t("archiveTooLarge") : t("exportFailed", { why: problem }));
    };
    worker.onerror = (event) => {
      this.#stop();
      this.#say(t("exportFailed", { why: event.message ?? "" }));
    };
    worker.postMessage({ format, set: { images, classes: this.classes() }, options });
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
    this.#worker = null;
    $("download").disabled = false;
  }

  #say(text) {
    $("export-summary").textContent = text;
  }
}

const MOST_NAMES = 5;

function shortened(names) {
  return names.slice(0, MOST_NAMES).join(", ") + (names.length > MOST_NAMES ? ", …" : "");
}

function valueOf(field) {
  return field.type === "checkbox" ? field.checked : field.value;
}

function setValue(field, value) {
  if (field.type === "checkbox") field.checked = value;
  else field.value = value;
}
