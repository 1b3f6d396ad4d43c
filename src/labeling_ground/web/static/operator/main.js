// The operator's page: asks for the figures every now and then, and draws them.

import { KEY, askForKey } from "../shared/dialogs.js";
import { sentenceOf } from "../shared/problems.js";
import { Gone, Refused, Server, pause } from "../shared/server.js";
import { notes } from "../shared/storage.js";
import { languageFor, learn, speak, t } from "../shared/words.js";
import * as cards from "./cards.js";
import { Controls } from "./controls.js";
import { drawAdvice, drawDay, joined } from "./day.js";
import { Trail } from "./figures.js";
import { CACHE_WORDS } from "./words.js";

const EVERY = 2000; // milliseconds from an answer to the next ask
const PATIENCE = 10_000; // milliseconds that an answer may take
const KEPT_S = 300; // seconds that the plots of the last minutes go back
const PRICE = "1.00"; // of an hour, as `cache simulate` takes it where nothing else is said
const $ = (id) => document.getElementById(id);

class Page {
  figures = null;
  models = [];
  trail = new Trail(KEPT_S);
  #day = null; // the server's history, in columns
  #dayDue = 0; // when there may be more of it, on the page's clock
  state = "connecting"; // or "live", "paused", "serverGone", "needsKey"
  problem = null; // the error with which the server refused
  #at = null; // when the figures came
  #resting = null;

  constructor() {
    const client = `operator-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`;
    this.server = new Server({ base: document.baseURI, client, key: () => sessionStorage.getItem(KEY) });
    this.controls = new Controls({ server: this.server, changed: () => this.#resting?.abort() });
    learn(CACHE_WORDS);
    this.#speak(languageFor(notes.get("language"), navigator.language));
    $("price").value = notes.get("price") ?? PRICE;
    this.#connect();
    this.#drawState();
  }

  async run() {
    for (;;) {
      if (document.hidden) await this.#shown();
      if (await this.#ask()) continue;
      document.documentElement.dataset.started = "yes"; // for whoever drives the page from outside
      this.#resting = new AbortController();
      await pause(EVERY, this.#resting.signal).catch(() => {}); // woken: something is to be seen at once
    }
  }

  /** Until somebody looks at the page again. */
  #shown() {
    this.#is("paused");
    return new Promise((resolve) => {
      const seen = () => {
        if (document.hidden) return;
        document.removeEventListener("visibilitychange", seen);
        resolve();
      };
      document.addEventListener("visibilitychange", seen);
    });
  }

  /** Ask for the figures, and draw them. Whether to ask again at once. */
  async #ask() {
    try {
      const figures = await this.server.figures(AbortSignal.timeout(PATIENCE));
      this.models = await this.server.models(AbortSignal.timeout(PATIENCE));
      if (performance.now() >= this.#dayDue) await this.#askDay();
      this.figures = figures;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        await this.#askForKey();
        return true;
      }
      if (error instanceof Gone) this.#is("serverGone");
      else if (error instanceof Refused) this.#is(this.state, error);
      else throw error;
      return false;
    }
    this.#at = new Date();
    this.trail.push(this.figures, performance.now() / 1e3);
    this.#is("live");
    this.controls.take(this.figures);
    this.draw();
    return false;
  }

  async #askDay() {
    const more = await this.server.history(this.#day?.at.at(-1) ?? 0, AbortSignal.timeout(PATIENCE));
    this.#day = joined(this.#day, more.columns);
    this.#dayDue = performance.now() + more.every_seconds * 1e3;
    drawDay(this.#day, Date.now() / 1e3);
  }

  async #askForKey() {
    const trouble = sessionStorage.getItem(KEY) ? t("keyRefused") : "";
    this.#is("needsKey");
    const key = await askForKey({ title: t("keyTitle"), more: t("keyMore"), trouble });
    sessionStorage.setItem(KEY, key ?? "");
    if (key === null) await new Promise((resolve) => $("give-key").addEventListener("click", resolve, { once: true }));
  }

  #is(state, problem = null) {
    this.state = state;
    this.problem = problem;
    this.#drawState();
  }

  #price() {
    return $("price").valueAsNumber;
  }

  draw() {
    const { figures, trail } = this;
    if (!figures) return;
    cards.drawTiles(figures, trail, this.#price());
    cards.drawLookups($("lookups"), figures);
    cards.drawLive(trail, performance.now() / 1e3);
    cards.drawTiers($("tiers"), figures);
    cards.drawLatency($("latency"), figures.latency);
    cards.drawLarger($("larger"), figures, this.#price());
    cards.drawAges($("ages"), figures);
    cards.drawModels($("models"), this.models, figures.has_admin_key, (name, isLoaded) => this.controls.setLoaded(name, isLoaded));
    cards.drawEngines($("engines"), figures);
    drawAdvice($("advice"), figures);
  }

  #drawState() {
    $("state").dataset.state = this.state;
    $("state").textContent = t(this.state);
    let text = this.problem && sentenceOf(this.problem);
    if (this.state === "serverGone") text = this.#at ? t("cacheGone", { at: this.#at.toLocaleTimeString(t("numbers")) }) : t("cacheGoneAtOnce");
    if (this.state === "needsKey") text = t("keyNeeded");
    if ($("banner-text").textContent !== (text ?? "")) $("banner-text").textContent = text ?? "";
    $("banner").hidden = !text;
    $("give-key").hidden = this.state !== "needsKey";
    if (this.state === "serverGone") {
      $("health").textContent = t(this.state);
      $("health").dataset.health = "failing";
    }
    document.querySelector("main").classList.toggle("old", this.state !== "live" && this.state !== "paused");
  }

  #speak(language) {
    speak(language);
    document.title = t("cacheTitle");
    $("language").value = language;
    this.controls.speak();
  }

  #connect() {
    $("language").addEventListener("change", () => {
      notes.set("language", $("language").value);
      this.#speak($("language").value);
      this.#drawState();
      this.draw();
      if (this.#day) drawDay(this.#day, Date.now() / 1e3);
    });
    $("price").addEventListener("input", () => {
      notes.set("price", $("price").value);
      this.draw();
    });
    document.addEventListener("visibilitychange", () => this.#resting?.abort());
    let width = 0;
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width !== width) {
        this.draw();
        if (this.#day) drawDay(this.#day, Date.now() / 1e3);
      }
      width = contentRect.width;
    }).observe(document.querySelector("main"));
  }
}

await new Page().run();
