import assert from "node:assert/strict";
import { test } from "node:test";
import { load, until } from "./page.mjs";

const { ourTurn } = await load("labeling/turn.js");
const { ChannelLocks } = await load("labeling/channel-locks.js");

let channels = 0;

/** What makes the tabs of one address, each with a channel of its own; all are closed when the test ends. */
function tabs(test) {
  const name = `tabs ${channels++}`;
  return () => {
    const channel = new BroadcastChannel(name);
    test.after(() => channel.close());
    return channel;
  };
}

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

test("a tab takes over once, however often that is clicked, and keeps its turn", async (test) => {
  const channel = tabs(test);
  const locks = new Locks();
  const heard = [];
  const tab = (name, elsewhere) => ourTurn({ elsewhere, lost: () => heard.push(`${name} lost`) }, channel(), locks);
  await tab("first", () => assert.fail("nobody else is there"));
  await tab("second", (takeOver) => {
    takeOver();
    takeOver();
  });
  await until(() => heard.length > 0);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(heard, ["first lost"]);
});

test("a tab that waits hears what is open in the one whose turn it is, also in the one that lost it", async (test) => {
  const channel = tabs(test), locks = new Locks();
  const heard = { first: [], second: [] };
  const tab = (name, elsewhere) => ourTurn({
    elsewhere,
    lost: () => {},
    says: () => ({ name: `image of the ${name}` }),
    who: (words) => heard[name].push(words.name),
  }, channel(), locks);
  await tab("first", () => assert.fail("nobody else is there"));
  let takeOver;
  const second = tab("second", (take) => (takeOver = take));
  await until(() => heard.second.length > 0);
  takeOver();
  await second;
  await until(() => heard.first.length > 0);
  assert.deepEqual(heard, { first: ["image of the second"], second: ["image of the first"] });
});

const QUICK = { soon: 60, again: 20 };

test("where the browser has no locks one tab works at a time, until another one takes over", async (test) => {
  const channel = tabs(test);
  const locks = () => new ChannelLocks(channel(), QUICK);
  const heard = [];
  const steps = (name, elsewhere) => ({ elsewhere, lost: () => heard.push(`${name} lost`) });
  await ourTurn(steps("first", () => assert.fail("nobody else is there")), channel(), locks());
  let takeOver;
  const second = ourTurn(steps("second", (take) => (takeOver = take)), channel(), locks());
  await until(() => takeOver);
  assert.deepEqual(heard, []);
  takeOver();
  await second;
  await until(() => heard.length > 0);
  assert.deepEqual(heard, ["first lost"]);
});

test("of tabs that come at the same time one has the lock, and when it is closed the next one", async (test) => {
  const channel = tabs(test);
  const had = [], open = [];
  for (let n = 0; n < 4; n++) {
    const own = channel();
    open.push(own);
    new ChannelLocks(own, QUICK).request("", {}, () => (had.push(n), new Promise(() => {}))).catch(() => had.push("lost"));
  }
  await until(() => had.length === 1);
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(had.length, 1);
  open[had[0]].close();
  await until(() => had.length === 2);
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(new Set(had).size, 2);
});
