import assert from "node:assert/strict";
import { test } from "node:test";
import { load, until } from "./page.mjs";

const { Album } = await load("labeling/album.js");
const { Refused } = await load("shared/server.js");

// Pictures that the server made are texts here; files are none that a browser shows.
globalThis.createImageBitmap = async (blob) => {
  if (typeof blob !== "string") throw new Error("no such format");
  return { width: 5, height: 6, close() {} };
};
const context = { drawImage() {} };
globalThis.document = { createElement: () => ({ getContext: () => context, toBlob: (done) => done("thumb") }) };

/** As much of the server as the album asks. `hold(id)` keeps an upload on its way until `release(id)`. */
class Server {
  sent = [];
  calledOff = [];
  waited = []; // sent to be answered only when encoded
  lifted = new Set(); // those for which somebody waits
  states = new Map(); // by image: what GET answers; a function is asked anew each time
  #held = new Map();

  reading(id) {
    return this.stretch ? `${id}~stretch` : id;
  }

  async preview(id) {
    if (this.refusesLate) throw new Refused(404, { type: "urn:labeling-ground:problem:unknown-image", detail: "Send it again." }, null);
    return `preview of ${this.reading(id)}`;
  }

  hold(id) {
    let release;
    this.#held.set(id, { done: new Promise((resolve) => (release = resolve)), release: () => release() });
  }

  release(id) {
    this.#held.get(id).release();
    this.#held.delete(id);
  }

  async image(id, signal, { waiting = false } = {}) {
    if (waiting) this.lifted.add(id);
    const state = this.states.get(id) ?? null;
    const found = await (typeof state === "function" ? state() : state);
    return found && { width: 4, height: 3, use_preview: false, note: null, ...found };
  }

