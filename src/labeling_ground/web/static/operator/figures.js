// What the operator's page works out of the server's figures. There is no browser in here.

/** The outcomes of a look-up, from the cheapest to the dearest. */
export const OUTCOMES = ["hit", "joined", "recomputed", "miss"];

/** What the plots tell apart of what is held, in this order. */
export const KINDS = [
  "embedding", "embedding-int8", "mask", "logits", "everything", "trunk", "text", "exemplars", "detections", "image",
];

/** Look-ups by kind, as the figures have them; kinds of models that find concepts only where there are some. */
export function askedKinds({ kinds }) {
  const always = ["embedding", "mask", "everything"];
  return Object.entries(kinds).filter(([kind, found]) => always.includes(kind) || found.lookups + found.failed > 0);
}

/** A kind's look-ups by outcome. Together they are all of its look-ups. */
export function byOutcome({ hits, joined, misses, recomputed }) {
  return { hit: hits, joined, recomputed, miss: misses - recomputed };
}

/** What so many seconds of computing cost, at the price of an hour. */
export function money(seconds, price) {
  return (seconds / 3600) * price;
}

/**
 * Seconds that `share` of the answers did not exceed, from a histogram: `answers[i]` took at most `bounds[i]`, the last of
 * them is all. Linear within a bucket. `null` if there are no answers, `Infinity` if it is more than the last bound.
 */
export function quantile(bounds, answers, share) {
  const wanted = share * answers.at(-1);
  if (answers.at(-1) === 0) return null;
  const i = bounds.findIndex((_, at) => answers[at] >= wanted);
  if (i < 0) return Infinity;
  const [low, before] = i ? [bounds[i - 1], answers[i - 1]] : [0, 0];
  return low + ((bounds[i] - low) * (wanted - before)) / (answers[i] - before);
}

/** How many of `total` are in each bucket, from cumulative counts; the last bucket is what is beyond them. */
export function buckets(cumulative, total) {
  const all = [...cumulative, Math.max(total, cumulative.at(-1) ?? 0)];
  return all.map((count, i) => count - (all[i - 1] ?? 0));
}

/** The smallest of 1, 2, 3, 5, 10, 20, 30, 50 … (or of 0.1, 0.2 …) that is not less. An axis ends there. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 5, 10].map((step) => step * power).find((end) => end >= value * (1 - 1e-9));
}

/** The fields that somebody changed, as the server wants them: `shown` and `typed` are the texts of the form. */
export function changesOf(fields, shown, typed) {
  const changed = fields.filter(({ name }) => name in typed && typed[name] !== shown[name]);
  return Object.fromEntries(changed.map(({ name, unit, whole }) => {
    if (!unit) return [name, typed[name]];
    const value = Number(typed[name]) * unit;
    return [name, whole ? Math.round(value) : value];
  }));
}

/** Asks of all models that are in the queues of a half, `encoder` or `decoder`. */
export function asksIn(half, { models }) {
  const queues = Object.values(models).flatMap(({ queues: own }) => own[half] ?? []);
  const sum = (name) => queues.reduce((all, queue) => all + queue[name], 0);
  return { running: sum("running"), waiting: sum("waiting") };
}

/** What happened between the polls of the last minutes. */
export class Trail {
  steps = []; // {from, to, counts, encoder, decoder}: seconds on the page's clock, asks by outcome, asks in the queues
  #last = null;

  constructor(seconds) {
    this.seconds = seconds;
  }

  /** Take in the figures of the moment `at`. A server that was started anew begins a new trail. */
  push(figures, at) {
    const last = this.#last;
    this.#last = { at, uptime: figures.uptime_seconds, total: figures.asked };
    if (last === null) return;
    const counts = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, this.#last.total[outcome] - last.total[outcome]]));
    if (figures.uptime_seconds < last.uptime) {
      this.steps = [];
      return;
    }
    const [encoder, decoder] = ["encoder", "decoder"].map((half) => asksIn(half, figures));
    this.steps.push({ from: last.at, to: at, counts, encoder, decoder });
    this.steps = this.steps.filter(({ to }) => to > at - this.seconds);
  }

  /** Asks that somebody waited for, by outcome, in the last `seconds`, and how many seconds these steps really span. */
  since(seconds) {
    const end = this.steps.at(-1)?.to ?? 0;
    const found = this.steps.filter(({ to }) => to > end - seconds);
    const counts = Object.fromEntries(OUTCOMES.map((name) => [name, found.reduce((sum, step) => sum + step.counts[name], 0)]));
    return { counts, seconds: found.reduce((sum, { from, to }) => sum + to - from, 0) };
  }
}
