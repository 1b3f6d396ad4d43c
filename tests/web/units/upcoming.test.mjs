import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { Upcoming } = await load("labeling/upcoming.js");

/** A server that notes the lists it is told; while `isGone`, it does not answer. */
const listener = () => {
  const server = { model: null, stretch: "", lists: [], isGone: false, reading: (id) => id + server.stretch };
  server.announce = async (ids) => {
    if (server.isGone) throw new Error("gone");
    server.lists.push(ids);
  };
  return { server, upcoming: new Upcoming({ server }) };
};
const images = (from, to) => Array.from({ length: to - from }, (_, i) => ({ id: String(from + i) }));
const ids = (from, to) => images(from, to).map(({ id }) => id);

test("a list is told once, and while it is followed only now and then again", async () => {
  const { server, upcoming } = listener();
  for (let at = 0; at < 25; at++) await upcoming.tell(images(at, 30));
  assert.deepEqual(server.lists, [ids(0, 30), ids(10, 30), ids(20, 30)]);
});

test("of a long list the first hundred are told", async () => {
  const { server, upcoming } = listener();
  for (let at = 0; at < 11; at++) await upcoming.tell(images(at, 300));
  assert.deepEqual(server.lists, [ids(0, 100), ids(10, 110)]);
});

test("another list takes its place at once: an image opened out of turn, one more or less, another order, model or reading", async () => {
  const { server, upcoming } = listener();
  await upcoming.tell(images(0, 5));
  await upcoming.tell([...images(7, 8), ...images(1, 5)]);
  await upcoming.tell([...images(7, 8), ...images(1, 6)]);
  await upcoming.tell([...images(7, 8), ...images(1, 5)]);
  await upcoming.tell([...images(7, 8), ...images(3, 5), ...images(1, 3)]);
  assert.equal(server.lists.length, 5);
  server.model = "other";
  await upcoming.tell(images(0, 5));
  server.stretch = "~stretch";
  await upcoming.tell(images(0, 2));
  assert.deepEqual(server.lists.slice(5), [ids(0, 5), ["0~stretch", "1~stretch"]]);
});

test("a list that is not wanted any more is ended, and one that was never told is not", async () => {
  const { server, upcoming } = listener();
  await upcoming.tell([]);
  await upcoming.tell(images(0, 3));
  await upcoming.tell([]);
  await upcoming.tell([]);
  assert.deepEqual(server.lists, [ids(0, 3), []]);
});

test("a server that does not answer is told with the next image", async () => {
  const { server, upcoming } = listener();
  server.isGone = true;
  await upcoming.tell(images(0, 3));
  server.isGone = false;
  await upcoming.tell(images(1, 3));
  assert.deepEqual(server.lists, [ids(1, 3)]);
});
