// A worker that is asked one thing at a time, and that may die.

import { t } from "../shared/words.js";

export class Helper {
  #worker;
  #waiting = []; // asks that were not passed on yet: {kind, given, transfer, resolve, reject}
  #running = null;
  #asked = 0;
  #timer = 0;
  #broken = null;

  /** `patience` is how many milliseconds an ask may take before the worker counts as dead: many die without a word. */
  constructor(worker, patience) {
    this.#worker = worker;
    this.patience = patience;
    worker.onmessage = ({ data }) => this.#answered(data);
    worker.onerror = (event) => {
      event.preventDefault?.(); // it is dealt with: nothing for the console
      this.close(new Error(event.message || t("decoderNotStarted")));
    };
    worker.onmessageerror = () => this.close(new Error(t("decoderUnread")));
  }

  /**
   * Ask for something; rejects when it cannot be done. With `signal` the ask is called off: one that is being worked on
   * runs on, and nobody hears of it. With `last` others that wait go first.
   */
  ask(kind, given, { transfer = [], signal, last = false } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#broken) return reject(this.#broken);
      if (signal?.aborted) return reject(calledOff());
      const ask = { kind, given, transfer, last };
      const stop = () => {
        this.#waiting = this.#waiting.filter((one) => one !== ask);
        reject(calledOff());
      };
      const ended = (settle) => (value) => {
        signal?.removeEventListener("abort", stop);
        settle(value);
      };
      Object.assign(ask, { resolve: ended(resolve), reject: ended(reject) });
      signal?.addEventListener("abort", stop, { once: true });
      const before = last ? -1 : this.#waiting.findIndex((one) => one.last);
      this.#waiting.splice(before < 0 ? this.#waiting.length : before, 0, ask);
      this.#next();
      return undefined;
    });
  }

  /** End the worker. What was asked and is not answered is rejected with this error. */
  close(error = calledOff()) {
    if (this.#broken) return;
    this.#broken = error;
    clearTimeout(this.#timer);
    this.#worker.terminate();
    for (const ask of [this.#running, ...this.#waiting]) ask?.reject(error);
    this.#running = null;
    this.#waiting = [];
  }

  #next() {
    if (this.#running || !this.#waiting.length) return;
    const ask = (this.#running = this.#waiting.shift());
    this.#timer = setTimeout(() => this.close(new Error(t("decoderSilent"))), this.patience);
    this.#worker.postMessage({ id: ++this.#asked, kind: ask.kind, ...ask.given }, ask.transfer);
  }

  #answered({ id, answer, problem }) {
    if (!this.#running || id !== this.#asked) return;
    clearTimeout(this.#timer);
    const ask = this.#running;
    this.#running = null;
    if (problem === undefined) ask.resolve(answer);
    else ask.reject(new Error(problem));
    this.#next();
  }
}

function calledOff() {
  return new DOMException("Called off.", "AbortError");
}
