import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { Decoder } = await load("decode/decoder.js");
const { Helper } = await load("decode/helper.js");
const { order, paint } = await load("decode/masks.js");
const { frameOf } = await load("decode/prompts.js");
const { read } = await load("decode/tensors.js");
const { Refused } = await load("shared/server.js");

const soon = () => new Promise((resolve) => setTimeout(resolve, 0));
const until = async (holds) => {
  for (let turns = 0; !holds(); turns++) {
    assert.ok(turns < 5000, "it never happened");
    await soon();
  }
};

/** A worker that notes what it is asked and answers when the test says so, or by itself with `answers[kind]`. */
class Fake {
  asked = [];
  ended = false;

  constructor(answers = {}) {
    this.answers = answers;
  }

  postMessage({ id, kind, ...given }) {
    this.asked.push({ id, kind, given });
    if (kind in this.answers) queueMicrotask(() => this.answer(this.answers[kind]));
  }

  answer(answer) {
    const { id } = this.asked.at(-1);
    this.onmessage({ data: answer instanceof Error ? { id, problem: answer.message } : { id, answer } });
  }

  terminate() {
    this.ended = true;
  }
}

const kinds = (worker) => worker.asked.map(({ kind, given }) => given.n ?? kind);

test("a worker is asked one thing at a time, and previews wait for clicks", async () => {
  const worker = new Fake();
  const helper = new Helper(worker, 60_000);
  const first = helper.ask("masks", { n: 1 });
  const preview = helper.ask("masks", { n: 2 }, { last: true });
  const click = helper.ask("masks", { n: 3 });
  assert.deepEqual(kinds(worker), [1]);
  worker.answer("one");
  worker.answer("three");
  worker.answer("two");
  assert.deepEqual(kinds(worker), [1, 3, 2]);
  assert.deepEqual(await Promise.all([first, preview, click]), ["one", "two", "three"]);
  helper.close();
});

test("what is called off is never asked, or its answer is heard by nobody", async () => {
  const worker = new Fake();
  const helper = new Helper(worker, 60_000);
  const [running, waiting] = [new AbortController(), new AbortController()];
  const one = helper.ask("masks", { n: 1 }, { signal: running.signal });
  const two = helper.ask("masks", { n: 2 }, { signal: waiting.signal });
  const three = helper.ask("masks", { n: 3 });
  running.abort();
  waiting.abort();
  await assert.rejects(one, { name: "AbortError" });
  await assert.rejects(two, { name: "AbortError" });
  await assert.rejects(helper.ask("masks", { n: 4 }, { signal: waiting.signal }), { name: "AbortError" });
  worker.answer("of the first");
  worker.answer("of the third");
  assert.equal(await three, "of the third");
  assert.deepEqual(kinds(worker), [1, 3]);
  helper.close();
});

test("a refusal is one ask's, a death is everybody's", async () => {
  const worker = new Fake();
  const helper = new Helper(worker, 60_000);
  const refused = helper.ask("masks", {});
  worker.answer(new Error("no such image"));
  await assert.rejects(refused, /no such image/);
  const [running, waiting] = [helper.ask("masks", {}), helper.ask("masks", {})];
  worker.onerror({ message: "out of memory" });
  await assert.rejects(running, /out of memory/);
  await assert.rejects(waiting, /out of memory/);
  await assert.rejects(helper.ask("masks", {}), /out of memory/);
  assert.ok(worker.ended);
});

test("a worker that dies without a word is given up", async () => {
  const worker = new Fake();
  await assert.rejects(new Helper(worker, 20).ask("masks", {}), /does not answer/);
  assert.ok(worker.ended);
});

// --- the decoder ---------------------------------------------------------------------------------------------------------

const MODEL = { id: "my-sam", version: "my-sam@1", default: true, note: "rounded", decoder: { family: "sam", sha256: "ab", bytes: 3 } };
const never = new AbortController().signal;
const MASKS = [{ rle: { size: [1, 1], counts: "1" }, area: 0, score: 0.5 }];

function served(changes = {}) {
  const asked = [];
  const plain = {
    runtime: () => ({ version: "1", module: "web/runtime/1/ort.mjs" }),
    models: () => [MODEL],
    decoder: () => new ArrayBuffer(3),
    embedding: () => ({ embedding: new ArrayBuffer(8), version: "my-sam@1" }),
    ...changes,
  };
  const methods = Object.entries(plain).map(([name, run]) => [name, async (...given) => {
    asked.push(name);
    return run(...given);
  }]);
  return { asked, base: "http://server/", isReady: async () => true, ...Object.fromEntries(methods) };
}

