import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { Gone, Refused, Server, pause, persistently } = await load("shared/server.js");

const never = new AbortController().signal;

/** Work that fails with each of the errors, then succeeds. */
const failing = (...errors) => async () => {
  if (errors.length) throw errors.shift();
  return "done";
};

test("a server that is gone is waited for", async () => {
  const heard = [];
  let asked = 0;
  const server = { isReady: async () => ++asked >= 2 };
  const trouble = (kind) => heard.push(kind);
  assert.equal(await persistently(failing(new Gone("x")), { server, signal: never, trouble }), "done");
  assert.deepEqual([heard, asked], [["gone"], 2]);
});

test("a busy server is asked again after the time that it named", async () => {
  const heard = [];
  const busy = new Refused(503, { detail: "full" }, 0.05);
  const started = performance.now();
  await persistently(failing(busy, busy), { server: null, signal: never, trouble: (kind) => heard.push(kind) });
  assert.ok(performance.now() - started >= 90);
  assert.deepEqual(heard, ["busy", "busy", null]); // so that what the page says of it does not come and go
});

test("waiting can be called off, and then no trouble is left standing", async () => {
  const heard = [];
  const stop = new AbortController();
  const waiting = persistently(failing(new Refused(503, null, 60)), {
    server: null, signal: stop.signal, trouble: (kind) => heard.push(kind),
  });
  setTimeout(() => stop.abort(), 10);
  await assert.rejects(waiting, { name: "AbortError" });
  assert.deepEqual(heard, ["busy", null]);
  await assert.rejects(pause(60_000, AbortSignal.abort()), { name: "AbortError" });
});

test("a key is asked for, and a refusal for good is passed on", async () => {
  const heard = [];
  const trouble = async (kind) => heard.push(kind);
  const refused = new Refused(422, { type: "urn:labeling-ground:problem:bad-prompt", detail: "No." }, null);
  const work = failing(new Refused(401, null, null), refused);
  await assert.rejects(persistently(work, { server: null, signal: never, trouble }), { type: "bad-prompt", message: "No." });
  assert.deepEqual(heard, ["key"]);
});

test("answers and refusals are read, and who asks is said", async (t) => {
  const asked = [];
  const answers = [
    new Response(JSON.stringify({ masks: [{ rle: {}, score: 0.5, area: 3, bbox: [] }], outcome: "hit", model: "m", seconds: 1 }), {
      headers: { "Server-Timing": "lookup;dur=0.10, total;dur=2.50" },
    }),
    new Response(JSON.stringify({ type: "urn:labeling-ground:problem:unknown-image", detail: "Send it." }), { status: 404 }),
    new Response("{}", { status: 503, headers: { "Retry-After": "7" } }),
    new Response("<html>a proxy's page", { status: 502 }),
    ...[502, 504, 429].map((status) => Response.json({}, { status })),
    Response.json({}, { status: 413 }),
    new Response("<html>a proxy's page", { status: 403 }),
  ];
  t.mock.method(globalThis, "fetch", async (url, options) => {
    asked.push([String(url), options.headers]);
    return answers.shift();
  });
  const server = new Server({ base: "http://host/sub/", client: "me", key: () => "k" });
  const { serverMs, outcome, note, masks } = await server.masks("abc", { points: [], box: [1, 2, 3, 4] });
  assert.deepEqual([serverMs, outcome, note, masks], [2.5, "hit", "", [{ rle: {}, score: 0.5, area: 3 }]]);
  assert.equal(asked[0][0], "http://host/sub/v1/images/abc/masks");
  assert.deepEqual([asked[0][1]["X-Client-Id"], asked[0][1]["X-API-Key"]], ["me", "k"]);
  assert.equal(await server.image("abc"), null);
  await assert.rejects(server.image("abc"), { status: 503, retryAfter: 7 });
  await assert.rejects(server.image("abc"), Gone);
  for (const status of [502, 504, 429]) await assert.rejects(server.image("abc"), { status, retryAfter: 1 });
  await assert.rejects(server.image("abc"), { status: 413, retryAfter: null });
  await assert.rejects(server.image("abc"), { status: 403, message: "HTTP 403" });
});

