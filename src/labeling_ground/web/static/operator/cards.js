// The cards of the operator's page: figures in, elements out.

import { make } from "../shared/elements.js";
import { t } from "../shared/words.js";
import { askedKinds, asksIn, buckets, byOutcome, ceiling, KINDS, money, OUTCOMES, quantile } from "./figures.js";
import { amount, bytes, counted, duration, number, percent } from "./format.js";
import { bar, columns, range, timeline } from "./plots.js";

const SCALE_S = { least: 0.001, most: 30 }; // of the latencies
const $ = (id) => document.getElementById(id);

function legend(found) {
  return found.map(([kind, words]) => make("li", kind ? { className: kind } : {}, words));
}

function quiet(...words) {
  return make("p", { className: "quiet" }, ...words);
}

/** What one sees first. */
export function drawTiles(figures, trail, price) {
  const { asked: answered, hit_ratio: ratio, seconds_saved: saved, seconds_computed: computed } = figures;
  const recent = trail.since(60);
  const asked = total(recent.counts);
  $("hit-ratio").textContent = percent(ratio);
  $("hit-bar").replaceChildren(outcomeBar(answered, total(answered), $("hit-bar").clientWidth));
  $("hit-recent").textContent = t("hitRatioMore", { ratio: percent(asked ? recent.counts.hit / asked : null) });
  $("time-saved").textContent = duration(saved);
  $("time-computed").textContent = t("timeSavedMore", { computed: duration(computed) });
  $("money-saved").textContent = amount(money(saved, price));
  $("asks-now").textContent = recent.seconds ? number(asked / recent.seconds, 1) : "–";
  $("encoder-now").textContent = t("asksNowMore", asksIn("encoder", figures));
  const { status, checks } = figures.health;
  $("health").textContent = t(`health-${status}`);
  $("health").dataset.health = status;
  const health = t("healthMore", { model: figures.model, time: duration(figures.uptime_seconds) });
  const count = figures.workers.length;
  $("health-more").textContent = count ? t("workersMore", { health, count }) : health;
  const wrong = Object.entries(checks).filter(([, how]) => how !== "ok");
  $("checks").replaceChildren(...wrong.map(([part, how]) => make("li", {}, `${part}: ${how}`)));
}

function total(counts) {
  return OUTCOMES.reduce((sum, outcome) => sum + counts[outcome], 0);
}

function outcomeBar(counts, whole, width) {
  const parts = OUTCOMES.map((outcome) => ({ value: counts[outcome], kind: outcome, title: `${t(outcome)}: ${number(counts[outcome])}` }));
  return bar(parts, { width, whole, label: parts.map(({ title }) => title).join(", ") });
}

/** Look-ups by kind and outcome. */
export function drawLookups(place, figures) {
  const most = Math.max(...Object.values(figures.kinds).map(({ lookups }) => lookups));
  const width = place.clientWidth;
  place.replaceChildren(...askedKinds(figures).map(([kind, found]) => {
    const isAsked = found.lookups + found.failed > 0;
    const counts = byOutcome(found);
    const told = OUTCOMES.map((outcome) => [outcome, `${t(outcome)} ${number(counts[outcome])}`]);
    if (found.failed) told.push(["", t("failedAsks", { n: number(found.failed) })]);
    return make("div", { className: "part", data: { kind } },
      make("p", {}, make("span", {}, make("b", {}, t(kind)), ` · ${counted("lookupsOf", found.lookups)}`),
        ...(isAsked ? [make("span", {}, make("b", {}, percent(found.hit_ratio)),
          ` ${t("ofAsked", { n: number(total(found.asked)) })} · ${t("saved", { time: duration(found.seconds_saved) })}`)] : [])),
      outcomeBar(counts, most, width),
      ...(isAsked ? [make("ul", { className: "legend" }, ...legend(told))] : []));
  }));
}

