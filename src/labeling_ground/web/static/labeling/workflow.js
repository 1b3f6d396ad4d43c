// From image to image: what somebody says of each, which are shown, and which one comes next.

import { Failures } from "./failures.js";
import { nextNotDone, shownOf } from "./states.js";
import * as works from "./work.js";
import { counted, t } from "../shared/words.js";

export class Workflow {
  shown = { state: "all", text: "" }; // which images the strip shows

  /** `page` has the `album`, the `editor`, opens images and tells; `changed()` draws. */
  constructor(page) {
    this.page = page;
    this.failures = new Failures({
      images: () => page.album.images,
      removeImages: (images) => page.removeImages(images),
      changed: () => page.draw(),
    });
  }

  /** The images that the strip shows. The open one is among them, so that it does not vanish when its state changes. */
  get images() {
    const { album, editor } = this.page;
    const matching = new Set(shownOf(album.images, this.shown));
    return album.images.filter((image) => matching.has(image) || image === editor.image);
  }

  /** Show other images, by `state` or `text`. */
  show(change) {
    this.shown = { ...this.shown, ...change };
    this.page.draw();
    this.page.prepare();
  }

  /** Say of the open image that it is "done", "nothing", "skipped", "review", or take that back with "working". Whether it could be. */
  mark(state) {
    const { album, editor } = this.page;
    const { image } = editor;
    if (!image) return false;
    if (works.hasPrompt(editor.work) && !this.page.finish()) return false;
    const many = editor.work.objects.length;
    if (state === "nothing" && many > 0) {
      this.page.tell(t("notNothing", { objects: counted("objectsOf", many) }));
      return false;
    }
    album.change(image, { mark: state === "working" || state === "unbegun" ? null : state });
    return true;
  }

  /** Mark the open image and go on to the next one that is not done. */
  markAndGo(state) {
    if (this.mark(state)) this.goToNotDone();
  }

  goToNotDone() {
    const next = nextNotDone(shownOf(this.page.album.images, { ...this.shown, state: "all" }), this.page.editor.image);
    if (next) this.page.open(next);
    else this.page.tell(t("allDone"));
  }

  /** Open the image `step` places further among those shown. */
  go(step) {
    const { images } = this;
    const next = images[images.indexOf(this.page.editor.image) + step];
    if (next) this.page.open(next);
  }

  /** The images after the open one, to be prepared. */
  get ahead() {
    const { images } = this;
    return images.slice(images.indexOf(this.page.editor.image) + 1);
  }
}
