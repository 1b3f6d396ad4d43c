// For asks whose answer is of no use once a newer one is made: at most one is in flight, the newest wins.

export class Newest {
  #current = null;
  #next = null;

  /** Call off what is in flight and, when it has ended, run `work(signal)`. Of several that wait only the last runs. */
  ask(work) {
    this.#next = work;
    if (this.#current) this.#current.abort();
    else this.#run();
  }

  /** Call off everything. */
  drop() {
    this.#next = null;
    this.#current?.abort();
  }

  get busy() {
    return this.#current !== null;
  }

  async #run() {
    while (this.#next) {
      const work = this.#next;
      this.#next = null;
      this.#current = new AbortController();
      try {
        await work(this.#current.signal);
      } catch (error) {
        if (error?.name !== "AbortError") reportError(error);
      }
      this.#current = null;
    }
  }
}
