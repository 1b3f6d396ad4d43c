// The button that finds everything, and the bar for what was found.

import { write } from "../shared/elements.js";
import { sentenceOf } from "../shared/problems.js";
import { persistently } from "../shared/server.js";
import { counted, t } from "../shared/words.js";

const $ = (id) => document.getElementById(id);

/** Find all masks of the open image, as they come. */
export async function findEverything({ found, server, album, editor, connection, tell }) {
  const trouble = (...news) => connection.met(...news);
  await found.look(async (image, signal, see) => {
    await album.ready(image, signal);
    await persistently(() => server.everything(image.id, signal, (line) => see(newsOf(line))), { server, signal, trouble });
    if (found.shown.length === 0) throw new Error(t("foundNothing"));
  }).catch((error) => tell(sentenceOf(error)));
  editor.redraw();
}

/** What a line of the stream says. */
export function newsOf({ event, masks, standing, done, points, model, model_version: version }) {
  if (event === "start") return { made: { source: "everything", model, ...(version && { version }) } };
  const middle = ([x, y]) => [{ x: Math.floor(x), y: Math.floor(y), label: 1 }];
  return {
    masks: masks?.map(({ id, rle, score, area, bbox, point }) => ({ id, rle, score, area, bbox, points: middle(point) })),
    standing,
    ...(event === "progress" && { progress: { done, of: points } }),
  };
}

/** Connect the button, the bar and, while masks are there, the keys: Enter keeps, A picks all, M merges, Escape puts away. */
export function connectEverything(page) {
  const { found } = page;
  const click = (id, run) => $(id).addEventListener("click", run);
  const keep = () => found.keep() || page.tell(t("pickFirst"));
  click("everything", () => findEverything({ ...page, tell: (text) => page.tell(text) }));
  click("found-all", () => found.pickAll());
  click("found-merge", () => found.merge());
  click("found-keep", keep);
  click("found-close", () => found.close());
  const keys = { Enter: keep, KeyA: () => found.pickAll(), KeyM: () => found.merge(), Escape: () => found.close() };
  document.addEventListener("keydown", (event) => {
    const run = !event.ctrlKey && !event.metaKey && !event.altKey && keys[event.code];
    if (!run || !found.isOpen || document.querySelector("dialog[open]") || event.target.matches("input, select, textarea")) return;
    if (event.code === "Enter" && event.target.closest("button, a")) return;
    event.preventDefault();
    event.stopPropagation();
    run();
  }, { capture: true });
}

/** Draw the bar. */
export function drawFound({ found, editor }) {
  const { isOpen, progress, shown, picked } = found;
  $("everything").disabled = !editor.image;
  $("found-bar").hidden = !isOpen;
  if (!isOpen) return;
  $("found-progress").hidden = progress === null;
  if (progress?.of) Object.assign($("found-progress"), { max: progress.of, value: progress.done });
  else $("found-progress").removeAttribute("value");
  write($("found-text"), t("found", { found: counted("masksOf", shown.length), picked: picked.size }));
  $("found-all").disabled = shown.length === 0;
  $("found-merge").disabled = picked.size < 2;
  $("found-keep").disabled = picked.size === 0;
}
