// The import dialog: what some files hold, and how it comes to the labels that are there.

import { takeIn } from "./intake.js";
import { baseOf, isLabels, isMask } from "./parts.js";
import { pathOf } from "../labeling/files.js";
import { make } from "../shared/elements.js";
import { sha256 } from "../shared/sha256.js";
import { counted, language, t } from "../shared/words.js";

const $ = (id) => document.getElementById(id);
const MOST_NAMES = 5;

/** Files by what they are: photographs to open, and those that hold labels. */
export function sorted(files) {
  const labels = files.filter((file) => isLabels(pathOf(file)));
  if (labels.length === 0) return { photos: files, labels };
  const isOne = (file) => labels.includes(file) || isMask(pathOf(file));
  return { photos: files.filter((file) => !isOne(file)), labels: files.filter(isOne) };
}

export class ImportDialog {
  #worker = null;
  #photos = [];
  #format = null;

  /** `page` has the `album`, the `editor`, the `storage`, the `choices`, and adds photographs. */
  constructor(page) {
    this.page = page;
    this.dialog = $("import-dialog");
    $("import").addEventListener("click", () => $("import-files").click());
    $("import-files").addEventListener("change", async () => {
      const chosen = [...$("import-files").files];
      $("import-files").value = "";
      if (chosen.length) await this.open(chosen);
    });
    $("start-import").addEventListener("click", () => this.#start());
    this.dialog.addEventListener("close", () => this.#stop());
  }

  /** Say what is in files. */
  async open(files) {
    this.#stop();
    $("start-import").hidden = $("import-mode").closest("label").hidden = true;
    this.#say(t("importReading"));
    this.dialog.showModal();
    this.#worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    const found = await this.#ask({ files: files.map((file) => ({ path: pathOf(file), blob: file })) });
    if (!found) return;
    this.#photos = found.photos;
    this.#format = found.format;
    this.#say(t("importFound", { format: t(found.format), photos: counted("imagesOf", found.photos.length) }));
    $("start-import").hidden = $("import-mode").closest("label").hidden = false;
    $("start-import").focus();
  }

  /** The worker's answer, or nothing where it has a problem, which is told. */
  #ask(message) {
    const worker = this.#worker;
    this.#busy(true);
    return new Promise((resolve) => {
      worker.onmessage = ({ data }) => {
        this.#busy(false);
        if (data.problem !== undefined) this.#say(t("importFailed", { why: data.problem }));
        resolve(data.problem === undefined ? data : null);
      };
      worker.onerror = (event) => worker.onmessage({ data: { problem: event.message ?? "" } });
      worker.postMessage({ language: language(), ...message });
    });
  }

  async #start() {
    const { album } = this.page;
    const isProject = this.#format === "project";
    const ids = new Map();
    const open = () => Promise.all(this.#photos.map(async ({ path, blob }) => {
      const id = await sha256(new Uint8Array(await blob.arrayBuffer()));
      ids.set(path, id);
      return album.find(id) ? null : Object.assign(new File([blob], baseOf(path)), { path });
    })).then((files) => this.page.add(files.filter(Boolean)));
    try {
      if (!isProject) await open(); // YOLO's labels are shares of an image's size
      const images = album.images.map(({ id, names, width, height }) => ({ id, names, width, height }));
      const found = await this.#ask({ images, ids });
      if (!found) return;
      this.#busy(true);
      const report = await takeIn(this.page, found.labels, { ids, mode: $("import-mode").value });
      if (isProject) await open(); // the names are the project's
      this.#say(said(report));
      $("start-import").hidden = $("import-mode").closest("label").hidden = true;
      this.dialog.querySelector(".close").focus(); // Enter goes on with the work
    } catch (error) {
      this.#say(t("importFailed", { why: error.message }));
    } finally {
      this.#busy(false);
    }
  }

  #busy(isBusy) {
    $("import-progress").hidden = !isBusy;
    $("start-import").disabled = isBusy;
  }

  #stop() {
    this.#worker?.terminate();
    this.#worker = null;
    this.#photos = [];
    this.#busy(false);
  }

  #say(...lines) {
    $("import-summary").replaceChildren(...lines.flat().map((line) => make("p", {}, line)));
  }
}

/** What came of an import, as sentences. */
export function said({ objects, images, waiting, unread, unknown, resized }) {
  const lines = [t("importDone", { objects: counted("objectsOf", objects), images: counted("imagesOf", images + waiting) })];
  if (unknown.length) lines.push(t("importUnknown", { names: shortened(unknown) }));
  if (resized.length) lines.push(t("importResized", { names: shortened(resized) }));
  if (unread) lines.push(counted("importUnread", unread));
  return lines;
}

function shortened(names) {
  return names.slice(0, MOST_NAMES).join(", ") + (names.length > MOST_NAMES ? `, … (${names.length})` : "");
}
