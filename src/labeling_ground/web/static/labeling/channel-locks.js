// A lock among the tabs at this address where the browser has none of its own: on plain http. The tabs talk over a
// broadcast channel, in which each hears all others and not itself.

const SOON = 300; // milliseconds in which a tab that has the lock says so
const AGAIN = 1000; // and between two questions whether it still has it

/** As much of the browser's `LockManager` as `turn.js` asks for: one lock, which can be waited for and stolen. */
export class ChannelLocks {
  #id = crypto.getRandomValues(new Uint32Array(2)).join("-");
  #channel;
  #state = "none"; // or "claiming", "held"
  #answered = false; // whether another tab said that the lock is not free
  #robbed = () => {};

  constructor(channel, { soon = SOON, again = AGAIN } = {}) {
    Object.assign(this, { soon, again });
    this.#channel = channel;
    channel.addEventListener("message", ({ data }) => this.#hear(data));
  }

  /** Run `held` with the lock. Rejects when it is stolen, or when `signal` calls the waiting off. */
  async request(_name, { signal, steal = false }, held) {
    while (!steal && !(await this.#claim())) {
      signal?.throwIfAborted();
      await pause(this.again);
    }
    signal?.throwIfAborted();
    this.#state = "held";
    this.#say("held");
    return new Promise((resolve, reject) => {
      this.#robbed = () => reject(new DOMException("Stolen.", "AbortError"));
      held().then(resolve, reject);
    });
  }

  /** Whether nobody else has the lock, or claims it at the same time with an earlier id. */
  async #claim() {
    this.#state = "claiming";
    this.#answered = false;
    this.#say("claim");
    await pause(this.soon);
    if (this.#state === "claiming") this.#state = "none";
    return !this.#answered;
  }

  #say(lock, to = null) {
    this.#channel.postMessage({ lock, id: this.#id, to });
  }

  #hear({ lock, id, to }) {
    if (!lock || (to !== null && to !== this.#id)) return;
    const isEarlier = this.#state === "claiming" && this.#id < id;
    if (lock === "claim" && (this.#state === "held" || isEarlier)) this.#say("taken", id);
    if (lock !== "claim" || !isEarlier) this.#answered = true;
    if (lock !== "held" || this.#state !== "held") return;
    this.#state = "none";
    this.#robbed();
  }
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
