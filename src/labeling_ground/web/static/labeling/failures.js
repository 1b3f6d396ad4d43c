// The files that could not be opened, and the images that the server refused, with the reasons.

import { nameOf } from "./album.js";
import { make } from "../shared/elements.js";
import { t } from "../shared/words.js";

const $ = (id) => document.getElementById(id);

export class Failures {
  #files = []; // {name, why}: of which there is no image
  #images;
  #removeImages;

  /** `images()` are those that are open; `removeImages(images)` takes some off the list. */
  constructor({ images, removeImages, changed }) {
    this.#images = images;
    this.#removeImages = removeImages;
    this.changed = changed;
  }

  get #refused() {
    return this.#images().filter(({ state }) => state === "failed");
  }

  /** `[{name, why}]`, files first. */
  get list() {
    return [...this.#files, ...this.#refused.map((image) => ({ name: nameOf(image), why: image.why ?? "" }))];
  }

  get count() {
    return this.#files.length + this.#refused.length;
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
    $("failures-list").replaceChildren(...this.list.map(({ name, why }) => make("li", {}, make("b", {}, name), make("span", {}, why))));
    if (this.count === 0) $("failures-dialog").close();
  }

  /** Forget the files, and take the refused images off the list. Those with objects stay: their labels would go with them. */
  async removeAll() {
    this.#files = [];
    await this.#removeImages(this.#refused.filter(({ objects }) => objects === 0));
    this.changed();
    $("failures-keep").hidden = this.count === 0;
    $("failures-keep").textContent = t("failuresKeep");
    this.draw();
  }
}
