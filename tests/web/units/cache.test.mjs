import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.mjs";

const { Trail, asksIn, buckets, byOutcome, ceiling, changesOf, money, quantile } = await load("operator/figures.js");
const { amount, bytes, duration, percent } = await load("operator/format.js");
const { learn, speak } = await load("shared/words.js");
const { CACHE_WORDS } = await load("operator/words.js");

const { BIN, advice, bins, joined } = await load("operator/day.js");

learn(CACHE_WORDS);
const root = { documentElement: {}, querySelectorAll: () => [] };
const idle = { encoder: { running: 0, waiting: 0 }, decoder: { running: 0, waiting: 0 } };

/** Figures with so many hits, joined, misses and recomputed among the misses. */
function figures(uptime, [hits, joined, misses, recomputed], queues = idle) {
  return { uptime_seconds: uptime, asked: byOutcome({ hits, joined, misses, recomputed }), models: { toy: { queues } } };
}

test("outcomes are parts of the look-ups, and money is seconds at a price", () => {
  assert.deepEqual(byOutcome({ hits: 5, joined: 1, misses: 4, recomputed: 3 }), { hit: 5, joined: 1, recomputed: 3, miss: 1 });
  assert.equal(money(1800, 2.5), 1.25);
});

test("what waits for a half is counted over all models, also where one is not loaded", () => {
  const queue = (running, waiting) => ({ running, waiting });
  const models = {
    toy: { queues: { encoder: queue(1, 2), decoder: queue(3, 0) } },
    second: { queues: { encoder: queue(0, 5), decoder: queue(1, 1) } },
    unloaded: { queues: {} },
  };
  assert.deepEqual(asksIn("encoder", { models }), { running: 1, waiting: 7 });
  assert.deepEqual(asksIn("decoder", { models }), { running: 4, waiting: 1 });
});

test("a quantile is read off a histogram, linear within its bucket", () => {
  const bounds = [0.1, 0.2, 0.4];
  assert.equal(quantile(bounds, [0, 0, 0, 0], 0.5), null);
  assert.equal(quantile(bounds, [10, 10, 10, 10], 0.5), 0.05);
  assert.ok(Math.abs(quantile(bounds, [2, 4, 12, 12], 0.5) - 0.25) < 1e-12);
  assert.equal(quantile(bounds, [2, 4, 12, 12], 1), 0.4);
  assert.equal(quantile(bounds, [1, 1, 1, 10], 0.5), Infinity);
});

test("cumulative counts become buckets, with one for what is beyond", () => {
  assert.deepEqual(buckets([1, 4, 4], 9), [1, 3, 0, 5]);
  assert.deepEqual(buckets([1, 4], 3), [1, 3, 0]); // the two were counted at different moments
  assert.deepEqual(buckets([], 2), [2]);
});

test("an axis ends at a round number that is not less", () => {
  assert.deepEqual([0, NaN, 0.013, 0.7, 1, 1.1, 3, 99, 100, 101].map(ceiling), [1, 1, 0.02, 1, 1, 2, 3, 100, 100, 200]);
});

test("only what somebody changed is sent, in the server's units", () => {
  const fields = [{ name: "policy" }, { name: "memory", unit: 1024, whole: true }, { name: "idle", unit: 60 }, { name: "off", unit: 1 }];
  const shown = { policy: "gds", memory: "2", idle: "30", off: "0" };
  assert.deepEqual(changesOf(fields, shown, { ...shown }), {});
  assert.deepEqual(changesOf(fields, shown, { policy: "lru", memory: "2.0005", idle: "0.5" }), { policy: "lru", memory: 2049, idle: 30 });
});

test("the trail holds what happened between polls, for so long, and begins anew with the server", () => {
  const trail = new Trail(10);
  trail.push(figures(100, [50, 2, 8, 1]), 1000);
  assert.deepEqual(trail.steps, []);
  trail.push(figures(102, [56, 2, 10, 2], { ...idle, encoder: { running: 1, waiting: 4, turned_away: 9 } }), 1002);
  const [step] = trail.steps;
  assert.deepEqual([step.from, step.to, step.counts], [1000, 1002, { hit: 6, joined: 0, recomputed: 1, miss: 1 }]);
  assert.deepEqual(step.encoder, { running: 1, waiting: 4 });
  trail.push(figures(106, [58, 3, 10, 2]), 1006);
  assert.deepEqual(trail.since(60), { counts: { hit: 8, joined: 1, recomputed: 1, miss: 1 }, seconds: 6 });
  assert.deepEqual(trail.since(4), { counts: { hit: 2, joined: 1, recomputed: 0, miss: 0 }, seconds: 4 });
  trail.push(figures(113, [58, 3, 10, 2]), 1013);
  assert.equal(trail.steps.length, 2);
  trail.push(figures(1, [0, 0, 1, 0]), 1015);
  assert.deepEqual(trail.steps, []);
  assert.deepEqual(trail.since(60), { counts: { hit: 0, joined: 0, recomputed: 0, miss: 0 }, seconds: 0 });
  trail.push(figures(3, [1, 0, 1, 0]), 1017);
  assert.equal(trail.steps[0].counts.hit, 1);
});

