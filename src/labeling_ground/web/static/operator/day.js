// The last day, from the server's own history, and what to do about what the figures show.

import { make } from "../shared/elements.js";
import { t } from "../shared/words.js";
import { OUTCOMES, ceiling } from "./figures.js";
import { bytes, number, percent } from "./format.js";
import { timeline } from "./plots.js";

const DAY = 86_400; // seconds
export const BIN = 900; // seconds that one step of the plots spans
const WAITING = ["interactive", "prefetch", "job"];
const SUMS = [...OUTCOMES, "refused", "errors"];
const MEANS = [...WAITING, "busy"];
const WORDS = { refused: "dayRefused", errors: "dayErrors" }; // of what is not called as it is shown
const $ = (id) => document.getElementById(id);

/** Columns of samples as steps of a quarter of an hour: sums of what is counted, means over time of what waits. */
export function bins({ at, seconds, ...columns }) {
  const found = new Map();
  at.forEach((end, i) => {
    const from = Math.floor((end - seconds[i] / 2) / BIN) * BIN;
    const bin = found.get(from) ?? { from, to: from + BIN, seconds: 0, ...Object.fromEntries([...SUMS, ...MEANS].map((name) => [name, 0])) };
    found.set(from, bin);
    bin.seconds += seconds[i];
    for (const name of SUMS) bin[name] += columns[name][i];
    for (const name of MEANS) bin[name] += columns[name][i] * seconds[i];
  });
  const all = [...found.values()].sort((one, other) => one.from - other.from);
  for (const bin of all) for (const name of MEANS) bin[name] /= bin.seconds;
  return all;
}

/** What an operator should hear: `[word, values]`, a sentence each. */
export function advice({ tiers, machine, settings }) {
  const said = [];
  const memory = tiers.find(({ tier }) => tier === "memory");
  if (settings.memory_bytes > 0.8 * machine.memory_bytes) {
    said.push(["adviceBudget", { budget: bytes(settings.memory_bytes), machine: bytes(machine.memory_bytes) }]);
  } else if (machine.resident_bytes > 0.9 * machine.memory_bytes) {
    said.push(["adviceResident", { resident: bytes(machine.resident_bytes), machine: bytes(machine.memory_bytes) }]);
  }
  const logits = memory?.bytes_by_kind.logits ?? 0;
  if (memory && memory.bytes > 0.5 * memory.budget && logits > 0.5 * memory.bytes) {
    said.push(["adviceLogits", { share: percent(logits / memory.bytes) }]);
  }
  return said;
}

/** The memory of the machine beside the cache's budget, and what follows from the figures. */
export function drawAdvice(place, figures) {
  const { machine, settings } = figures;
  const line = t("machineLine", {
    machine: bytes(machine.memory_bytes), resident: bytes(machine.resident_bytes), budget: bytes(settings.memory_bytes),
  });
  place.replaceChildren(make("p", { className: "quiet" }, line),
    ...advice(figures).map(([word, values]) => make("p", { className: "advice", data: { word } }, t(word, values))));
}

/** Asks by outcome, refusals and errors, and what waited, over the last day. */
export function drawDay(columns, now) {
  const steps = bins(columns);
  const sum = (names) => steps.reduce((all, step) => all + names.reduce((part, name) => part + step[name], 0), 0);
  const whole = (step, names) => names.reduce((all, name) => all + step[name], 0);
  const told = (step, names) => names.filter((name) => step[name]).map((name) => `${t(WORDS[name] ?? name)}: ${number(step[name], 1)}`).join("\n");
  const items = (names) => names.map((name) => make("li", { className: name }, t(WORDS[name] ?? name)));
  const axes = (top, word) => ({ top: t(word, { n: number(top, 1) }), left: t("ago", { time: t("h", { n: 24 }) }), right: t("now") });
  const plot = (place, names, word, label, height) => {
    const top = ceiling(Math.max(1, ...steps.map((step) => whole(step, names))));
    $(place).replaceChildren(timeline({
      seconds: DAY, end: now, width: $(place).clientWidth, height, top, label: t(label), names: axes(top, word),
      steps: steps.map((step) => ({
        from: step.from, to: step.to, title: told(step, names), parts: names.map((name) => ({ value: step[name], kind: name })),
      })),
    }));
  };
  $("day-legend").replaceChildren(...items(OUTCOMES));
  plot("day-asks", OUTCOMES, "inQuarter", "dayAsksPlot");
  $("day-trouble-legend").replaceChildren(...items(["refused", "errors"]));
  plot("day-trouble", ["refused", "errors"], "inQuarter", "dayTroublePlot", 70);
  $("day-queue-legend").replaceChildren(...items(WAITING));
  plot("day-queues", WAITING, "waitingThere", "dayQueuePlot", 70);
  const [hits, asked] = [sum(["hit"]), sum(OUTCOMES)];
  $("day-sum").textContent = asked ? t("daySum", { asked: number(asked), ratio: percent(hits / asked), refused: number(sum(["refused"])), errors: number(sum(["errors"])) }) : t("dayEmpty");
}

/** Columns of the day with those of a later answer at their end; what is older than a day goes. */
export function joined(columns, more) {
  if (!columns) return more;
  const all = Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, [...values, ...(more[name] ?? [])]]));
  const first = all.at.findIndex((at) => at > all.at.at(-1) - DAY);
  return Object.fromEntries(Object.entries(all).map(([name, values]) => [name, values.slice(Math.max(0, first))]));
}