/** The last minutes, from what this page has seen. */
export function drawLive(trail, now) {
  const { steps, seconds } = trail;
  $("live-title").textContent = counted("lastMinutes", seconds / 60);
  $("live-legend").replaceChildren(...legend(OUTCOMES.map((outcome) => [outcome, t(outcome)])));
  const all = ({ counts }) => total(counts);
  const rate = (step) => all(step) / (step.to - step.from);
  const ask = { seconds, end: now, width: $("live-lookups").clientWidth };
  const names = (top, word) => ({ top: t(word, { n: number(top, 1) }), left: t("ago", { time: duration(seconds) }), right: t("now") });
  const top = ceiling(Math.max(0, ...steps.map(rate)));
  $("live-lookups").replaceChildren(timeline({
    ...ask,
    top,
    label: t("lookupsPlot"),
    names: names(top, "perSecond"),
    steps: steps.map((step) => ({
      ...step,
      parts: OUTCOMES.map((outcome) => ({ value: step.counts[outcome] / (step.to - step.from), kind: outcome })),
      title: OUTCOMES.filter((outcome) => step.counts[outcome]).map((outcome) => `${t(outcome)}: ${step.counts[outcome]}`).join("\n"),
    })),
  }));
  const queues = ["encoder", "decoder"];
  const busy = ({ running, waiting }) => running + waiting;
  const high = ceiling(Math.max(0, ...steps.flatMap((step) => queues.map((queue) => busy(step[queue])))));
  $("queue-legend").replaceChildren(...legend(queues.map((queue) => [queue, t(queue)])));
  $("live-queues").replaceChildren(timeline({
    ...ask,
    top: high,
    height: 84,
    label: t("queuePlot"),
    names: names(high, "asksThere"),
    lines: queues.map((queue) => ({ values: steps.map((step) => [step.to, busy(step[queue])]), kind: queue })),
  }));
}

/** Each tier: how full, of what, what went and why, and how it is. */
export function drawTiers(place, figures) {
  const width = place.clientWidth;
  place.replaceChildren(...figures.tiers.map((tier) => {
    const kinds = [...new Set([...KINDS, ...Object.keys(tier.bytes_by_kind)])].filter((kind) => tier.bytes_by_kind[kind]);
    const parts = kinds.map((kind) => {
      const words = `${t(kind)} ${bytes(tier.bytes_by_kind[kind])} (${number(tier.entries_by_kind[kind] ?? 0)})`;
      return { value: tier.bytes_by_kind[kind], kind, title: words };
    });
    const gone = Object.entries(tier.evictions).filter(([, n]) => n).map(([reason, n]) => `${t(`gone-${reason}`)} ${number(n)}`);
    if (tier.refused) gone.push(`${t("refusedEntries")} ${number(tier.refused)}`);
    const held = tier.answers ? t("ofBudget", { held: bytes(tier.bytes), budget: bytes(tier.budget) }) : "–";
    const more = tier.answers ? [counted("entries", tier.entries)] : [];
    if (tier.oldest_entry_seconds !== null) more.push(t("oldest", { time: duration(tier.oldest_entry_seconds) }));
    if (tier.demoted) more.push(t("demoted", { n: number(tier.demoted) }));
    if (tier.writes_pending) more.push(t("pending", { n: number(tier.writes_pending) }));
    const wrong = Object.entries(tier.errors).filter(([, n]) => n).map(([reason, n]) => `${t(`trouble-${reason}`)} ${number(n)}`);
    if (tier.lookups_skipped) more.push(t("skipped", { n: number(tier.lookups_skipped) }));
    if (wrong.length) more.push(`${t("troubles")}: ${wrong.join(", ")}`);
    const bad = [];
    if (!tier.answers) bad.push(t("noAnswer"));
    if (tier.breaker !== "closed") bad.push(t("breaker", { state: t(`breaker-${tier.breaker}`) }));
    return make("div", { className: "part", data: { tier: tier.tier } },
      make("p", {}, make("b", {}, t(tier.tier)), make("span", {}, held)),
      bar(parts, { width, whole: tier.budget, label: `${t(tier.tier)}: ${held}` }),
      make("ul", { className: "legend" }, ...legend(parts.map(({ kind, title }) => [kind, title]))),
      quiet(more.join(" · ")),
      ...(gone.length ? [quiet(`${t("evictions")}: ${gone.join(" · ")}`)] : []),
      ...(bad.length ? [make("p", { className: "bad" }, bad.join(" · "))] : []));
  }));
}

