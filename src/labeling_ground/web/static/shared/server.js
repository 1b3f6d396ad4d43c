// The server's /v1, as the page needs it.

import { eachLine } from "./lines.js";

const PASSING = [408, 429, 502, 503, 504]; // statuses of a server, or of a proxy before it, that may answer a moment later

/** The server did not answer at all. */
export class Gone extends Error {}

/** The server answered with an error. `retryAfter` is in seconds, or `null` if trying again is of no use. */
export class Refused extends Error {
  constructor(status, problem, retryAfter) {
    super(problem?.detail ?? `HTTP ${status}`);
    this.status = status;
    this.type = problem?.type?.split(":").pop() ?? "";
    this.retryAfter = retryAfter;
  }

  /** What is worth keeping of it. */
  get problem() {
    return { type: this.type, message: this.message };
  }

  /** Whether sending the image helps: the server has forgotten it, or its cache does not answer whether it has it. */
  get wantsImage() {
    return this.type === "unknown-image" || this.type === "unreachable-image";
  }

  /** The same of the mask that was to be refined, which was told by its name. */
  get wantsMask() {
    return this.type === "unknown-prediction" || this.type === "unreachable-prediction";
  }
}

export class Server {
  stretch = null; // two percentiles, "0.5,99.5", between which the values of images are spread; or as the file says
  model = null; // a model's name; or the default one answers
  #models = []; // that were served when they were last asked for

  /** `key()` is the API key or `null`; `client` says who works here. */
  constructor({ base, client, key }) {
    this.base = base;
    this.client = client;
    this.key = key;
  }