test("numbers are read as people read them, in both languages", () => {
  speak("en", root);
  assert.deepEqual([0, 1023, 1024, 1536, 150 * 2 ** 20, 3 * 2 ** 40].map(bytes), ["0 B", "1,023 B", "1 KiB", "1.5 KiB", "150 MiB", "3 TiB"]);
  assert.deepEqual([null, Infinity, 0, 0.0042, 0.35, 4.24, 42.4, 59.96].map(duration),
    ["–", "∞", "0 s", "4.2 ms", "350 ms", "4.2 s", "42 s", "1 min"]);
  assert.deepEqual([75, 599, 600, 3600, 5400, 200_000, 864_000].map(duration),
    ["1 min 15 s", "9 min 59 s", "10 min", "1 h", "1 h 30 min", "2 d 7 h", "10 d"]);
  assert.deepEqual([null, 0, 0.5, 0.994, 0.99996, 1].map(percent), ["–", "0 %", "50 %", "99.4 %", "99.9 %", "100 %"]);
  assert.deepEqual([NaN, 0, 0.01234, 12.345, 1234].map(amount), ["–", "0.00", "0.0123", "12.35", "1,234.00"]);
  speak("ko", root);
  assert.equal(duration(5400), "1시간 30분");
});

/** Columns of samples of a minute each: `[at, given]`. */
function day(...samples) {
  const names = ["hit", "joined", "recomputed", "miss", "refused", "errors", "busy", "interactive", "prefetch", "job"];
  return {
    at: samples.map(([at]) => at),
    seconds: samples.map(() => 60),
    ...Object.fromEntries(names.map((name) => [name, samples.map(([, given]) => given[name] ?? 0)])),
  };
}

test("a day is drawn in quarters of an hour: sums of what is counted, means of what waited", () => {
  const [first, second, ...more] = bins(day([60, { hit: 1, job: 4 }], [120, { hit: 2, miss: 1 }], [BIN + 60, { errors: 3 }]));
  assert.deepEqual([first.from, first.to, first.hit, first.miss, first.job], [0, BIN, 3, 1, 2]);
  assert.deepEqual([second.from, second.errors, second.hit, more.length], [BIN, 3, 0, 0]);
});

test("a later answer goes on where the one before ended, and what is older than a day goes", () => {
  const both = joined(day([60, { hit: 1 }], [50_000, { hit: 2 }]), day([90_000, { hit: 3 }]));
  assert.deepEqual([both.at, both.hit], [[50_000, 90_000], [2, 3]]);
  assert.deepEqual(joined(both, day()).at, [50_000, 90_000]);
  assert.deepEqual(joined(null, day([60, {}])).at, [60]);
});

test("an operator is told of a budget beyond the machine, of memory that is nearly used up, and of logits", () => {
  const gib = 2 ** 30;
  const words = (budget, resident, bytes, logits) => advice({
    tiers: [{ tier: "memory", budget, bytes, bytes_by_kind: { logits, mask: bytes - logits } }],
    machine: { memory_bytes: 8 * gib, resident_bytes: resident },
    settings: { memory_bytes: budget },
  }).map(([word]) => word);
  assert.deepEqual(words(2 * gib, gib, gib, 0), []);
  assert.deepEqual(words(7 * gib, gib, gib, 0), ["adviceBudget"]);
  assert.deepEqual(words(2 * gib, 7.5 * gib, gib, 0), ["adviceResident"]);
  assert.deepEqual(words(2 * gib, gib, 1.5 * gib, gib), ["adviceLogits"]);
  assert.deepEqual(words(2 * gib, gib, 0.5 * gib, 0.4 * gib), []); // there is room for them
});