/** How long answers took, by what was asked for and how it came to be. */
export function drawLatency(place, { seconds, rows }) {
  const width = place.clientWidth;
  const found = rows.filter(({ answers }) => answers.at(-1) > 0);
  if (found.length === 0) return place.replaceChildren(quiet(t("noAsks")));
  const list = make("div", { className: "rows" }, ...found.map(({ kind, outcome, answers }) => {
    const [median, most] = [0.5, 0.95].map((share) => quantile(seconds, answers, share));
    const values = { kind: t(kind), outcome: t(outcome), median: duration(median), most: duration(most), n: number(answers.at(-1)) };
    return make("div", { className: "latency", data: { kind, outcome } },
      make("span", {}, make("b", {}, values.kind), ` · ${values.outcome}`, make("span", { className: "quiet" }, ` × ${values.n}`)),
      make("span", {}, `${values.median} · ${values.most}`),
      make("div", {}, range(median, most, { width, ...SCALE_S, kind: outcome, label: t("latencyRow", values) })));
  }));
  return place.replaceChildren(list);
}

/** What a larger memory would have saved, by its shadow caches, and what was recomputed after eviction. */
export function drawLarger(place, { shadow_caches: shadows, recomputed_after_eviction: recomputed }, price) {
  const most = Math.max(0, ...shadows.budgets.map(({ seconds_saved: saved }) => saved));
  const width = place.clientWidth;
  const rows = shadows.budgets.map(({ larger_by: by, hits, seconds_saved: saved }) => {
    const label = t("largerRow", { n: number(by * 100), time: duration(saved), hits: number(hits) });
    return make("div", { className: "latency", data: { by } },
      make("span", {}, make("b", {}, t("largerBy", { n: number(by * 100) }))),
      make("span", {}, `${duration(saved)} · ${amount(money(saved, price))}`),
      make("div", {}, bar([{ value: Math.max(0, saved), kind: "embedding", title: label }], { width, whole: most, label })));
  });
  const again = Object.values(recomputed).reduce((sum, one) => [sum[0] + one.entries, sum[1] + one.seconds], [0, 0]);
  place.replaceChildren(
    make("div", { className: "rows" }, ...(rows.length ? rows : [quiet(t("fewSamples"))]),
      quiet(again[0] ? t("recomputedEvicted", { entries: counted("entries", again[0]), time: duration(again[1]) }) : t("nothingRecomputed")),
      quiet(t("sampled", { share: percent(shadows.sampled_share) }))),
  );
}

/** How old the entries in memory are, and how long unused. */
export function drawAges(place, { ages, idle, tiers }) {
  const memory = tiers.find(({ tier }) => tier === "memory")?.entries ?? 0;
  if (memory === 0) return place.replaceChildren(quiet(t("noEntries")));
  const width = place.clientWidth;
  return place.replaceChildren(...[["sinceComputed", ages], ["sinceUsed", idle]].map(([word, spread]) => {
    const counts = buckets(spread.entries, memory);
    const columned = counts.map((value, i) => {
      const name = i < spread.seconds.length ? short(spread.seconds[i]) : t("more");
      return { value, name, title: t("entriesThere", { name, entries: counted("entries", value) }), kind: word === "sinceUsed" ? "mask" : "embedding" };
    });
    const label = `${t(word)}: ${columned.map(({ title }) => title).join(", ")}`;
    return make("div", { className: "part" }, make("h3", {}, t(word)), columns(columned, { width, label, top: Math.max(...counts) }));
  }));
}

/** The upper edge of a bucket, in the one unit that fits. */
function short(seconds) {
  const [unit, each] = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]].find(([, size]) => seconds >= size);
  return t(`short-${unit}`, { n: number(seconds / each) });
}

