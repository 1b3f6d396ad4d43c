// The files that could not be opened, and the images that the server refused, with the reasons.

import { nameOf } from "./album.js";
import { confirmed } from "../shared/dialogs.js";
import { make } from "../shared/elements.js";
import { sentenceOf } from "../shared/problems.js";
import { counted, t } from "../shared/words.js";

const $ = (id) => document.getElementById(id);

export class Failures {
  #files = []; // {name, why}: of which there is no image; `why` is an error
  #images;
  #missing;
  #removeImages;

  /** `images()` are those that are open, `missing()` those that wait for their photographs; `removeImages(images)` takes some off the list. */
  constructor({ images, missing, removeImages, changed }) {
    this.#images = images;
    this.#missing = missing;
    this.#removeImages = removeImages;
    this.changed = changed;
  }

  get #refused() {
    return this.#images().filter(({ state }) => state === "failed");
  }

  /** How many failed, and how many wait for their photographs, as words. */
  get words() {
    const [failed, missing] = [this.#files.length + this.#refused.length, this.#missing().length];
    return [failed && counted("failures", failed), missing && counted("missing", missing)].filter(Boolean).join(", ");
  }

  /** `[{name, why}]`, files first, what waits for its photograph last; that can be removed as an `image`. */
  get list() {
    return [...this.#files.map(({ name, why }) => ({ name, why: sentenceOf(why) })), ...this.#refused.map((image) => ({ name: nameOf(image), why: sentenceOf(image.why) })),
      ...this.#missing().map((image) => ({ name: nameOf(image), why: t("photoMissing", { objects: counted("objectsOf", image.objects) }), image }))];
  }

  get count() {
    return this.#files.length + this.#refused.length + this.#missing().length;
  }

  /** Note files, `[{name, why}]`, of which there is no image. */
  add(files) {
    this.forget(files.map(({ name }) => name));
    this.#files.push(...files);
    this.changed();
  }

  /** Forget what was noted under these names: they are tried again. */
  forget(names) {
    this.#files = this.#files.filter(({ name }) => !names.includes(name));
  }

  connect() {
    $("failures").addEventListener("click", () => this.open());
    $("remove-failures").addEventListener("click", () => this.removeAll());
  }

  open() {
    $("failures-keep").hidden = true;
    this.draw();
    $("failures-dialog").showModal();
  }

  draw() {
    $("failures-list").replaceChildren(...this.list.map(({ name, why, image }) => {
      const remove = image && make("button", { type: "button", onclick: () => this.#remove(image) }, t("remove"));
      return make("li", {}, make("b", {}, name), make("span", {}, why), ...(remove ? [remove] : []));
    }));
    if (this.count === 0) $("failures-dialog").close();
  }

  async #remove(image) {
    const sure = await confirmed(t("removeImage", { name: nameOf(image), objects: counted("objectsOf", image.objects) }), t("remove"));
    if (!sure) return;
    await this.#removeImages([image]);
    this.draw();
  }

  /** Forget the files, and take the refused images off the list. Those with objects stay: their labels would go with them. */
  async removeAll() {
    this.#files = [];
    await this.#removeImages([...this.#refused, ...this.#missing()].filter(({ objects }) => objects === 0));
    this.changed();
    $("failures-keep").hidden = this.count === 0;
    $("failures-keep").textContent = t("failuresKeep");
    this.draw();
  }
}
