// The lists beside and below the image.

import { icon, make, unlessDrawn } from "../shared/elements.js";
import { sentenceOf } from "../shared/problems.js";
import { t } from "../shared/words.js";
import { numberedName } from "./work.js";

function iconButton(name, label, onclick) {
  return make("button", { className: "icon", type: "button", title: label, aria: { label }, onclick }, icon(name));
}

function textInput(value, label, placeholder, onchange) {
  const input = make("input", { type: "text", value, placeholder, maxLength: 80, aria: { label }, autocomplete: "off" });
  input.addEventListener("change", () => onchange(input.value.trim()));
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // Enter ends a syllable there, and not the name
    if (event.key === "Enter") input.blur();
    if (event.key === "Escape") {
      input.value = value;
      input.blur();
    }
  });
  return input;
}

/** A name that a double click on it, or `rename()` of the element, turns into a field. */
function renamable({ text, value, label, placeholder, title, pressed }, on) {
  const pick = make("button", { type: "button", className: "pick", title, ...(pressed === undefined ? {} : { aria: { pressed } }) }, text);
  pick.rename = () => {
    const input = textInput(value, label, placeholder, (name) => (name !== value ? on.rename(name) : undefined));
    input.addEventListener("blur", () => input.replaceWith(pick));
    pick.replaceWith(input);
    input.select();
    input.focus();
  };
  pick.addEventListener("click", on.pick);
  pick.addEventListener("dblclick", pick.rename);
  return pick;
}

export function drawClasses(list, { classes, current }, on) {
  unlessDrawn(list, [classes, current], () =>
    classes.map((one, i) => {
      const colour = make("input", { type: "color", value: one.colour, aria: { label: t("classColour", one) } });
      colour.addEventListener("change", () => on.change(one.id, { colour: colour.value }));
      const rename = (name) => name && on.change(one.id, { name });
      const pick = renamable(
        { text: one.name, value: one.name, label: t("className"), placeholder: "", title: t("pickClass", one), pressed: one.id === current },
        { pick: () => on.pick(one.id), rename },
      );
      const row = make("li", { className: one.id === current ? "on" : "" }, colour, pick);
      row.append(iconButton("list", t("classAttributes", one), () => on.describe(one)));
      if (i < 9) row.append(make("kbd", {}, String(i + 1)));
      row.append(iconButton("edit", t("renameClass", one), pick.rename));
      if (classes.length > 1) row.append(iconButton("delete", t("deleteClass", one), () => on.remove(one.id)));
      return row;
    }),
  );
}

export function drawObjects(list, { objects, classes, selection, editing }, on) {
  const shown = objects.map(({ id, name, classId, hidden, locked, pending, trouble, model }) => [id, name, classId, hidden, locked, pending, trouble, model]);
  unlessDrawn(list, [shown, classes], () =>
    objects.map((object) => {
      const colour = classes.find((one) => one.id === object.classId)?.colour ?? "#888888";
      const shown = numberedName(object, objects, classes);
      const name = renamable(
        { text: object.name || shown, value: object.name, label: t("objectName"), placeholder: shown, title: [t("renameObject"), object.model && t("model", object)].filter(Boolean).join("\n") },
        { pick: ({ detail }) => detail === 0 && on.select(object.id), rename: (text) => on.change(object.id, { name: text }) },
      );
      const choice = make("select", { className: "chip", title: t("objectClass"), aria: { label: t("objectClass") } });
      choice.style.setProperty("--colour", colour);
      for (const one of classes) choice.append(make("option", { value: one.id, selected: one.id === object.classId }, one.name));
      choice.addEventListener("change", () => on.change(object.id, { classId: choice.value }));
      const row = make(
        "li",
        { className: object.hidden ? "off" : "", data: { id: object.id } },
        choice,
        name,
        ...maskState(object),
        ...(object.locked ? [make("span", { className: "locked", role: "img", title: t("locked"), aria: { label: t("locked") } }, icon("lock"))] : []),
        iconButton(object.hidden ? "hidden" : "eye", t(object.hidden ? "show" : "hide"), () => on.hide(object.id)),
        iconButton("edit", t("edit"), () => on.edit(object.id)),
        iconButton("delete", t("delete"), () => on.remove(object.id)),
      );
      row.addEventListener("pointerdown", ({ target, shiftKey, ctrlKey, metaKey }) => {
        const isName = target.closest(".pick") !== null; // the buttons are about this one object
        if (isName || !row.classList.contains("on")) on.select(object.id, isName && (shiftKey || ctrlKey || metaKey));
      });
      return row;
    }),
  );
  for (const row of list.children) row.classList.toggle("on", selection.includes(row.dataset.id) || row.dataset.id === editing);
}

/** What an object that was finished early shows while it has no mask. */
function maskState({ pending, trouble }) {
  if (pending) return [make("span", { className: "spinner", role: "img", title: t("pendingMask"), aria: { label: t("pendingMask") } })];
  if (trouble === undefined) return [];
  const why = trouble ? sentenceOf(trouble) : t("emptyMask");
  return [make("span", { className: "no-mask", role: "img", title: why, aria: { label: why } }, "!")];
}
