// What survives a reload: photos, work and choices, in IndexedDB; and small choices that our pages share.

import { t } from "./words.js";

const STORES = { images: { keyPath: "id" }, work: { keyPath: "id" }, choices: {} };

export class Storage {
  #database = null;
  #retired = false;

  async open(name = "labeling-ground") {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
      for (const [store, options] of Object.entries(STORES)) request.result.createObjectStore(store, options);
    };
    this.#database = await done(request);
  }

  /** Write nothing any more: another tab does. */
  retire() {
    this.#retired = true;
  }

  async all(store) {
    return done(this.#store(store).getAll());
  }

  async get(store, key) {
    return done(this.#store(store).get(key));
  }

  async put(store, value, key) {
    if (!this.#retired) await this.#write(store, (target) => target.put(value, key));
  }

  async delete(store, key) {
    if (!this.#retired) await this.#write(store, (target) => target.delete(key));
  }

  /** Committed at once, as the tab may be closed in the next moment; what the disk refuses shows only at the end. */
  async #write(name, work) {
    const store = this.#store(name, "readwrite");
    work(store);
    const { transaction } = store;
    transaction.commit?.();
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
  }

  #store(name, mode = "readonly") {
    if (!this.#database) throw new Error(t("noDatabase"));
    return this.#database.transaction(name, mode).objectStore(name);
  }
}

/** Small choices. A browser that is told to keep nothing forgets them with the page. */
export const notes = {
  get(name) {
    try {
      return localStorage.getItem(`labeling-ground-${name}`);
    } catch {
      return null;
    }
  },
  set(name, text) {
    try {
      localStorage.setItem(`labeling-ground-${name}`, text);
    } catch {
      // not kept
    }
  },
};

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error(t("oldTab")));
  });
}
