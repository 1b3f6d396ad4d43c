// Draws the page around the canvas: lists, bars, and what is told.

import { nameOf } from "./album.js";
import { LARGEST } from "./handwork.js";
import { drawClasses, drawObjects } from "./panels.js";
import { drawConcepts } from "./concepts.js";
import { drawFound } from "./everything.js";
import { drawStrip } from "./strip.js";
import { openAttributes } from "./attributes.js";
import { drawObjectBar } from "./object-bar.js";
import { make, unlessDrawn, write } from "../shared/elements.js";
import { remarked, sentenceOf } from "../shared/problems.js";
import { t, words } from "../shared/words.js";
import * as works from "./work.js";

const $ = (id) => document.getElementById(id);

/** Draw the lists of classes, objects and images. */
export function drawLists(page) {
  const { editor, choices } = page;
  const { images } = page.album;
  drawClasses($("classes"), { classes: choices.classes, current: choices.classId }, {
    pick: (id) => page.pickClass(choices.classes.findIndex((one) => one.id === id)),
    change: (id, change) => page.changeClass(id, change),
    remove: (id) => page.removeClass(id),
    describe: (one) => openAttributes(page, one.id),
  });
  const { objects, editing } = editor.work;
  drawObjects($("objects"), { objects, classes: choices.classes, selection: editor.selection, editing }, {
    select: (id, adds) => editor.select(id, adds),
    change: (id, change) => page.selection.change(id, change),
    hide: (id) => editor.hide(id),
    edit: (id) => editor.edit(id),
    remove: (id) => {
      editor.select(id);
      page.selection.remove();
    },
  });
  drawObjectBar(page);
  $("object-count").textContent = objects.length || "";
  $("no-objects").hidden = objects.length > 0;
  drawStrip(page);
  $("welcome").hidden = images.length > 0;
  $("where").hidden = images.length === 0;
  const shown = page.workflow.images;
  const at = shown.indexOf(page.workflow.image);
  $("position").textContent = `${at + 1} / ${shown.length}`;
  $("image-name").textContent = editor.image ? nameOf(editor.image) : "";
  $("previous").disabled = at <= 0;
  $("next").disabled = at < 0 || at >= shown.length - 1;
  $("export").disabled = images.length === 0;
}

/** Draw what stands in the bars: settings, the prompt, the newest answer, and what is told. */
export function drawState(page) {
  const { editor, choices, decoder } = page;
  const { work, badge } = editor;
  editor.hovering = choices.hover;
  $("undo").disabled = !editor.canUndo;
  $("redo").disabled = !editor.canRedo;
  $("opacity").value = choices.opacity;
  $("colours").value = choices.colours;
  $("outline").checked = choices.outline;
  $("labels").checked = choices.labels;
  $("hover").checked = choices.hover;
  $("prepare").checked = choices.prepare;
  $("decode-here").checked = choices.decodeHere;
  $("stretch").checked = choices.stretch;
  drawModels(page);
  const why = whyNotHere(decoder);
  $("decode-state").hidden = !decoder.isOn;
  $("decode-state").dataset.state = decoder.state;
  write($("decode-state"), why || t(`decode-${decoder.state}`));
  $("prompt-bar").hidden = !works.hasPrompt(work);
  const active = works.chosen(work);
  $("finish").disabled = !active && !works.isAskable(work);
  $("prompt-bar").dataset.mask = active ? "yes" : "no";
  const many = work.answer?.masks.length ?? 0;
  $("candidate-previous").disabled = $("candidate-next").disabled = many < 2;
  const values = active && { n: work.choice + 1, of: many, score: active.score?.toFixed(2) ?? t("byHand") };
  $("candidate").textContent = active ? t("candidate", values) : "…";
  $("candidate").title = active ? t("candidateTip", values) : "";
  $("hand-bar").hidden = !page.hand.isDrawing || !editor.image;
  $("brush-size").hidden = !["brush", "eraser"].includes(page.tool);
  $("brush").value = (100 * Math.log(choices.brush)) / Math.log(LARGEST);
  $("brush-across").textContent = `${choices.brush} px`;
  $("least").value = choices.least;
  for (const id of ["fill-holes", "drop-islands", "smooth"]) $(id).disabled = !page.hand.hasTarget;
  $("badge").hidden = !badge;
  if (badge) {
    $("badge").dataset.outcome = badge.outcome;
    const [outcome, ms, model] = $("badge").children;
    write(outcome, t(badge.outcome));
    write(ms, `${badge.ms < 10 ? badge.ms.toFixed(1) : Math.round(badge.ms)} ms`);
    write(model, badge.model);
    const times = { ms: badge.ms.toFixed(1), server: badge.serverMs?.toFixed(1) };
    const tip = t(badge.outcome === "here" ? "hereTip" : "badgeTip", times);
    $("badge").title = [tip, why, remark(page.models, badge.note)].filter(Boolean).join("\n");
  }
  const said = [badge && t("model", { model: badge.model }), remark(page.models, editor.image?.note || badge?.note)];
  $("model").textContent = said.filter(Boolean).join(" – ");
  say($("hint"), hintOf({ work, problem: editor.problem, told: page.told }));
  say($("banner"), bannerOf(page));
  $("banner").classList.toggle("good", bannerOf(page) === t("back"));
  drawWaiting(page);
  drawFound(page);
  drawConcepts(page);
}

