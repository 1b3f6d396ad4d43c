import assert from "node:assert/strict";
import { test } from "node:test";
import { load, until } from "./page.mjs";

const { Connection } = await load("labeling/connection.js");

const connectionOf = (options = {}) => {
  let isUp = false;
  const server = { looks: 0, isReady: async () => (server.looks++, isUp) };
  const connection = new Connection({ server, changed: () => {}, askForKey: async () => {}, again: 1, glad: 1, ...options });
  return { connection, server, comeBack: () => (isUp = true) };
};

test("a server that is gone is looked for by one, until it is back, and that it is back is told for a while", async () => {
  const seen = [];
  const { connection, server, comeBack } = connectionOf({ changed: () => seen.push(connection.trouble ?? connection.isBack) });
  connection.met("gone");
  connection.met("gone");
  await until(() => server.looks >= 3);
  assert.equal(connection.trouble, "gone");
  comeBack();
  await until(() => connection.trouble === null && !connection.isBack && seen.at(-1) === false);
  assert.deepEqual(seen, ["gone", "gone", true, false]);
});

test("a busy server is so until it answers; one that is gone is not busy, and no answer brings it back", () => {
  const { connection } = connectionOf();
  connection.met("busy");
  assert.equal(connection.trouble, "busy");
  connection.met(null);
  assert.equal(connection.trouble, null);
  const { connection: other, comeBack } = connectionOf();
  other.met("gone");
  other.met("busy");
  other.met(null);
  assert.equal(other.trouble, "gone");
  comeBack();
});

test("a key is asked for once for all that wait for it, and anew when it was refused", async () => {
  let asked = 0;
  const { connection } = connectionOf({ askForKey: async () => void asked++ });
  await Promise.all([connection.met("key"), connection.met("key")]);
  assert.equal(asked, 1);
  await connection.met("key");
  assert.equal(asked, 2);
});
