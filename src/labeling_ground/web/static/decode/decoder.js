// Decoding in the browser: a click on an image whose embedding is here needs no server. Whatever is missing or goes
// wrong, `masks` answers `null`, and the server is asked.

import { reasonOf } from "../shared/problems.js";
import { Refused, persistently } from "../shared/server.js";
import { Helper } from "./helper.js";
import { EMBEDDINGS } from "./prompts.js";

const PATIENCE = 30_000; // milliseconds: far more than any decode takes
const MOST_THREADS = 4; // more of them gain little, and the page needs a core as well

/** Why it cannot be: a word of the page's, and what belongs into it. */
class Unfit extends Error {
  constructor(word, values = {}) {
    super(word);
    Object.assign(this, { word, values });
  }
}

export class Decoder {
  isOn = false;
  #broken = null; // {word, values}: why the server decodes although this is on
  #absent = null; // the same, for the image in the editor only
  #wanted = null; // the image in the editor
  #held = null; // the image whose embedding the worker has
  #model = null; // what `/v1/models` says of the decoder that the worker has
  #helper = null;
  #running = null; // called off when it is switched off
  #fetching = null; // called off when there is another image
  #loaded = null;
  #changedTo = null; // the model version for which everything was got anew

  /**
   * `server` has what is needed, `makeWorker()` starts `worker.js`, `changed()` hears of news, `trouble` of a server
   * that does not answer. `patience` is how many milliseconds the worker may be silent.
   */
  constructor({ server, makeWorker, trouble, changed, patience = PATIENCE }) {
    Object.assign(this, { server, makeWorker, changed, patience, waited: trouble });
  }

  /** Why the server decodes although this is switched on: a word of the page's and its values, or `null`. */
  get trouble() {
    return this.#broken ?? this.#absent;
  }

  /** What it is doing: "off", "unfit" for a trouble, "loading" what is needed once, "fetching" an embedding, "ready". */
  get state() {
    if (!this.isOn) return "off";
    if (this.trouble) return "unfit";
    if (!this.#model) return "loading";
    return this.#wanted === null || this.#wanted === this.#held ? "ready" : "fetching";
  }

  /** Switch it on or off. On again after a trouble means: try again. */
  turn(on) {
    this.#end();
    this.#broken = this.#absent = null;
    this.isOn = on;
    if (on) {
      this.#running = new AbortController();
      this.#loaded = this.#load(this.#running.signal);
      this.#follow();
    } else {
      this.#changedTo = null;
    }
    this.changed();
  }

  /** An image is in the editor, and the server has its embedding. */
  open(id) {
    this.#wanted = id;
    this.#absent = null;
    this.#follow();
  }

  /** It is not in the editor any more. */
  close() {
    this.#wanted = this.#absent = null;
    this.#fetching?.abort();
  }

  /**
   * The masks for clicks, a box and a mask to start from, as `Server.masks` gives them, or `null`: ask the server. A preview lets clicks go
   * first.
   */
  async masks(id, { points, box, mask = null }, signal, { preview = false } = {}) {
    if (this.#held !== id || this.state !== "ready") return null;
    const started = performance.now();
    const { id: model, version, note = "" } = this.#model;
    const helper = this.#helper;
    try {
      const masks = await helper.ask("masks", { points, box, start: mask?.rle ?? null }, { signal, last: preview });
      return { masks, outcome: "here", model, version, note, serverMs: null, ms: performance.now() - started };
    } catch (error) {
      signal?.throwIfAborted();
      if (helper === this.#helper) this.#fail(error); // otherwise it was switched off meanwhile, which is no trouble
      return null;
    }
  }

  #end() {
    this.#running?.abort();
    this.#fetching?.abort();
    this.#helper?.close();
    this.#helper = this.#model = this.#held = null;
  }

  #fail(error) {
    this.#end();
    const { word, values } = error instanceof Unfit ? error : new Unfit("decoderBroke", { why: error.message });
    this.#broken = { word, values };
    this.changed();
  }

  /** Get what every image needs: the runtime and the model's decoder. Whether that was possible. */
  async #load(signal) {
    const get = this.#patiently(signal);
    try {
      if (typeof WebAssembly !== "object") throw new Unfit("oldBrowser");
      const runtime = await get(() => this.server.runtime(signal));
      if (!runtime) throw new Unfit("noRuntime");
      const model = (await get(() => this.server.models(signal))).find((one) => (this.server.model ? one.name === this.server.model : one.default));
      if (!EMBEDDINGS[model?.decoder?.family]) throw new Unfit("noDecoder", { model: model?.id ?? this.server.model });
      const { family, sha256 } = model.decoder;
      const graph = await get(() => this.server.decoder(model.id, sha256, signal));
      this.#helper = new Helper(this.makeWorker(), this.patience);
      const module = new URL(runtime.module, this.server.base).href;
      await this.#helper.ask("load", { module, graph, family, threads: threads() }, { transfer: [graph], signal });
      this.#model = model;
      this.changed();
      return true;
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
      return false;
    }
  }

  /** Have the embedding of the image in the editor, unless the worker has it. */
  async #follow() {
    this.#fetching?.abort();
    const id = this.#wanted;
    if (!this.isOn || this.trouble || id === null) return;
    const { signal } = (this.#fetching = new AbortController());
    this.changed();
    try {
      if (!(await this.#loaded) || signal.aborted || id === this.#held) return;
      this.#held = null;
      const { version, embedding } = await this.#patiently(signal)(() => this.server.embedding(id, signal));
      if (version !== this.#model.version) return this.#change(version);
      await this.#helper.ask("image", { embedding }, { transfer: [embedding], signal });
      this.#held = id;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused) this.#absent = { word: "noEmbedding", values: { why: reasonOf(error) } };
      else this.#fail(error);
    } finally {
      this.changed();
    }
  }

  /** Another model is served by now: get its decoder, unless that was of no use. */
  #change(version) {
    if (this.#changedTo === version) throw new Unfit("noDecoder", { model: version });
    this.#changedTo = version;
    this.turn(true);
  }

  #patiently(signal) {
    return (work) => persistently(work, { server: this.server, signal, trouble: this.waited });
  }
}

/** How many threads may compute. Only pages that share nothing with other origins have memory that threads share. */
function threads() {
  if (!globalThis.crossOriginIsolated) return 1;
  return Math.min(MOST_THREADS, Math.max(1, (navigator.hardwareConcurrency ?? 1) - 1));
}
