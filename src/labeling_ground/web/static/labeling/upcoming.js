// Tells the server which images will be opened next, so that it encodes and keeps them; as far as the list proves true.

const MOST = 100; // images in one list
const AGAIN = 10; // of them opened, after which a list is told anew: a server that was restarted knows none

export class Upcoming {
  #told = { ids: [], model: null };

  constructor({ server }) {
    this.server = server;
  }

  /** Say that `images` are opened one after the other, the open one first; none: nothing is known of what comes. */
  async tell(images) {
    const { model } = this.server;
    const ids = images.slice(0, MOST).map(({ id }) => this.server.reading(id));
    if (model === this.#told.model && this.#isTold(ids)) return;
    const told = (this.#told = { ids, model });
    try {
      await this.server.announce(ids);
    } catch {
      if (this.#told === told) this.#told = { ids: [], model: null }; // nobody waits for it: with the next image again
    }
  }

  /** Whether the list that was told goes on like this from the image that is open now. */
  #isTold(ids) {
    const { ids: told } = this.#told;
    if (ids.length === 0) return told.length === 0;
    const at = told.indexOf(ids[0]);
    const rest = told.slice(at);
    const isWhole = rest.length === ids.length || told.length === MOST; // what is beyond the last one follows in time
    return at >= 0 && at < AGAIN && isWhole && rest.every((id, i) => id === ids[i]);
  }
}
