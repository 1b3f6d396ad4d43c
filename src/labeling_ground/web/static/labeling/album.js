// The images that are open, and what the server knows of them.

import { pathOf, photosOf } from "./files.js";
import { sha256 } from "../shared/sha256.js";
import { Refused, pause, persistently } from "../shared/server.js";
import { Shared } from "./shared.js";

const AHEAD = 2;
const PATIENCE = 5; // asks after a queued image to which nobody says any more that it is being encoded
const SOON = 150, LATER = 1000; // milliseconds between two asks after an image: at first where somebody waits, and at most
const THUMB = 184; // pixels: twice its width on the page, for dense screens

export class Album {
  // {id, names, file, natural, width, height, preview, previewOf, note, thumb, mark, order, state, why, objects, isRemarked}, the last four not stored.
  // `mark` is what somebody said of it (`states.js`), `state` how far the server is with it, `why` the error with which it refused.
  // `natural` is the size of the picture as this browser draws the file, `null` if it does not; width and height are those of
  // what the server segments, `preview` that picture where it is another one, `previewOf` the reading that it is of.
  images = [];
  missing = []; // {id, names, mark, objects}: images whose labels came in a project file, and whose photographs are not here
  #ahead = []; // the images to prepare, the nearest first
  #givenUp = new Set(); // ids of what the server took on and never encoded
  #readying = new Shared();
  #preparing = null; // {image, calledOff}: the one that is being prepared

  /**
   * `storage` keeps them, `server` knows them, `trouble` hears of a server that does not answer, `changed()` of news,
   * `pictured(image, isResized)` of an image that is to be drawn as another picture; its promise is waited for.
   */
  constructor({ storage, server, trouble, changed, kept, pictured }) {
    Object.assign(this, { storage, server, trouble, changed, kept, pictured });
  }

  /** Open what was open before the page was closed; returns the works that are stored. */
  async restore() {
    const [images, works] = await Promise.all([this.storage.all("images"), this.storage.all("work")]);
    const counts = new Map(works.map((work) => [work.id, work.objects.length]));
    images.sort((a, b) => a.order - b.order);
    this.missing = images.filter(({ file }) => !file).map(({ id, names, mark }) => ({ id, names, mark, objects: counts.get(id) ?? 0 }));
    this.images = images.filter(({ file }) => file).map((image) => {
      const { name, width, height } = image; // all that there was in former versions
      return { names: [name], natural: { width, height }, ...image, state: "new", objects: counts.get(image.id) ?? 0 };
    });
    return works.filter(({ id }) => this.find(id));
  }

  /** An image's labels are there before its photograph is. */
  expect(image) {
    this.missing = [...this.missing.filter(({ id }) => id !== image.id), image];
    const { objects, ...kept } = image;
    this.kept(this.storage.put("images", { ...kept, file: null }));
  }

  find(id) {
    return this.images.find((image) => image.id === id);
  }