  async send(file, { signal, wait }) {
    const id = file.name;
    this.sent.push(id);
    if (wait) this.waited.push(id);
    const off = new Promise((_, reject) => {
      const stop = () => {
        this.calledOff.push(id);
        reject(new DOMException("Called off.", "AbortError"));
      };
      if (signal.aborted) stop();
      signal.addEventListener("abort", stop);
    });
    await Promise.race([this.#held.get(id)?.done, off]);
    if (this.refuses === id || (this.refusesLate === id && wait)) throw new Refused(422, { detail: "No image." }, null);
    if (!this.states.has(id)) this.states.set(id, { encoded: true, encoding: false });
    return { queued: !(await this.image(id)).encoded };
  }
}

const SIZE = { width: 4, height: 3 };

const albumOf = (...ids) => {
  const server = new Server();
  const stored = new Map(), pictured = [];
  const album = new Album({
    storage: { put: async (_, image) => stored.set(image.id, image) },
    server,
    trouble: () => {},
    changed: () => {},
    kept: () => {},
    pictured: (image, isResized) => pictured.push([image.id, isResized]),
  });
  album.images = ids.map((id) => ({ id, file: { name: id }, state: "new", ...SIZE, natural: SIZE, note: "" }));
  const states = () => album.images.map(({ state }) => state).join(" ");
  return { album, server, states, stored, pictured };
};

test("the next two images are prepared, one after the other", async () => {
  const { album, server, states } = albumOf("a", "b", "c", "d");
  album.prepare(album.images.slice(0 + 1));
  await until(() => states() === "new ready ready new");
  assert.deepEqual(server.sent, ["b", "c"]);
});

test("an image that is being sent when preparing begins anew is sent to its end, and none is left out", async () => {
  const { album, server, states } = albumOf("a", "b");
  server.hold("b");
  album.prepare(album.images.slice(0 + 1));
  await until(() => server.sent.length === 1);
  album.images.push({ id: "c", file: { name: "c" }, state: "new", ...SIZE, natural: SIZE, note: "" }); // the third file of a drop has been read
  album.prepare(album.images.slice(0 + 1));
  server.release("b");
  await until(() => states() === "new ready ready");
  assert.deepEqual([server.sent, server.calledOff], [["b", "c"], []]);
});

test("what is not wanted any more is called off, and prepared when it is wanted again", async () => {
  const { album, server, states } = albumOf("a", "b", "c", "d", "e");
  server.hold("b");
  album.prepare(album.images.slice(0 + 1));
  await until(() => server.sent.length === 1);
  album.prepare(album.images.slice(2 + 1));
  await until(() => states() === "new new new ready ready");
  assert.deepEqual(server.calledOff, ["b"]);
  server.release("b");
  album.prepare(album.images.slice(0 + 1));
  await until(() => states() === "new ready ready ready ready");
  album.stopPreparing();
});

test("stopped and begun again at once, the same image is prepared", async () => {
  const { album, server, states } = albumOf("a", "b");
  server.hold("b");
  album.prepare(album.images.slice(0 + 1));
  await until(() => server.sent.length === 1);
  album.stopPreparing();
  album.prepare(album.images.slice(0 + 1));
  await until(() => server.sent.length === 2);
  server.release("b");
  await until(() => states() === "new ready");
});

test("a queued image is waited for, though another server answers that it knows nothing", async () => {
  const { album, server, states } = albumOf("a", "b");
  const answers = [null, { encoded: false, encoding: true }, null, { encoded: true, encoding: false }];
  server.states.set("b", () => (answers.length > 1 ? answers.shift() : answers[0]));
  album.prepare(album.images.slice(0 + 1));
  await until(() => states() === "new queued");
  await until(() => states() === "new ready");
});

test("an image that the server gave up, or refuses, holds up no other", async () => {
  const { album, server, states } = albumOf("a", "b", "c", "d");
  server.refuses = "b";
  album.prepare(album.images.slice(0 + 1));
  await until(() => states() === "new failed ready new");
  const answers = [null];
  server.states.set("d", () => (answers.length ? answers.shift() : { encoded: false, encoding: false }));
  album.images.push({ id: "e", file: { name: "e" }, state: "new" });
  album.prepare(album.images.slice(2 + 1));
  await until(() => states() === "new failed ready new ready");
  assert.deepEqual(server.sent, ["b", "c", "d", "e"]);
});

test("an image that is opened says that somebody waits, and shows its place in the queue; one that is prepared does neither", async () => {
  const { album, server } = albumOf("a", "b");
  const answers = [
    { encoding: true, place: 3, seconds_expected: 7.2 },
    { encoding: true, place: 1 },
    { encoding: true, seconds_expected: 2 },
  ];
  server.states.set("a", () => answers.shift() ?? { encoded: true, encoding: false });
  server.states.set("b", { encoded: true, encoding: false });
  const heard = [];
  await album.ready(album.images[0], new AbortController().signal, (...news) => heard.push(news));
  assert.deepEqual(heard, [["checking"], ["inQueue", { n: 3, left: 8 }], ["encoding"], ["encoding"]]);
  album.prepare(album.images.slice(0 + 1));
  await until(() => album.images[1].state === "ready");
  assert.deepEqual([...server.lifted], ["a"]);
});

test("an image that somebody else has queued is not sent, and is ready when it is encoded", async () => {
  const { album, server, states } = albumOf("a");
  const answers = [{ encoded: false, encoding: true }, { encoded: false, encoding: true }];
  server.states.set("a", () => answers.shift() ?? { encoded: true, encoding: false });
  const heard = [];
  await album.ready(album.images[0], new AbortController().signal, (kind) => heard.push(kind));
  assert.deepEqual([states(), server.sent, heard], ["ready", [], ["checking", "encoding", "encoding"]]);
});

test("an image that is ready stays so when looking for it is called off", async () => {
  const { album, server, states } = albumOf("a", "b");
  album.images[0].state = "ready"; // it was prepared
  const stop = new AbortController();
  const off = () => Promise.reject(new DOMException("Called off.", "AbortError"));
  server.states.set("a", () => (stop.abort(), off()));
  await assert.rejects(album.ready(album.images[0], stop.signal, () => {}), { name: "AbortError" });
  server.hold("b");
  const sending = album.ready(album.images[1], stop.signal, () => {});
  await assert.rejects(sending, { name: "AbortError" });
  assert.equal(states(), "ready new");
});

test("an image that takes long to encode is asked after again and again, and no request waits for it", async () => {
  const { album, server, states } = albumOf("a");
  const answers = [null, ...Array(3).fill({ encoded: false, encoding: true })];
  server.states.set("a", () => (answers.length ? answers.shift() : { encoded: true, encoding: false }));
  const heard = [];
  await album.ready(album.images[0], new AbortController().signal, (kind) => heard.push(kind));
  assert.deepEqual([states(), server.sent, server.waited], ["ready", ["a"], []]);
  assert.deepEqual(heard.slice(0, 3), ["checking", "uploading", "encoding"]);
});

test("an image that the server took on and gave up is sent once more, to hear why", async () => {
  const { album, server } = albumOf("a");
  const answers = [null];
  server.states.set("a", () => (answers.length ? answers.shift() : { encoded: false, encoding: false }));
  await album.ready(album.images[0], new AbortController().signal);
  assert.deepEqual([server.sent, server.waited], [["a", "a"], ["a"]]);
});

test("two who wait for one image send it once, and one of them may leave", async () => {
  const { album, server, states } = albumOf("a");
  server.hold("a");
  const leaver = new AbortController();
  const left = album.ready(album.images[0], leaver.signal);
  const stays = album.ready(album.images[0], new AbortController().signal);
  await until(() => server.sent.length === 1);
  leaver.abort();
  await assert.rejects(left, { name: "AbortError" });
  server.release("a");
  await stays;
  assert.deepEqual([states(), server.sent, server.calledOff], ["ready", ["a"], []]);
});

const ready = (album, at = 0) => album.ready(album.images[at], new AbortController().signal);

test("an image that the server reads as another picture than the browser is drawn as the server reads it", async () => {
  const { album, server, stored, pictured } = albumOf("turned", "clear", "same");
  server.states.set("turned", { encoded: true, width: 3, height: 4 });
  server.states.set("clear", { encoded: true, use_preview: true, note: "White on white." });
  server.states.set("same", { encoded: true });
  for (const at of [0, 1, 2]) await ready(album, at);
  const [turned, clear, same] = album.images;
  assert.deepEqual([album.pictureOf(turned), turned.width, turned.height, turned.thumb], ["preview of turned", 3, 4, "thumb"]);
  assert.deepEqual([album.pictureOf(clear), clear.width, clear.note], ["preview of clear", 4, "White on white."]);
  assert.equal(album.pictureOf(same), same.file);
  assert.deepEqual(pictured, [["turned", true], ["clear", false]]);
  assert.deepEqual([...stored.keys()], ["turned", "clear"]);
  album.reread(); // the same again: nothing is news
  for (const at of [0, 1, 2]) await ready(album, at);
  assert.equal(pictured.length, 2);
});

test("the picture comes before the image is encoded, so that clicks made meanwhile are on it", async () => {
  const { album, server, pictured } = albumOf("a");
  const answers = [null, { encoding: true, width: 3, height: 4 }, { encoding: true, width: 3, height: 4 }];
  server.states.set("a", () => (pictured.length && !answers.length ? { encoded: true, width: 3, height: 4 } : answers.shift()));
  await ready(album);
  assert.deepEqual(pictured, [["a", true]]);
});

test("stretched or not, the picture of that reading is drawn", async () => {
  const { album, server, pictured } = albumOf("a");
  const [image] = album.images;
  server.states.set("a", { encoded: true });
  await ready(album);
  assert.equal(album.pictureOf(image), image.file);
  server.stretch = "0.5,99.5";
  album.reread();
  await ready(album);
  assert.equal(album.pictureOf(image), "preview of a~stretch");
  server.stretch = null;
  assert.equal(album.pictureOf(image), image.file);
  album.reread();
  await ready(album);
  assert.deepEqual([image.preview, pictured], [null, [["a", false]]]);
});

test("a file that the browser cannot show is drawn as the server reads it, or named where the server refuses it", async () => {
  const { album, server } = albumOf();
  const fileOf = (name) => ({ name, type: "image/tiff", arrayBuffer: async () => new TextEncoder().encode(name).buffer });
  server.refuses = "broken.tif";
  const { failed } = await album.add([fileOf("scan.tif"), fileOf("broken.tif")], () => {}, () => {});
  const [image, ...others] = album.images;
  assert.deepEqual([image.names, image.width, image.height, image.natural, others], [["scan.tif"], 5, 6, null, []]);
  assert.match(album.pictureOf(image), /^preview of [0-9a-f]{64}$/);
  assert.deepEqual(failed.map(({ name, why }) => [name, why.message]), [["broken.tif", "No image."]]);
  server.refusesLate = "cut off.tif"; // which the server finds out only when it reads all of the file
  const later = await album.add([fileOf("cut off.tif")], () => {}, () => {});
  assert.deepEqual(later.failed.map(({ why }) => why.message), ["No image."]);
});