function decoderOf(server, workers = [new Fake({ load: null, image: null, masks: MASKS })]) {
  const left = [...workers];
  return new Decoder({ server, makeWorker: () => left.shift(), trouble: () => {}, changed: () => {}, patience: 60_000 });
}

const prompt = { points: [{ x: 1, y: 2, label: 1 }], box: null };

test("everything is got once, and then clicks need no server", async () => {
  const server = served();
  const worker = new Fake({ load: null, image: null, masks: MASKS });
  const decoder = decoderOf(server, [worker]);
  decoder.open("a");
  assert.equal(decoder.state, "off");
  assert.equal(await decoder.masks("a", prompt, never), null);
  decoder.turn(true);
  assert.equal(decoder.state, "loading");
  assert.equal(await decoder.masks("a", prompt, never), null);
  await until(() => decoder.state === "ready");
  const { masks, outcome, model, note, serverMs } = await decoder.masks("a", prompt, never);
  assert.deepEqual([masks, outcome, model, note, serverMs], [MASKS, "here", "my-sam", "rounded", null]);
  assert.deepEqual(server.asked, ["runtime", "models", "decoder", "embedding"]);
  assert.equal(worker.asked[0].given.module, "http://server/web/runtime/1/ort.mjs");
  decoder.close();
  decoder.open("b");
  assert.equal(await decoder.masks("b", prompt, never), null);
  await until(() => decoder.state === "ready");
  assert.equal(await decoder.masks("a", prompt, never), null);
  assert.ok(await decoder.masks("b", prompt, never));
  assert.deepEqual(server.asked.slice(4), ["embedding"]);
  decoder.turn(false);
  assert.equal(await decoder.masks("b", prompt, never), null);
  assert.ok(worker.ended);
});

const NO = new Refused(404, { detail: "gone" }, null);
const fails = (error) => () => {
  throw error;
};
for (const [what, changes, word] of [
  ["no runtime", { runtime: () => null }, "noRuntime"],
  ["no decoder", { models: () => [{ ...MODEL, decoder: undefined }] }, "noDecoder"],
  ["a family that it does not know", { models: () => [{ ...MODEL, decoder: { family: "efficient-sam" } }] }, "noDecoder"],
  ["a decoder that is refused", { decoder: fails(NO) }, "decoderBroke"],
]) {
  test(`${what}: the server decodes, and the reason is told`, async () => {
    const decoder = decoderOf(served(changes));
    decoder.open("a");
    decoder.turn(true);
    await until(() => decoder.state === "unfit");
    assert.equal(decoder.trouble.word, word);
    assert.equal(await decoder.masks("a", prompt, never), null);
    decoder.turn(false);
    assert.deepEqual([decoder.trouble, decoder.state], [null, "off"]);
  });
}

test("an embedding that is not to be had is this image's trouble, and the next image has none", async () => {
  const embeddings = [fails(NO), () => ({ embedding: new ArrayBuffer(8), version: "my-sam@1" })];
  const decoder = decoderOf(served({ embedding: () => embeddings.shift()() }));
  decoder.turn(true);
  decoder.open("a");
  await until(() => decoder.state === "unfit");
  assert.deepEqual(decoder.trouble, { word: "noEmbedding", values: { why: "gone" } });
  assert.equal(await decoder.masks("a", prompt, never), null);
  decoder.open("b");
  await until(() => decoder.state === "ready");
  assert.ok(await decoder.masks("b", prompt, never));
  decoder.turn(false);
});

test("a worker that fails hands the click over to the server, and another one can be tried", async () => {
  const broken = new Fake({ load: null, image: null, masks: new Error("out of memory") });
  const decoder = decoderOf(served(), [broken, new Fake({ load: null, image: null, masks: MASKS })]);
  decoder.turn(true);
  decoder.open("a");
  await until(() => decoder.state === "ready");
  assert.equal(await decoder.masks("a", prompt, never), null);
  assert.deepEqual(decoder.trouble, { word: "decoderBroke", values: { why: "out of memory" } });
  assert.ok(broken.ended);
  decoder.turn(true);
  await until(() => decoder.state === "ready");
  assert.ok(await decoder.masks("a", prompt, never));
  decoder.turn(false);
});

