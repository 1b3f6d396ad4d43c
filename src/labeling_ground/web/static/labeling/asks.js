// The way from a prompt to its masks.

import { Refused, persistently } from "../shared/server.js";
import { Shared } from "./shared.js";
import { t } from "../shared/words.js";

const AT_ONCE = 4; // masks of finished objects that are asked for at the same time

export class Asks {
  #shared = new Shared();

  constructor({ album, server, decoder, trouble }) {
    Object.assign(this, { album, server, decoder, trouble });
  }

  /**
   * The answer to a prompt, `{masks, outcome, model, …}`, however long the server takes. Identical prompts are asked once.
   * `report(kind, share)` hears what is being waited for. Throws `Refused`, an `Error` where the image turned out to have another size than the prompt was made for, or an `AbortError` when `signal` calls it off.
   */
  masks(image, { points, box, mask = null }, signal, report = () => {}) {
    const key = `${this.server.model ?? ""} ${this.server.reading(image.id)} ${JSON.stringify([points, box, mask?.ref ?? mask?.rle])}`;
    return this.#shared.join(key, signal, report, (off, tell) => this.#masks(image, { points, box, mask }, off, tell));
  }

  /** An image that the server forgot is sent again, and the prompt repeated. */
  async #masks(image, prompt, signal, report) {
    for (let again = true; ; again = false) {
      const { width, height } = image;
      if (image.state !== "ready") await this.album.ready(image, signal, report);
      if (image.width !== width || image.height !== height) throw new Error(t("otherPicture"));
      report("decoding");
      const here = await this.decoder.masks(image.id, prompt, signal);
      if (here) return here;
      try {
        const ask = () => this.server.masks(image.id, prompt, signal);
        return await persistently(ask, { server: this.server, signal, trouble: this.trouble });
      } catch (error) {
        if (!(error instanceof Refused && error.wantsImage && again)) throw error;
        this.album.forgotten(image);
      }
    }
  }
}

/** Asks for the masks of objects that were finished before their mask was there, whichever image is open meanwhile. */
export class Backlog {
  #waiting = [];
  #running = new Set();

  /** `answered(image, object, answer)` and `refused(image, object, error)` hear how it went. */
  constructor({ asks, answered, refused }) {
    Object.assign(this, { asks, answered, refused });
  }

  add(image, object) {
    const isThere = ({ object: other }) => other.pending === object.pending;
    if (this.#waiting.some(isThere) || [...this.#running].some(isThere)) return;
    this.#waiting.push({ image, object, calledOff: new AbortController() });
    this.#next();
  }

  /** Forget an image. */
  drop(id) {
    this.#waiting = this.#waiting.filter(({ image }) => image.id !== id);
    for (const { image, calledOff } of this.#running) if (image.id === id) calledOff.abort();
  }

  #next() {
    while (this.#running.size < AT_ONCE && this.#waiting.length) this.#run(this.#waiting.shift());
  }

  async #run(one) {
    const { image, object, calledOff } = one;
    this.#running.add(one);
    try {
      this.answered(image, object, await this.asks.masks(image, object, calledOff.signal));
    } catch (error) {
      if (!calledOff.signal.aborted) this.refused(image, object, error);
    }
    this.#running.delete(one);
    this.#next();
  }
}
