// Where on the canvas the picture is, and where on the picture the pointer, or the keyboard's cross.

import { Preview } from "./preview.js";
import * as views from "./view.js";

/** What extends it has `size()` of the canvas, `redraw()`, an `image`, says whether it `takesPreviews`, and takes `click` and `box` in pixels of the image. */
export class Viewport {
  picture = null;
  view = null;
  boxing = null; // the box that is being drawn
  cross = null; // the keyboard's place
  corner = null; // the first corner of the keyboard's box
  #fitted = true;
  #preview;

  constructor({ server, decoder, redraw }) {
    this.#preview = new Preview({ server, decoder, redraw });
  }

  /** `{rle}`: the mask of the object under the pointer. */
  get preview() {
    return this.#preview.shown;
  }

  /** The pointer rests on, or passes over, a pixel. */
  hover(pixel) {
    this.#preview.hover(pixel, this.takesPreviews ? this.image : null);
  }

  unhover() {
    this.#preview.drop();
  }

  fit() {
    if (!this.picture) return;
    this.view = views.fit(this.picture, this.size());
    this.#fitted = true;
    this.redraw();
  }

  /** The canvas has another size: a whole image stays whole, and a place that one looks at closely stays. */
  resized() {
    if (this.#fitted) this.fit();
    else this.pan(0, 0);
  }

  zoom(factor, at) {
    if (!this.picture) return;
    const size = this.size();
    this.view = views.zoom(this.view, at ?? { x: size.width / 2, y: size.height / 2 }, factor, this.picture, size);
    this.#fitted = false;
    this.redraw();
  }

  pan(dx, dy) {
    if (!this.picture) return;
    this.view = views.pan(this.view, dx, dy, this.picture, this.size());
    this.#fitted = false;
    this.redraw();
  }

  /** The place of the image, in its pixels, under a point of the canvas; outside of it too. */
  placeAt(screen) {
    return views.toImage(this.view, screen);
  }

  pixelAt(screen) {
    return this.picture ? views.pixelAt(views.toImage(this.view, screen), this.picture) : null;
  }

  boxBetween(a, b) {
    if (!this.picture) return null;
    return views.boxBetween(views.toImage(this.view, a), views.toImage(this.view, b), this.picture);
  }

  /** Move the keyboard's cross by screen pixels, or by single ones of the image. */
  moveCross(dx, dy, fine) {
    if (!this.picture) return;
    const size = this.size();
    const from = this.cross ?? this.pixelAt({ x: size.width / 2, y: size.height / 2 }) ?? { x: 0, y: 0 };
    const step = fine ? 1 : Math.max(1, Math.round(12 / this.view.scale));
    const clamp = (value, many) => Math.min(many - 1, Math.max(0, value));
    this.cross = { x: clamp(from.x + dx * step, this.picture.width), y: clamp(from.y + dy * step, this.picture.height) };
    if (this.corner) this.boxing = this.#keyboardBox();
    this.hover(this.cross);
    this.redraw();
  }

  /** Set one corner of a box at the cross, then the other: then `done(box)` gets it. */
  cornerAtCross(done) {
    if (!this.cross) return;
    if (this.corner) {
      const box = this.#keyboardBox();
      this.corner = null;
      done(box);
    } else {
      this.corner = this.cross;
    }
  }

  #keyboardBox() {
    return views.boxBetween(this.corner, { x: this.cross.x + 1, y: this.cross.y + 1 }, this.picture);
  }
}
