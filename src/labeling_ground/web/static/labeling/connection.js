// Whether the server answers, as the page's banner says it.

import { pause } from "../shared/server.js";

const AGAIN = 1000, GLAD = 3000; // milliseconds between two looks for the server, and that its return is told

export class Connection {
  trouble = null; // "gone" or "busy"
  why = null; // the refusal of a busy server
  isBack = false; // it was gone until a moment ago
  #key = null;

  /** `server` is looked for; `changed()` hears of news; `askForKey()` resolves when somebody has given one, or none. */
  constructor({ server, changed, askForKey, again = AGAIN, glad = GLAD }) {
    Object.assign(this, { server, changed, askForKey, again, glad });
  }

  /** Hears what an ask met, and the error: "gone", "busy", "key", or `null` for an answer. Returns a promise where the asker should wait. */
  met(kind, error = null) {
    if (kind === "key") return (this.#key ??= this.askForKey().finally(() => (this.#key = null))); // asked once for all
    if (kind === "gone" && this.trouble !== "gone") this.#lookOut();
    if (kind === "busy") this.trouble ??= "busy";
    this.why = error;
    if (kind === null && this.trouble === "busy") this.trouble = null;
    this.changed();
    return undefined;
  }

  /** Say that the server is gone until it is back, whether or not anything waits for it. */
  async #lookOut() {
    this.trouble = "gone";
    do await pause(this.again);
    while (!(await this.server.isReady()));
    this.trouble = null;
    this.isBack = true;
    this.changed();
    await pause(this.glad);
    this.isBack = false;
    this.changed();
  }
}
