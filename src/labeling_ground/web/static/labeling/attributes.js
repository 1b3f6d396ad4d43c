// The attributes of a class: which there are, in a dialog; and their values of the selected object, in the panel.

import { icon, make, unlessDrawn } from "../shared/elements.js";
import { t } from "../shared/words.js";

const KINDS = ["text", "number", "choice"];
const $ = (id) => document.getElementById(id);

/** Attributes as they may be kept: with a name each that no other one has, and a choice with two entries at least. */
export function tidied(attributes) {
  const seen = new Set();
  return attributes
    .map(({ name, kind, options = [] }) => ({ name: name.trim(), kind, options: [...new Set(options.map((one) => one.trim()).filter(Boolean))] }))
    .filter(({ name, kind, options }) => {
      const isKept = name && !seen.has(name) && (kind !== "choice" || options.length > 1);
      seen.add(name);
      return isKept;
    })
    .map(({ name, kind, options }) => (kind === "choice" ? { name, kind, options } : { name, kind }));
}

/** Let somebody say which attributes a class has. */
export function openAttributes(page, classId) {
  const one = page.choices.classes.find(({ id }) => id === classId);
  $("attributes-title").textContent = t("attributesOf", one);
  const rows = (one.attributes ?? []).map(attributeRow);
  $("attributes").replaceChildren(...rows);
  $("add-attribute").onclick = () => {
    const row = attributeRow({ name: "", kind: "text" });
    $("attributes").append(row);
    row.querySelector("input").focus();
  };
  const dialog = $("attributes-dialog");
  dialog.onclose = () => page.changeClass(classId, { attributes: tidied([...$("attributes").children].map(read)) });
  dialog.showModal();
}

function attributeRow({ name, kind, options = [] }) {
  const field = (properties) => make("input", { type: "text", autocomplete: "off", maxLength: 400, ...properties });
  const choice = make("select", { aria: { label: t("attributeKind") } }, ...KINDS.map((one) => make("option", { value: one }, t(`attribute-${one}`))));
  choice.value = kind;
  const entries = field({ className: "options", value: options.join(", "), placeholder: t("attributeOptions"), aria: { label: t("attributeOptions") }, hidden: kind !== "choice" });
  choice.addEventListener("change", () => (entries.hidden = choice.value !== "choice"));
  const remove = make("button", { type: "button", className: "icon", title: t("delete"), aria: { label: t("delete") } }, icon("delete"));
  const row = make("li", {}, field({ className: "name", value: name, placeholder: t("attributeName"), aria: { label: t("attributeName") } }), choice, remove, entries);
  remove.addEventListener("click", () => row.remove());
  return row;
}

function read(row) {
  const value = (selector) => row.querySelector(selector).value;
  return { name: value(".name"), kind: value("select"), options: value(".options").split(",") };
}

/** Draw a field for each attribute of the selected objects' class, where they are of one. */
export function drawValues(page) {
  const { objects } = page.selection;
  const classIds = new Set(objects.map(({ classId }) => classId));
  const known = classIds.size === 1 ? page.choices.classes.find(({ id }) => classIds.has(id))?.attributes ?? [] : [];
  const valueOf = (name) => {
    const values = new Set(objects.map(({ attributes }) => attributes?.[name] ?? ""));
    return values.size === 1 ? [...values][0] : "";
  };
  const shown = known.map((one) => ({ ...one, value: valueOf(one.name) }));
  $("values").hidden = shown.length === 0;
  unlessDrawn($("values"), [objects.map(({ id }) => id), shown], () => shown.map((one) => {
    const field = fieldOf(one);
    field.value = one.value;
    field.addEventListener("change", () => page.selection.describe(one.name, one.kind === "number" && field.value !== "" ? Number(field.value) : field.value));
    field.addEventListener("keydown", (event) => event.key === "Enter" && !event.isComposing && field.blur());
    return make("label", {}, make("span", {}, one.name), field);
  }));
}

function fieldOf({ kind, options }) {
  if (kind === "choice") return make("select", {}, make("option", { value: "" }, "–"), ...options.map((one) => make("option", { value: one }, one)));
  return make("input", { type: kind === "number" ? "number" : "text", step: "any", autocomplete: "off" });
}
