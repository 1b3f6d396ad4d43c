import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { load, random } from "./page.mjs";

const { hex, sha256, sha256Plain } = await load("shared/sha256.js");

test("our own SHA-256 is everybody's, at every length around a block", async () => {
  const next = random(1);
  for (const length of [0, 1, 3, 54, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000, 100_003]) {
    const bytes = Uint8Array.from({ length }, () => next() * 256);
    const right = createHash("sha256").update(bytes).digest("hex");
    assert.equal(hex(sha256Plain(bytes)), right);
    assert.equal(await sha256(bytes), right);
    assert.equal(await sha256(bytes, null), right);
  }
});