test("a server that is asked whether it is ready and says nothing is not ready", async (t) => {
  t.mock.method(globalThis, "fetch", (_, { signal } = {}) => new Promise((_resolve, reject) => {
    const given = setTimeout(reject, 20_000, new Error("nobody gave up")); // else nothing would keep this process
    signal?.addEventListener("abort", () => {
      clearTimeout(given);
      reject(signal.reason);
    });
  }));
  const server = new Server({ base: "http://host/", client: "me", key: () => null });
  const started = performance.now();
  assert.equal(await server.isReady(20), false);
  assert.ok(performance.now() - started < 19_000);
});

test("a stretch is part of the id that is asked for", async (t) => {
  const asked = [];
  t.mock.method(globalThis, "fetch", async (url) => {
    asked.push(String(url).replace("http://host/v1/images/", ""));
    return Response.json({ masks: [], seconds: 1 });
  });
  const server = new Server({ base: "http://host/", client: "me", key: () => null });
  server.stretch = "0.5,99.5";
  await server.image("abc");
  await server.image("abc", undefined, { waiting: true });
  await server.masks("abc", { points: [], box: null });
  await server.embedding("abc");
  await server.preview("abc");
  const id = "abc~stretch-0.5-99.5";
  assert.deepEqual(asked, [id, `${id}?waiting=true`, `${id}/masks`, `${id}/embedding`, `${id}/preview?format=jpeg`]);
  server.stretch = null;
  assert.equal(server.reading("abc"), "abc");
});

test("an image of which the server cannot say whether it has it is sent, not waited for", async (t) => {
  const refused = new Refused(503, { type: "urn:labeling-ground:problem:unreachable-image", detail: "Send it." }, 1);
  const unexpected = () => assert.fail("It waited.");
  const work = async () => Promise.reject(refused);
  await assert.rejects(persistently(work, { server: null, signal: null, trouble: unexpected }), refused);
  t.mock.method(globalThis, "fetch", async () =>
    Response.json({ type: "urn:labeling-ground:problem:unreachable-image" }, { status: 503, headers: { "Retry-After": "1" } }),
  );
  const server = new Server({ base: "http://host/", client: "me", key: () => null });
  assert.equal(await server.image("0".repeat(64)), null);
});

test("a mask to start from goes by its name, as it is where that is unknown or not to be known, and not to a model that takes none", async (t) => {
  const asked = [], unknown = { type: "urn:labeling-ground:problem:unknown-prediction", detail: "Ask again." };
  const answers = [];
  t.mock.method(globalThis, "fetch", async (_url, { body }) => {
    if (!body) return Response.json({ models: [{ name: "plain", default: true, capabilities: ["points", "box"] }] });
    asked.push(JSON.parse(body).mask_input);
    return answers.shift() ?? Response.json({ masks: [], seconds: 1, prediction_id: "p" });
  });
  const server = new Server({ base: "http://host/", client: "me", key: () => null });
  const prompt = { points: [], box: null, mask: { rle: { size: [1, 1], counts: "1" }, ref: { prediction_id: "q", index: 2 } } };
  const { rle, ref } = prompt.mask;
  assert.equal((await server.masks("a", prompt)).predictionId, "p");
  answers.push(Response.json(unknown, { status: 404 }));
  await server.masks("a", prompt);
  await server.masks("a", { ...prompt, mask: { rle, ref: null } });
  answers.push(Response.json({ type: "urn:labeling-ground:problem:unreachable-prediction" }, { status: 503 }));
  await server.masks("a", prompt);
  assert.deepEqual(asked, [ref, ref, { rle }, { rle }, ref, { rle }]);
  await server.models();
  await server.masks("a", prompt);
  assert.equal(asked.at(-1), undefined);
});
