// Work that several askers wait for and that is done once.

export class Shared {
  #running = new Map(); // key → {calledOff, reports, latest, result}

  /**
   * The result of `work(signal, report)`, which runs once for all who ask under the same key meanwhile. An asker leaves by
   * its own `signal`; the work is called off when the last one has left. `report` hears what the work reports.
   */
  join(key, signal, report, work) {
    if (signal.aborted) return Promise.reject(signal.reason);
    const running = this.#running.get(key) ?? this.#start(key, work);
    return new Promise((resolve, reject) => {
      const hear = (...news) => report(...news);
      const leave = () => {
        signal.removeEventListener("abort", stop);
        running.reports.delete(hear);
      };
      const stop = () => {
        leave();
        if (running.reports.size === 0) {
          if (this.#running.get(key) === running) this.#running.delete(key);
          running.calledOff.abort();
        }
        reject(signal.reason);
      };
      running.reports.add(hear);
      signal.addEventListener("abort", stop);
      if (running.latest) hear(...running.latest);
      running.result.finally(leave).then(resolve, reject);
    });
  }

  #start(key, work) {
    const running = { calledOff: new AbortController(), reports: new Set(), latest: null };
    this.#running.set(key, running);
    const report = (...news) => {
      running.latest = news;
      for (const hear of running.reports) hear(...news);
    };
    running.result = Promise.resolve().then(() => work(running.calledOff.signal, report)).finally(() => {
      if (this.#running.get(key) === running) this.#running.delete(key);
    });
    return running;
  }
}
