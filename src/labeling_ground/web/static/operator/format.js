// Numbers as people read them, in the page's language.

import { counted as plural, t } from "../shared/words.js";

const numbers = new Map();

/** A number with at most so many digits behind the point. */
export function number(value, digits = 0, least = 0) {
  const language = t("numbers");
  const name = `${language} ${digits} ${least}`;
  const options = { maximumFractionDigits: digits, minimumFractionDigits: least };
  if (!numbers.has(name)) numbers.set(name, new Intl.NumberFormat(language, options));
  return numbers.get(name).format(value);
}

/** How many of something there are, the number as the language writes it. */
export function counted(word, many) {
  return plural(word, many, number(many));
}

/** An amount of money; small ones to the hundredth of a cent. */
export function amount(value) {
  return Number.isFinite(value) ? number(value, value > 0 && value < 1 ? 4 : 2, 2) : "–";
}

/** A share of 1; a dash where there is none. Never rounded up to all of it. */
export function percent(share) {
  if (share === null || Number.isNaN(share)) return "–";
  const shown = share * 100;
  return `${number(shown > 99.9 && shown < 100 ? 99.9 : shown, shown >= 99 && shown < 100 ? 1 : 0)} %`;
}

/** Bytes, in the unit that fits. */
export function bytes(many) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const i = many > 0 ? Math.min(units.length - 1, Math.floor(Math.log2(many) / 10)) : 0;
  const value = many / 1024 ** i;
  return `${number(value, i && value < 100 ? 1 : 0)} ${units[i]}`;
}

/** A length of time, short ones exactly, long ones in two units. */
export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds === Infinity) return "∞";
  if (seconds === 0) return t("s", { n: 0 });
  if (seconds < 1) return `${number(seconds * 1e3, seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 59.95) return t("s", { n: number(seconds, seconds < 9.95 ? 1 : 0) });
  if (seconds < 599.5) return pair("min", Math.floor(Math.round(seconds) / 60), "s", Math.round(seconds) % 60);
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return t("min", { n: minutes });
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return pair("h", hours, "min", minutes % 60);
  return pair("d", Math.floor(hours / 24), "h", hours % 24);
}

function pair(large, many, small, few) {
  return few ? `${t(large, { n: many })} ${t(small, { n: few })}` : t(large, { n: many });
}