  #headers() {
    const key = this.key();
    return { "X-Client-Id": this.client, ...(key ? { "X-API-Key": key } : {}) };
  }

  async #ask(path, options = {}, read = asJson) {
    let response, body;
    try {
      response = await fetch(new URL(path, this.base), { ...options, headers: { ...this.#headers(), ...options.headers } });
      body = await (response.ok ? read : problemOf)(response);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Gone(error.message);
    }
    if (!response.ok) throw refusal(response.status, body, response.headers.get("Retry-After"));
    return { body, timing: serverTotal(response.headers.get("Server-Timing")), headers: response.headers };
  }

  #query(more) {
    const query = new URLSearchParams({ ...more, ...(this.model && { model: this.model }) }).toString();
    return query && `?${query}`;
  }

  /** The id under which the server knows an image as it is read now: that of the file, and the stretch. */
  reading(id) {
    return this.stretch ? `${id}~stretch-${this.stretch.replace(",", "-")}` : id;
  }

  /** What the server knows of an image, or `null`. */
  async image(id, signal, { waiting = false } = {}) {
    try {
      const query = this.#query(waiting && { waiting });
      return (await this.#ask(`v1/images/${this.reading(id)}${query}`, { signal })).body;
    } catch (error) {
      if (error instanceof Refused && (error.status === 404 || error.wantsImage)) return null;
      throw error;
    }
  }

  /** Say which images (ids as they are read) this client opens next; the list takes the place of the one before. */
  async announce(images) {
    const headers = { "Content-Type": "application/json" };
    await this.#ask("v1/upcoming", { method: "POST", headers, body: JSON.stringify({ images, ...(this.model && { model: this.model }) }) });
  }

  /** The picture that the server segments, for where a browser draws another one or none. */
  async preview(id, signal) {
    return (await this.#ask(`v1/images/${this.reading(id)}/preview?format=jpeg`, { signal }, asBlob)).body;
  }

  /**
   * Send an image. `progress(share)` is called while it is on its way, with 1 when all of it is there. With `wait` the
   * answer comes when it is encoded.
   */
  send(file, { wait, signal, progress }) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest(); // fetch does not tell how far an upload is
      const stop = () => request.abort();
      const query = this.#query({ ...(this.stretch && { stretch: this.stretch }), ...(!wait && { wait: false }) });
      request.open("POST", new URL(`v1/images${query}`, this.base));
      for (const [name, value] of Object.entries(this.#headers())) request.setRequestHeader(name, value);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.upload.onprogress = (event) => progress?.(event.total ? event.loaded / event.total : 0);
      request.upload.onload = () => progress?.(1);
      request.onloadend = () => {
        signal?.removeEventListener("abort", stop);
        if (signal?.aborted) return reject(new DOMException("Called off.", "AbortError"));
        if (request.status === 0) return reject(new Gone("The connection broke."));
        const body = parsed(request.responseText);
        if (request.status < 300 && body) return resolve(body);
        return reject(refusal(request.status, body, request.getResponseHeader("Retry-After")));
      };
      if (signal?.aborted) return reject(new DOMException("Called off.", "AbortError"));
      signal?.addEventListener("abort", stop);
      request.send(file);
    });
  }

  /**
   * The masks for clicks, a box and a mask to start from, best first, and how they came to be. A mask that the server does
   * not know any more under its `ref`, or another model made, is sent as it is; to a model that takes none, none is sent.
   */
  async masks(id, { points, box, mask = null }, signal) {
    const started = performance.now();
    const ask = (start) => this.#ask(`v1/images/${this.reading(id)}/masks`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ points, ...(box && { box }), ...(start && { mask_input: start }), ...(this.model && { model: this.model }) }),
      signal,
    });
    const whole = mask && { rle: mask.rle };
    const isTaken = mask && this.#takesMasks;
    const { body, timing } = await ask(isTaken ? mask.ref ?? whole : null).catch((error) => {
      if (isTaken && mask.ref && error.wantsMask) return ask(whole);
      throw error;
    });
    return {
      predictionId: body.prediction_id,
      masks: body.masks.map(({ rle, score, area }) => ({ rle, score, area })),
      outcome: body.outcome,
      model: body.model,
      version: body.model_version,
      note: body.note ?? "",
      serverMs: timing ?? body.seconds * 1e3,
      ms: performance.now() - started,
    };
  }

  /** Find all masks of an image; `see(line)` hears each line of the stream. What failed under way, or was cut off, is thrown. */
  async everything(id, signal, see) {
    const headers = { "Content-Type": "application/json", Accept: "application/x-ndjson" };
    const body = JSON.stringify(this.model ? { model: this.model } : {});
    const read = (response) => eachLine(response, see);
    const { body: last } = await this.#ask(`v1/images/${this.reading(id)}/everything`, { method: "POST", headers, body, signal }, read);
    if (last?.event === "problem") throw refusal(last.status, last, null);
    if (last?.event !== "end") throw new Gone("The stream was cut off.");
  }

  /** All instances of what a phrase names in an image: the answer's JSON. */
  async concepts(id, phrase, signal) {
    const body = JSON.stringify({ text: phrase, ...(this.model && { model: this.model }) });
    const headers = { "Content-Type": "application/json" };
    return (await this.#ask(`v1/images/${this.reading(id)}/concepts`, { method: "POST", headers, body, signal })).body;
  }

  /** What the cache holds, did and saved. */
  async figures(signal) {
    return (await this.#ask("v1/cache", { signal })).body;
  }

  /** What it did in each minute of the last day, after the moment `since` (seconds since 1970). */
  async history(since, signal) {
    return (await this.#ask(`v1/cache/history?since=${since}`, { signal })).body;
  }

  /** Purge everything, or one model or image; how many entries went. `key` is the one that may, `null` for our own. */
  async purge(what, key) {
    const query = new URLSearchParams(what);
    const { body } = await this.#ask(`v1/cache?${query}`, { method: "DELETE", headers: keyed(key) });
    return body.deleted;
  }

  /** Change settings of the cache; what is in effect then. */
  async change(settings, key) {
    const headers = { "Content-Type": "application/json", ...keyed(key) };
    return (await this.#ask("v1/cache/settings", { method: "PUT", headers, body: JSON.stringify(settings) })).body;
  }

  /** Load or unload one of the models served; how that model is then. */
  async setLoaded(model, isLoaded, key) {
    const way = isLoaded ? "load" : "unload";
    return (await this.#ask(`v1/models/${encodeURIComponent(model)}/${way}`, { method: "POST", headers: keyed(key) })).body;
  }

  /** What is served. */
  async models(signal) {
    return (this.#models = (await this.#ask("v1/models", { signal })).body.models);
  }

  get #takesMasks() {
    const model = this.#models.find((one) => (this.model ? one.name === this.model : one.default));
    return model?.capabilities?.includes("mask") ?? true;
  }

  /** A model's decoder, an ONNX file. */
  async decoder(model, sha256, signal) {
    return (await this.#ask(`v1/models/${encodeURIComponent(model)}/decoder?sha256=${sha256}`, { signal }, asBytes)).body;
  }

  /** What runs a decoder in a browser, `{version, module}`, or `null` where the operator did not install it. */
  async runtime(signal) {
    return (await this.#ask("web/decoder.json", { signal })).body.runtime ?? null;
  }

  /** An image's embedding, a safetensors file, and the version of the model that made it. */
  async embedding(id, signal) {
    const { body, headers } = await this.#ask(`v1/images/${this.reading(id)}/embedding${this.#query()}`, { signal }, asBytes);
    return { embedding: body, version: headers.get("X-Model-Version") };
  }

  /** Whether the server is there and its model answers, within `patience` milliseconds: one that vanished says nothing. */
  async isReady(patience = 10_000) {
    try {
      const signal = AbortSignal.timeout(patience);
      const response = await fetch(new URL("health/ready", this.base), { cache: "no-store", signal });
      return response.ok;
    } catch {
      return false;
    }
  }
}

function keyed(key) {
  return key === null ? {} : { "X-API-Key": key };
}

const asJson = (response) => response.json();
const problemOf = (response) => (response.status < 500 ? response.text().then(parsed) : response.json()); // a proxy's page beside 4xx is a refusal
const asBlob = (response) => response.blob();
const asBytes = (response) => response.arrayBuffer();

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function refusal(status, problem, retryAfter) {
  return new Refused(status, problem, PASSING.includes(status) ? Number(retryAfter) || 1 : null);
}

function serverTotal(header) {
  const found = /total;dur=([\d.]+)/.exec(header ?? "");
  return found ? Number(found[1]) : null;
}

/** Wait, unless `signal` calls it off. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("Called off.", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

/**
 * Run `work` until it succeeds or fails for good: a server that is away, or busy, or wants a key, is waited for.
 * `trouble(kind, error)` hears "gone", "key" (then its promise is waited for), or "busy", and `null` when that is over.
 */
export async function persistently(work, { server, signal, trouble }) {
  let isBusy = false;
  try {
    for (let wait = 500; ; wait = Math.min(5000, wait * 1.5)) {
      try {
        return await work();
      } catch (error) {
        if (error instanceof Gone) {
          trouble("gone", error);
          do await pause(wait, signal);
          while (!(await server.isReady()));
        } else if (error instanceof Refused && error.retryAfter !== null && !error.wantsImage) {
          isBusy = true;
          trouble("busy", error);
          await pause(error.retryAfter * 1e3, signal);
        } else if (error instanceof Refused && error.status === 401) {
          await trouble("key", error);
        } else {
          throw error;
        }
      }
    }
  } finally {
    if (isBusy) trouble(null);
  }
}