test("a click that is called off is called off, and no trouble", async () => {
  const worker = new Fake({ load: null, image: null });
  const decoder = decoderOf(served(), [worker]);
  decoder.turn(true);
  decoder.open("a");
  await until(() => decoder.state === "ready");
  const stop = new AbortController();
  const asked = decoder.masks("a", prompt, stop.signal);
  stop.abort();
  await assert.rejects(asked, { name: "AbortError" });
  assert.equal(decoder.state, "ready");
  decoder.turn(false);
});

test("switched off while it decodes, it has no trouble and the server is asked", async () => {
  const decoder = decoderOf(served(), [new Fake({ load: null, image: null })]);
  decoder.turn(true);
  decoder.open("a");
  await until(() => decoder.state === "ready");
  const asked = decoder.masks("a", prompt, never);
  decoder.turn(false);
  assert.equal(await asked, null);
  assert.deepEqual([decoder.state, decoder.trouble], ["off", null]);
});

test("another model's embedding makes it get that model's decoder", async () => {
  let version = "my-sam@1";
  const workers = [1, 2].map(() => new Fake({ load: null, image: null, masks: MASKS }));
  const server = served({
    models: () => [{ ...MODEL, version }],
    embedding: () => ({ embedding: new ArrayBuffer(8), version }),
  });
  const decoder = decoderOf(server, workers);
  decoder.turn(true);
  decoder.open("a");
  await until(() => decoder.state === "ready");
  version = "my-sam@2";
  decoder.open("b");
  await until(() => decoder.state === "ready");
  assert.ok(await decoder.masks("b", prompt, never));
  assert.deepEqual(server.asked.filter((name) => name === "decoder").length, 2);
  assert.ok(workers[0].ended && !workers[1].ended);
  decoder.turn(false);
});

test("a server that says one version and sends another is left alone", async () => {
  const embedding = () => ({ embedding: new ArrayBuffer(8), version: "my-sam@2" });
  const decoder = decoderOf(served({ embedding }), [1, 2].map(() => new Fake({ load: null, image: null })));
  decoder.turn(true);
  decoder.open("a");
  await until(() => decoder.state === "unfit");
  assert.deepEqual(decoder.trouble, { word: "noDecoder", values: { model: "my-sam@2" } });
});

test("switched off while it loads, it does not go on", async () => {
  let go;
  const worker = new Fake({ load: null, image: null });
  const decoder = decoderOf(served({ decoder: () => new Promise((resolve) => (go = resolve)) }), [worker]);
  decoder.turn(true);
  decoder.open("a");
  await until(() => go);
  decoder.turn(false);
  go(new ArrayBuffer(3));
  for (let i = 0; i < 20; i++) await soon();
  assert.deepEqual([decoder.state, worker.asked], ["off", []]);
});

// --- numbers ---------------------------------------------------------------------------------------------------------

test("of four candidates the first is for other prompts, and equal scores keep their order", () => {
  assert.deepEqual(order(new Float32Array([0.9, 0.5, 0.7, 0.5])), [2, 1, 3]);
  assert.deepEqual(order(new Float32Array([0.2, 0.9, 0.5])), [1, 2, 0]);
  assert.deepEqual(order(new Float32Array([0.4])), [0]);
});

test("a mask that is nowhere and one that is everywhere", () => {
  const frame = frameOf("sam", { width: 5, height: 3 });
  assert.deepEqual(paint(new Float32Array(65536).fill(-1), frame, "sam"), { rle: { size: [3, 5], counts: "?" }, area: 0 });
  assert.deepEqual(paint(new Float32Array(65536).fill(1), frame, "sam"), { rle: { size: [3, 5], counts: "0?" }, area: 15 });
  const below = new Float32Array(65536).fill(-1);
  below.fill(1, 200 * 256); // in the padding under a wide image
  assert.equal(paint(below, frame, "sam").area, 0);
});

test("a file that is cut off, or of numbers that are not read, is refused", () => {
  const file = (header, bytes) => {
    const text = new TextEncoder().encode(JSON.stringify(header));
    const made = new Uint8Array(8 + text.length + bytes);
    new DataView(made.buffer).setBigUint64(0, BigInt(text.length), true);
    made.set(text, 8);
    return made.buffer;
  };
  const entry = (dtype, size) => ({ x: { dtype, shape: [2], data_offsets: [0, size] } });
  assert.deepEqual([...read(file(entry("F16", 4), 4)).tensors.x.data], [0, 0]);
  assert.throws(() => read(file(entry("F16", 4), 3)), /not whole/);
  assert.throws(() => read(file(entry("I64", 16), 16)), /type I64/);
  assert.throws(() => read(file(entry("F32", 8), 8).slice(0, 12)), /no whole safetensors/);
});
