// The strip below the image: the images with their names and states, what is shown of them, and how far the work is.

import { nameOf } from "./album.js";
import { STATES, progressOf, stateOf, tally } from "./states.js";
import { make, unlessDrawn } from "../shared/elements.js";
import { counted, t } from "../shared/words.js";

const $ = (id) => document.getElementById(id);
const SIGNS = { unbegun: "", working: "•", review: "?", done: "✓", nothing: "∅", skipped: "»" };
const SERVER = { new: "notSent", sending: "sending", queued: "queued", ready: "ready", failed: "failed" };
const TYPED = 150; // milliseconds without a key after which the list follows the search

const addresses = new WeakMap(); // thumbnail → its address: made once
const drawn = new Map(); // image id → {text, row}: each is drawn anew only when what it shows is another
let seen = null; // id of the image that was scrolled to

/** Connect the strip's fields and buttons with the page. */
export function connectStrip(page) {
  let typed = 0;
  $("find").addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(() => page.workflow.show({ text: $("find").value }), TYPED);
  });
  $("filter").addEventListener("change", () => page.workflow.show({ state: $("filter").value }));
  $("state").addEventListener("change", () => page.workflow.mark($("state").value));
  $("done").addEventListener("click", () => page.workflow.markAndGo("done"));
  $("nothing").addEventListener("click", () => page.workflow.markAndGo("nothing"));
  $("next-open").addEventListener("click", () => page.workflow.goToNotDone());
  page.workflow.failures.connect();
}

/** Draw the strip. */
export function drawStrip(page) {
  const { images } = page.album;
  const { image, shown, failures } = page.workflow;
  const counts = tally(images);
  $("strip-bar").classList.toggle("empty", images.length === 0);
  $("strip").hidden = images.length === 0 && failures.count === 0;
  unlessDrawn($("filter"), counts, () => ["all", ...STATES].map((state) =>
    make("option", { value: state }, t("stateCount", { state: t(`state-${state}`), n: counts[state] ?? images.length }))));
  $("filter").value = shown.state;
  const state = image && stateOf(image);
  unlessDrawn($("state"), state, () => STATES.filter((one) => isChoosable(one, state)).map((one) => make("option", { value: one }, t(`state-${one}`))));
  if (state) $("state").value = state;
  $("state").dataset.state = state ?? "";
  $("state").disabled = $("done").disabled = !image;
  $("nothing").disabled = !image || image.objects > 0;
  const { done, of } = progressOf(images);
  Object.assign($("progress"), { max: Math.max(of, 1), value: done });
  $("progress-text").textContent = t("progress", { done, of });
  $("failures").hidden = failures.count === 0;
  $("failures").textContent = failures.words;
  drawThumbs($("thumbs"), page.workflow.images, image, (one) => page.open(one));
}

/** Whether one may choose a state: of the two that follow from the objects, only the one that follows. */
function isChoosable(one, state) {
  const follows = ["unbegun", "working"];
  return !follows.includes(one) || one === state || (one === "working" && !follows.includes(state));
}

function drawThumbs(list, images, current, open) {
  for (const image of images) drawThumb(image, image === current, open);
  const rows = images.map(({ id }) => drawn.get(id).row);
  const isPrefix = rows.length >= list.children.length && [...list.children].every((row, i) => row === rows[i]);
  if (isPrefix) list.append(...rows.slice(list.children.length));
  else list.replaceChildren(...rows);
  if (seen === current?.id) return;
  seen = current?.id;
  list.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function drawThumb(image, isCurrent, open) {
  const { id, thumb } = image;
  const state = stateOf(image);
  const text = [document.documentElement.lang, image.names, image.state, state, image.objects, image.previewOf, isCurrent].join("\n");
  const before = drawn.get(id);
  if (before?.text === text) return;
  const label = t("thumb", { name: nameOf(image), state: t(SERVER[image.state]), work: t(`state-${state}`), objects: counted("objectsOf", image.objects) });
  if (!addresses.has(thumb)) addresses.set(thumb, URL.createObjectURL(thumb));
  const button = make(
    "button",
    { type: "button", title: label, aria: { label, current: isCurrent }, data: { state: image.state, work: state } },
    make("img", { src: addresses.get(thumb), alt: "", loading: "lazy" }),
    make("span", { className: "dot" }),
    make("span", { className: "name" }, image.names[0].split("/").at(-1)),
  );
  if (SIGNS[state]) button.append(make("span", { className: "sign" }, SIGNS[state]));
  if (image.objects) button.append(make("span", { className: "count" }, String(image.objects)));
  button.addEventListener("click", () => open(image));
  const row = make("li", {}, button);
  const hadFocus = before?.row.contains(document.activeElement);
  before?.row.replaceWith(row);
  if (hadFocus) button.focus();
  drawn.set(id, { text, row });
}
