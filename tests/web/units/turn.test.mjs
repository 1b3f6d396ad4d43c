import assert from "node:assert/strict";
import { test } from "node:test";
import { load, until } from "./page.mjs";

const { ourTurn } = await load("labeling/turn.js");

/** As much of the browser's locks as is asked, with one lock. Whoever has it can only be robbed of it. */
class Locks {
  holder = null;
  #waiting = [];

  request(_name, { steal = false, signal }, held) {
    return new Promise((resolve, reject) => {
      const one = { held, reject };
      signal?.addEventListener("abort", () => {
        this.#waiting = this.#waiting.filter((other) => other !== one);
        reject(signal.reason);
      });
      setTimeout(() => { // granted by another process
        if (this.holder && !steal) return this.#waiting.push(one);
        this.holder?.reject(new DOMException("Stolen.", "AbortError"));
        this.holder = one;
        return held().then(resolve);
      }, 5);
    });
  }
}

test("a tab takes over once, however often that is clicked, and keeps its turn", async () => {
  const locks = new Locks();
  const heard = [];
  const tab = (name, elsewhere) => ourTurn({ elsewhere, lost: () => heard.push(`${name} lost`) }, locks);
  await tab("first", () => assert.fail("nobody else is there"));
  await tab("second", (takeOver) => {
    takeOver();
    takeOver();
  });
  await until(() => heard.length > 0);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(heard, ["first lost"]);
});