/** The chooser of models, where there is a choice. */
function drawModels({ models, server }) {
  $("model-choice").hidden = models.length < 2;
  unlessDrawn($("model-id"), models, () => models.map(({ id, name }) => make("option", { value: name }, id)));
  $("model-id").value = server.model ?? models.find((one) => one.default)?.name;
}

/** What the server remarks, with what models say of themselves in the page's language where it has words for that. */
export function remark(models, note) {
  const told = models.filter((one) => one.note && `note-${one.name}` in words);
  return remarked(told.reduce((text, one) => text.replace(one.note, t(`note-${one.name}`)), note ?? ""));
}

/** Why the server decodes although the page should, as a sentence. */
function whyNotHere({ trouble }) {
  return trouble ? t("notHere", { why: t(trouble.word, trouble.values) }) : "";
}

function say(element, text) {
  element.hidden = !text;
  write(element, text ?? "");
}

/** What to say of the prompt: why it has no mask, or else what was told last; `null` for nothing. */
export function hintOf({ work, problem, told = null }) {
  if (problem !== null) return sentenceOf(problem);
  if (works.hasPrompt(work) && !work.answer && !works.isAskable(work)) return t("needPositive");
  return works.chosen(work)?.area === 0 ? t("emptyMask") : told;
}

/** What to say of the server and of the storage, the worst first; `null` where all is well. */
export function bannerOf({ connection, storageTrouble }) {
  // A queue that is full empties; what else makes a server refuse for now, somebody may have to mend.
  const isQueue = !connection.why?.type || connection.why.type === "overloaded";
  if (connection.trouble === "busy" && !isQueue) return `${sentenceOf(connection.why)}\n${t("again")}`;
  if (connection.trouble) return t(connection.trouble);
  if (connection.isBack) return t("back");
  return storageTrouble ? t("notKept", { why: storageTrouble }) : null;
}

/** What is waited for, and beside it what changes so often that nobody wants to hear it read out. */
function drawWaiting(page) {
  const waiting = page.editor.waiting ?? (page.adding && { kind: "opening", share: page.adding });
  clearTimeout(page.clock);
  $("waiting").hidden = !waiting;
  if (!waiting) return;
  const { since, share } = waiting;
  const kind = page.connection.trouble && waiting.kind !== "opening" ? "serverAway" : waiting.kind;
  const values = { s: ((performance.now() - since) / 1000).toFixed(1), ...share };
  write($("waiting-text"), t(kind, values));
  write($("waiting-more"), `${kind}-more` in words ? t(`${kind}-more`, values) : "");
  const bar = $("waiting").querySelector("progress");
  bar.hidden = kind !== "uploading";
  bar.value = bar.hidden ? 0 : share ?? 0;
  if (since) page.clock = setTimeout(() => drawWaiting(page), 100);
}
