import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { Storage } = await load("shared/storage.js");

/** A database that takes every write, and at the end of the transaction may find the disk full. */
const databaseOf = (full) => {
  const steps = [];
  const succeed = (request) => queueMicrotask(() => request.onsuccess?.());
  const transaction = {
    objectStore: () => {
      const write = () => {
        const request = {};
        steps.push("put");
        succeed(request);
        return request;
      };
      return { put: write, delete: write, transaction };
    },
    commit: () => {
      steps.push("commit");
      transaction.error = full ? new DOMException("The disk is full.", "QuotaExceededError") : null;
      setTimeout(() => (full ? transaction.onabort?.() : transaction.oncomplete?.()), 0);
    },
  };
  const opened = { result: { transaction: () => transaction } };
  globalThis.indexedDB = { open: () => (succeed(opened), opened) };
  return steps;
};

test("what is written is committed before anything is waited for", async () => {
  const steps = databaseOf(false);
  const storage = new Storage();
  await storage.open();
  const kept = storage.put("work", { id: "a" });
  assert.deepEqual(steps, ["put", "commit"]);
  await kept;
  await storage.delete("work", "a");
});

test("a disk that turns out to be full is told", async () => {
  databaseOf(true);
  const storage = new Storage();
  await storage.open();
  await assert.rejects(storage.put("work", { id: "a" }), { name: "QuotaExceededError" });
});