  /**
   * Open files. `each(image)` is called for every one of them as it is there, also if it was there before. Returns the
   * files that `failed`, `{name, why}`, and the other names, `{name, as}`, of what was open already with the `same` bytes.
   */
  async add(files, each, progress) {
    const failed = [], same = [], foreign = [];
    const photos = photosOf(files);
    for (const [n, file] of photos.entries()) {
      progress(n + 1, photos.length);
      try {
        const id = await sha256(new Uint8Array(await file.arrayBuffer()));
        const there = this.find(id);
        if (there && this.#named(there, pathOf(file))) same.push({ name: pathOf(file), as: there.names[0] });
        const bitmap = there ? null : await createImageBitmap(file).catch(() => null);
        if (there || bitmap) each(there ?? (await this.#added(id, file, { bitmap })));
        else foreign.push({ id, file });
      } catch (error) {
        failed.push({ name: pathOf(file), why: error });
      }
    }
    for (const [n, { id, file }] of foreign.entries()) {
      progress(photos.length - foreign.length + n + 1, photos.length);
      try {
        const preview = await this.#foreign(id, file);
        each(await this.#added(id, file, { bitmap: await createImageBitmap(preview), preview }));
      } catch (error) {
        failed.push({ name: pathOf(file), why: error });
      }
    }
    progress(0, 0);
    return { failed, same, many: photos.length };
  }

  /** Give an image one more name, unless that is one of its own, more or less of the path told. Whether it was another. */
  #named(image, name) {
    if (image.names.some((own) => `/${own}`.endsWith(`/${name}`) || `/${name}`.endsWith(`/${own}`))) return false;
    image.names.push(name);
    this.#store(image);
    return true;
  }

  /** The picture of a file that this browser cannot show, as the server reads it. */
  #foreign(id, file) {
    const { signal } = new AbortController();
    const ask = async () => {
      if (!(await this.server.image(id, signal))) await this.server.send(file, { wait: false, signal });
      try {
        return await this.server.preview(id, signal);
      } catch (error) {
        if (!error.wantsImage) throw error;
        await this.server.send(file, { wait: true, signal }); // it says what is wrong, if anything is
        return this.server.preview(id, signal);
      }
    };
    return persistently(ask, { server: this.server, signal, trouble: this.trouble });
  }

  async #added(id, file, { bitmap, preview = null }) {
    const { width, height } = bitmap;
    const thumb = await thumbnail(bitmap);
    bitmap.close();
    const there = this.find(id); // two drops at once
    if (there) return there;
    const order = (this.images.at(-1)?.order ?? 0) + 1;
    const expected = this.missing.find((one) => one.id === id);
    this.missing = this.missing.filter((one) => one !== expected);
    const { names, mark, objects } = expected ?? { names: [pathOf(file)], mark: null, objects: 0 };
    const shown = { id, names, file, natural: preview ? null : { width, height }, width, height, preview,
      previewOf: preview && this.server.reading(id), note: "", thumb, mark, order, state: "new", objects };
    this.images.push(shown);
    this.#store(shown);
    return shown;
  }

  #store({ state, why, objects, isRemarked, ...image }) {
    this.kept(this.storage.put("images", image));
  }

  /** Change what is kept of an image. */
  change(image, change) {
    Object.assign(image, change);
    this.#store(image);
    this.changed();
  }

  /** What is to be drawn of an image: the file, or the picture that the server made of it. */
  pictureOf({ id, file, natural, preview, previewOf }) {
    return preview && (!natural || previewOf === this.server.reading(id)) ? preview : file;
  }

  /** Images are read in another way from now on: of none the server is known to have its embedding. */
  reread() {
    for (const image of this.images) this.#note(image, "new");
  }