/** The models served; `setLoaded(name, isLoaded)` is called by the buttons, which are there where `may` says so. */
export function drawModels(place, models, may, setLoaded) {
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.model : null;
  place.replaceChildren(make("div", { className: "rows" }, ...models.map((model) => {
    const { name, loaded } = model;
    const failing = Object.entries(model.failing ?? {}).map(([half, why]) => `${half}: ${why}`);
    const states = [...(model.default ? ["defaultModel"] : []), loaded ? "loadedModel" : "unloadedModel"].map((word) => t(word));
    const more = [model.memory_bytes && t("modelMemory", { bytes: bytes(model.memory_bytes) }),
      model.embedding_bytes && t("modelEmbedding", { bytes: bytes(model.embedding_bytes) }),
      model.capabilities?.length && t("modelTakes", { prompts: model.capabilities.map((prompt) => t(`prompt-${prompt}`)).join(", ") })];
    const part = make("div", { className: "part", data: { served: name } },
      make("p", {}, make("b", {}, name), make("span", {}, states.join(" · "))),
      quiet(more.filter(Boolean).join(" · ")),
      ...(model.engine ? [quiet(t("modelEngine", { engine: model.engine }))] : []),
      ...(failing.length ? [make("p", { className: "bad" }, `${t("health-failing")}: ${failing.join("; ")}`)] : []));
    if (!may || model.default || models.length < 2) return part;
    const word = t(loaded ? "unloadModel" : "loadModel");
    const button = make("button", { type: "button", data: { model: name } }, word);
    button.setAttribute("aria-label", t(loaded ? "unloadNamed" : "loadNamed", { name }));
    button.addEventListener("click", () => setLoaded(name, !loaded));
    part.append(button);
    return part;
  })));
  if (focused) [...place.querySelectorAll("button")].find(({ dataset }) => dataset.model === focused)?.focus();
}

/** The queues of this server, those of the default model first, and the engines beyond them. */
export function drawEngines(place, figures) {
  const byClass = ({ classes }) => ["interactive", "prefetch", "job"].map((name) => number(classes[name]?.waiting ?? 0)).join(" · ");
  const heads = ["queue", "running", "waits", "waitsByClass", "turnedAway", "typical"];
  const others = Object.entries(figures.models).filter(([model]) => model !== figures.model)
    .flatMap(([model, { queues }]) => Object.entries(queues).map(([name, queue]) => [name, queue, model]));
  const all = [...Object.entries(figures.queues), ...others];
  const rows = all.map(([name, queue, model]) => make("tr", { data: { queue: name, ...(model ? { model } : {}) } },
    make("td", {}, model ? `${t(name)}, ${model}` : t(name)),
    ...[queue.running, queue.waiting].map((value) => make("td", {}, number(value))), make("td", {}, byClass(queue)),
    make("td", {}, number(queue.turned_away)), make("td", {}, duration(queue.typical_seconds))));
  const table = make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, t(head))))),
    make("tbody", {}, ...rows));
  const engines = figures.engines.map((engine) => {
    const line = t("engineLine", {
      asks: number(engine.asks),
      trip: duration(engine.round_trip_seconds),
      waiting: engine.queue === null ? "–" : number(engine.queue),
    });
    const why = engine.left_out;
    return make("div", { className: "part", data: { engine: engine.engine } },
      make("p", {}, make("b", {}, t(engine.engine)),
        make("span", { className: why ? "bad" : "" }, t(why ? `left-out-${why}` : "health-ok"))),
      quiet(engine.address), quiet(engine.model_version), quiet(line));
  });
  const outcomes = { used: 0, withdrawn: 0, wasted: 0 };
  for (const found of Object.values(figures.predictions)) for (const [outcome, n] of Object.entries(found)) outcomes[outcome] += n;
  const tenants = all.flatMap(([name, { tenants: waiting }, model]) => Object.entries(waiting)
    .map(([tenant, n]) => `${t(name)}${model ? `, ${model}` : ""}: ${tenant} ${number(n)}`));
  place.replaceChildren(make("div", { className: "rows" }, table, ...(tenants.length ? [quiet(`${t("waitsByTenant")}: ${tenants.join(" · ")}`)] : []), ...(engines.length ? engines : [quiet(t("inProcess"))]),
    quiet(t("predictionsLine", outcomes)), quiet(t("sessionsLine", figures))));
}
