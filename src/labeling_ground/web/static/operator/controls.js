// Changing settings and purging: asks first, and for the admin key where the server has one.

import { askForKey, confirmed } from "../shared/dialogs.js";
import { make } from "../shared/elements.js";
import { sentenceOf } from "../shared/problems.js";
import { Gone, Refused } from "../shared/server.js";
import { sha256 } from "../shared/sha256.js";
import { t } from "../shared/words.js";
import { changesOf } from "./figures.js";
import { bytes, counted } from "./format.js";

const ADMIN_KEY = "labeling-ground-admin-key";
const MIB = 1 << 20;
const FIELDS = [
  { name: "policy" },
  { name: "memory_bytes", unit: MIB, whole: true },
  { name: "disk_bytes", unit: MIB, whole: true },
  { name: "idle_seconds", unit: 60 },
  { name: "done_weight", unit: 1, only: "gds" },
  { name: "frequency_exponent", unit: 1, only: "gdsf" },
];
const $ = (id) => document.getElementById(id);

export class Controls {
  #figures = null;
  #shown = {}; // the form's texts as the server would have them

  /** `changed()` is called when the figures are other ones now. */
  constructor({ server, changed }) {
    Object.assign(this, { server, changed, form: $("settings") });
    this.form.addEventListener("input", () => this.#drawForm());
    this.form.addEventListener("reset", (event) => {
      event.preventDefault();
      this.#fill();
    });
    this.#on("settings", () => this.#change());
    this.#on("purge-image", (form) => this.#purgeImage(form));
    this.#on("purge-model", (form) => {
      const model = form.elements.model.value;
      return this.#purge({ model }, t("askPurgeModel", { model }));
    });
    this.#on("purge-all", () => {
      const { tiers } = this.#figures;
      const sum = (name) => tiers.reduce((total, tier) => total + tier[name], 0);
      return this.#purge({}, t("askPurgeAll", { entries: counted("entries", sum("entries")), bytes: bytes(sum("bytes")) }));
    });
    $("from-file").addEventListener("click", () => $("purge-file").click());
    $("purge-file").addEventListener("change", async () => {
      const [file] = $("purge-file").files;
      if (file) $("purge-image").elements.image_id.value = await sha256(new Uint8Array(await file.arrayBuffer()));
      $("purge-file").value = "";
    });
    for (const { name } of FIELDS) this.form.elements[name].disabled = true;
    this.#enable();
  }

  /** New figures. What somebody is typing stays. */
  take(figures) {
    const isUntouched = this.#isUntouched();
    const isFirst = this.#figures === null;
    const mayAsBefore = this.#figures?.has_admin_key === figures.has_admin_key;
    this.#figures = figures;
    if (isFirst) $("purge-model").elements.model.value = figures.model;
    this.#enable();
    const shown = Object.fromEntries(FIELDS.map(({ name, unit }) => {
      const value = figures.settings[name];
      return [name, unit ? String(Number((value / unit).toFixed(3))) : value];
    }));
    if (mayAsBefore && JSON.stringify(shown) === JSON.stringify(this.#shown)) return;
    this.#shown = shown;
    const options = figures.policies.map((name) => make("option", { value: name }, name));
    const typed = this.form.elements.policy.value;
    this.form.elements.policy.replaceChildren(...options);
    if (typed) this.form.elements.policy.value = typed;
    if (isFirst || isUntouched) this.#fill();
    else this.#drawForm();
  }

  /** The words that depend on what the server is like. */
  speak() {
    const may = this.#figures?.has_admin_key ?? true;
    $("settings-more").textContent = t(may ? "settingsMore" : "noAdminKey");
  }

  #on(id, run) {
    $(id).addEventListener("submit", (event) => {
      event.preventDefault();
      run(event.target);
    });
  }

  #enable() {
    for (const form of ["purge-image", "purge-model", "purge-all"]) {
      for (const field of $(form).elements) field.disabled = this.#figures === null;
    }
    this.speak();
  }

  #typed() {
    const fields = FIELDS.map(({ name }) => this.form.elements[name]).filter((field) => !field.closest("label").hidden);
    return Object.fromEntries(fields.map((field) => [field.name, field.value]));
  }

  #isUntouched() {
    return Object.keys(changesOf(FIELDS, this.#shown, this.#typed())).length === 0;
  }

  #fill() {
    for (const { name } of FIELDS) this.form.elements[name].value = this.#shown[name];
    this.#drawForm();
  }

  #drawForm() {
    const may = this.#figures.has_admin_key;
    const policy = this.form.elements.policy.value;
    for (const { name, only } of FIELDS) {
      const field = this.form.elements[name];
      const isOut = (only && policy !== only) || (name === "disk_bytes" && this.#shown[name] === "0"); // there is no disk tier
      field.closest("label").hidden = isOut;
      field.disabled = isOut || !may; // what is hidden shall not be found wrong either
    }
    const isUntouched = this.#isUntouched();
    for (const button of this.form.querySelectorAll("button")) button.disabled = isUntouched || !may;
  }

  async #change() {
    const typed = this.#typed();
    const changes = changesOf(FIELDS, this.#shown, typed);
    const lines = Object.keys(changes).map((name) => `${t(name)}: ${this.#shown[name]} → ${typed[name]}`);
    await this.#do($("settings-told"), [t("askChange"), ...lines].join("\n"), t("change"), async (key) => {
      const settings = await this.server.change(changes, key);
      this.take({ ...this.#figures, settings });
      this.#fill();
      return t("changed");
    });
  }

  #purgeImage(form) {
    const id = form.elements.image_id.value.trim().toLowerCase();
    return this.#purge({ image_id: id }, t("askPurgeImage", { id }));
  }

  /** Load or unload a model, after asking. */
  async setLoaded(name, isLoaded) {
    await this.#do($("models-told"), t(isLoaded ? "askLoad" : "askUnload", { name }), t(isLoaded ? "loadModel" : "unloadModel"), async (key) => {
      await this.server.setLoaded(name, isLoaded, key);
      return t(isLoaded ? "loadedNow" : "unloadedNow", { name });
    });
  }

  async #purge(what, question) {
    await this.#do($("purge-told"), question, t("purgeButton"), async (key) => {
      const deleted = await this.server.purge(what, key);
      return deleted ? t("purged", { entries: counted("entries", deleted) }) : t("purgedNothing");
    });
  }

  /** Ask, do it, and say in `place` how it went. */
  async #do(place, question, yes, work) {
    const tell = (text, isTrouble = false) => {
      place.textContent = text;
      place.classList.toggle("trouble", isTrouble);
    };
    tell("");
    if (!(await confirmed(question, yes))) return;
    try {
      const done = this.#figures.has_admin_key ? await withAdminKey(work) : await work(null);
      tell(done ?? t("nothingDone"));
    } catch (error) {
      if (error instanceof Gone) tell(t("goneNothingDone"), true);
      else if (error instanceof Refused) tell(sentenceOf(error), true);
      else throw error;
    }
    this.changed();
  }
}

/** Do `work(key)` with the admin key, which is asked for until the server takes it; `null` if nobody gives one. */
async function withAdminKey(work) {
  for (let trouble = ""; ; trouble = t("adminRefused")) {
    const key = sessionStorage.getItem(ADMIN_KEY) ?? (await askForKey({ title: t("adminTitle"), more: t("adminMore"), trouble }));
    if (key === null) return null;
    try {
      const done = await work(key);
      sessionStorage.setItem(ADMIN_KEY, key);
      return done;
    } catch (error) {
      if (!(error instanceof Refused && (error.status === 401 || error.status === 403))) throw error;
      sessionStorage.removeItem(ADMIN_KEY);
    }
  }
}