  /** See that what the page draws is what the server segments. `found` is what the server knows of the image. */
  async #agree(image, found, signal) {
    const { width, height, use_preview: isOther, note } = found;
    const { natural } = image;
    const reading = this.server.reading(image.id);
    const differs = isOther || reading !== image.id || natural?.width !== width || natural?.height !== height;
    const isResized = image.width !== width || image.height !== height;
    const before = this.pictureOf(image);
    if (differs && image.previewOf !== reading) {
      const preview = await this.server.preview(image.id, signal);
      const bitmap = await createImageBitmap(preview);
      Object.assign(image, { preview, previewOf: reading, thumb: await thumbnail(bitmap) });
      bitmap.close();
    } else if (!differs) {
      image.preview = image.previewOf = null;
    }
    const isNews = isResized || image.note !== (note ?? "") || this.pictureOf(image) !== before;
    Object.assign(image, { width, height, note: note ?? "" });
    if (isNews) this.#store(image);
    if (isResized || this.pictureOf(image) !== before) await this.pictured(image, isResized);
  }

  async remove(id) {
    this.images = this.images.filter((image) => image.id !== id);
    this.missing = this.missing.filter((image) => image.id !== id);
    await Promise.all([this.storage.delete("images", id), this.storage.delete("work", id)]);
  }

  /**
   * Make sure that the server can answer clicks on an image: ask whether it knows it, send it only if not, and ask again
   * until it is encoded. `report(kind, share)` hears what is being waited for: "checking", "uploading",
   * "inQueue" (its share: the place `n` there, and the seconds `left`), "encoding".
   */
  ready(image, signal, report = () => {}) {
    return this.#readying.join(this.server.reading(image.id), signal, report, (off, tell) => this.#ready(image, off, tell));
  }

  async #ready(image, signal, report) {
    await persistently(
      async () => {
        if (await this.#encoded(image, signal, report, SOON, true)) return;
        await this.server.send(image.file, { wait: true, signal }); // it says what is wrong, if anything is
      },
      { server: this.server, signal, trouble: this.trouble },
    ).catch((error) => {
      if (error instanceof Refused) this.#note(image, "failed", error);
      else if (image.state !== "ready") this.#note(image, "new"); // called off; what the server had, it has still
      throw error;
    });
    this.#note(image, "ready");
  }

  /**
   * Have the server encode an image. Whether it did: `false` if it has given the image up. Each request is short, however
   * long encoding takes, so that no proxy's time-out ends it. `waiting`: somebody does, so it goes before prefetches.
   */
  async #encoded(image, signal, report, wait, waiting = false) {
    report("checking");
    const ask = () => this.server.image(image.id, signal, { waiting });
    let found = await ask();
    if (!found) {
      this.#note(image, "sending");
      report("uploading", 0);
      const progress = (share) => (share < 1 ? report("uploading", share) : report("encoding"));
      const { queued } = await this.server.send(image.file, { wait: false, signal, progress });
      found = { ...(await ask()), encoding: queued };
    }
    if (found.width) await this.#agree(image, found, signal);
    if (!found.encoding) return true; // an embedding that was evicted is computed again with the first click
    if (image.state !== "ready") this.#note(image, "queued");
    for (let doubts = 0; doubts < PATIENCE; wait = Math.min(LATER, wait * 1.3)) {
      if (found?.place && found.seconds_expected) report("inQueue", { n: found.place, left: Math.ceil(found.seconds_expected) });
      else report("encoding");
      await pause(wait, signal);
      found = await ask();
      if (found?.encoded) {
        await this.#agree(image, found, signal); // by now the server has seen all of the image
        return true;
      }
      doubts = found?.encoding ? 0 : doubts + 1; // several servers may stand behind one address
    }
    return false;
  }

  /** The server forgot it. */
  forgotten(image) {
    this.#note(image, "new");
  }

  /** Have the first of the images that come next encoded while one is being labeled; calls off what is not wanted any more. */
  prepare(images) {
    this.#ahead = images.slice(0, AHEAD);
    if (this.#preparing === null) this.#prepareAll();
    else if (!this.#ahead.includes(this.#preparing.image)) this.#preparing.calledOff.abort();
  }

  stopPreparing() {
    this.#ahead = [];
    this.#preparing?.calledOff.abort();
  }

  /** One after the other, until none is left; which ones, and in what order, may change meanwhile. */
  async #prepareAll() {
    for (;;) {
      const image = this.#ahead.find(({ id, state }) => state === "new" && !this.#givenUp.has(id));
      if (!image) return;
      const calledOff = new AbortController();
      this.#preparing = { image, calledOff };
      const { signal } = calledOff;
      try {
        const trouble = (kind) => (kind === "key" ? this.trouble(kind) : undefined); // all else, nobody waits for yet
        await persistently(() => this.#queue(image, signal), { server: this.server, signal, trouble });
      } catch (error) {
        // Called off, it may be wanted again. Given up, only whoever opens it tries again, and hears why.
        if (!(error instanceof Refused) && error.name !== "AbortError") this.#givenUp.add(image.id);
        if (image.state !== "ready") this.#note(image, ...(error instanceof Refused ? ["failed", error] : ["new"]));
      } finally {
        this.#preparing = null;
      }
    }
  }

  async #queue(image, signal) {
    if (!(await this.#encoded(image, signal, () => {}, LATER))) throw new Error("The server has given the image up.");
    this.#note(image, "ready");
  }

  #note(image, state, why = null) {
    Object.assign(image, { state, why });
    this.changed();
  }
}

/** What an image is called on the page. */
export function nameOf({ names }) {
  return names.join(" = ");
}

async function thumbnail(bitmap) {
  const scale = Math.min(1, THUMB / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.8));
}
