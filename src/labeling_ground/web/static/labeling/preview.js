// The mask of the object under the pointer, asked for while the pointer rests.

import { Newest } from "./newest.js";

const REST = 60; // milliseconds that the pointer rests before a preview is asked for

export class Preview {
  shown = null; // {rle}
  #looking = new Newest();
  #rest = 0;
  #pixel = null;

  /** `decoder` is asked first, then `server`; `redraw()` paints soon. */
  constructor({ server, decoder, redraw, rest = REST }) {
    Object.assign(this, { server, decoder, redraw, rest });
  }

  /** The pointer is on a pixel of an image now, or on none; without an image no preview is wanted. */
  hover(pixel, image) {
    if (pixel && this.#pixel && pixel.x === this.#pixel.x && pixel.y === this.#pixel.y) return;
    this.#pixel = pixel;
    clearTimeout(this.#rest);
    if (pixel && image) this.#rest = setTimeout(() => this.#look(image, pixel), this.rest);
    else this.drop();
  }

  /** Show none, and ask for none. */
  drop() {
    clearTimeout(this.#rest);
    this.#looking.drop();
    this.#pixel = null;
    if (!this.shown) return;
    this.shown = null;
    this.redraw();
  }

  #look(image, pixel) {
    this.#looking.ask(async (signal) => {
      try {
        const prompt = { points: [{ ...pixel, label: 1 }], box: null };
        const here = await this.decoder.masks(image.id, prompt, signal, { preview: true });
        const { masks } = here ?? (await this.server.masks(image.id, prompt, signal));
        if (this.#pixel !== pixel) return;
        this.shown = { rle: masks[0].rle };
        this.redraw();
      } catch (error) {
        if (error.name === "AbortError") throw error; // otherwise: a preview that fails is no trouble; a click will tell
      }
    });
  }
}
