// From image to image: what somebody says of each, which are shown, and which one comes next.

import { Failures } from "./failures.js";
import { expectedAfter, nextNotDone, shownOf } from "./states.js";
import * as works from "./work.js";
import { counted, t } from "../shared/words.js";

export class Workflow {
  shown = { state: "all", text: "" }; // which images the strip shows

  /** `page` has the `album`, the `editor`, opens images and tells; `changed()` draws. */
  constructor(page) {
    this.page = page;
    this.failures = new Failures({
      images: () => page.album.images,
      missing: () => page.album.missing,
      removeImages: (images) => page.removeImages(images),
      changed: () => page.draw(),
    });
  }

  /** The open image, or the one that is about to be: keys may be faster than the storage. */
  get image() {
    const { editor, album, choices } = this.page;
    return editor.image ?? album.find(choices.imageId) ?? null;
  }

  /** The images that the strip shows. The open one is among them, so that it does not vanish when its state changes. */
  get images() {
    const { images } = this.page.album;
    const matching = new Set(shownOf(images, this.shown));
    return images.filter((image) => matching.has(image) || image === this.image);
  }

  /** Show other images, by `state` or `text`. */
  show(change) {
    this.shown = { ...this.shown, ...change };
    if (!shownOf(this.page.album.images, this.shown).length) this.page.tell(t("noneShown"));
    this.page.draw();
    this.page.prepare();
  }

  /** Say of the open image that it is "done", "nothing", "skipped", "review", or take that back with "working". Whether it could be. */
  mark(state) {
    const { image } = this;
    if (!image) return false;
    if (works.hasPrompt(this.page.editor.work) && !this.page.finish()) return false;
    if (state === "nothing" && image.objects > 0) {
      this.page.tell(t("notNothing", { objects: counted("objectsOf", image.objects) }));
      return false;
    }
    this.page.album.change(image, { mark: state === "working" || state === "unbegun" ? null : state });
    return true;
  }

  /** Mark the open image and go on to the next one that is not done. */
  markAndGo(state) {
    if (this.mark(state)) this.goToNotDone();
  }

  goToNotDone() {
    const next = nextNotDone(shownOf(this.page.album.images, { ...this.shown, state: "all" }), this.image);
    if (next) this.page.open(next);
    else this.page.tell(t("allDone"));
  }

  /** Open the image `step` places further among those shown. */
  go(step) {
    const { images } = this;
    const next = images[images.indexOf(this.image) + step];
    if (next) this.page.open(next);
  }

  /** The images after the open one. */
  get ahead() {
    const { images } = this;
    return images.slice(images.indexOf(this.image) + 1);
  }

  /** The images that are likely to be opened next, to be prepared. */
  get expected() {
    return expectedAfter(this.images, this.image).filter(({ state }) => state !== "failed");
  }
}
