// Undo and redo over states that are never changed, only replaced: what they share is stored once.

const MOST = 200;

export class History {
  #past = [];
  #future = [];

  constructor(now) {
    this.now = now;
  }

  /** Go on to a new state; what was undone is forgotten. */
  push(state) {
    this.#past.push(this.now);
    if (this.#past.length > MOST) this.#past.shift();
    this.#future = [];
    this.now = state;
  }

  /** Replace the state without a step: an answer came, a mask was hidden. */
  amend(state) {
    this.now = state;
  }

  /** Replace the state and all that undo and redo lead to by what `change` makes of them. */
  amendAll(change) {
    this.now = change(this.now);
    this.#past = this.#past.map(change);
    this.#future = this.#future.map(change);
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  undo() {
    if (!this.canUndo) return false;
    this.#future.push(this.now);
    this.now = this.#past.pop();
    return true;
  }

  redo() {
    if (!this.canRedo) return false;
    this.#past.push(this.now);
    this.now = this.#future.pop();
    return true;
  }
}
