// The keyboard, as one table: it drives the page and fills the help.

import { t } from "../shared/words.js";

/**
 * Rows of `[keys, word of the help or null, what is done(event)]`. A key is an `event.key`; `Mod+` is Control or
 * Command. `shown` is what the help writes instead of the keys.
 */
export function table(page) {
  const { editor } = page;
  const press = (id) => document.getElementById(id).click();
  const click = (label) => () => editor.cross && page.selection.click(editor.cross, page.tool === "minus" ? 0 : label, { isOther: label === 0 });
  const arrow = (dx, dy) => (event) => editor.moveCross(dx, dy, event.shiftKey);
  return [
    { keys: ["Enter", "n"], shown: ["Enter", "N"], help: "helpFinish", run: () => page.hand.close() || page.finish() },
    { keys: ["Escape"], help: "helpDiscard", shown: ["Esc"], run: () => page.discard() },
    { keys: ["Mod+z", "z"], shown: ["Ctrl Z", "Ctrl ⇧ Z"], help: "helpUndo", run: () => page.undo() },
    { keys: ["Mod+Z", "Mod+y", "Z"], run: () => editor.redo() },
    { keys: ["c"], shown: ["C", "⇧ C"], help: "helpCandidate", run: () => editor.candidate(1) },
    { keys: ["C"], run: () => editor.candidate(-1) },
    { keys: ["]"], shown: ["[", "]"], help: "helpBrushSize", run: () => page.hand.resize(1) || editor.candidate(1) },
    { keys: ["["], run: () => page.hand.resize(-1) || editor.candidate(-1) },
    { keys: [..."123456789"], shown: ["1 … 9"], help: "helpClass", run: (event) => page.pickClass(Number(keyOf(event)) - 1) },
    { keys: ["j"], shown: ["J", "K"], help: "helpObject", run: () => editor.selectNext(1) },
    { keys: ["k"], run: () => editor.selectNext(-1) },
    { keys: ["J"], shown: ["⇧ J", "⇧ K"], help: "helpOrder", run: () => page.selection.raise(1) },
    { keys: ["K"], run: () => page.selection.raise(-1) },
    { keys: ["m"], shown: ["M", "⇧ M"], help: "helpMerge", run: () => page.selection.merge() },
    { keys: ["M"], run: () => page.selection.subtract() },
    { keys: ["Mod+d"], shown: ["Ctrl D", "⇧ D"], help: "helpDuplicate", run: () => page.selection.duplicate() },
    { keys: ["D"], run: () => page.selection.copyOn() },
    { keys: ["Mod+a"], shown: ["Ctrl A", "⇧ H"], help: "helpLock", run: () => page.selection.all() },
    { keys: ["H"], run: () => page.selection.lock() },
    { keys: ["e"], shown: ["E", "H", "Del"], help: "helpEdit", run: () => editor.selected && editor.edit(editor.selected) },
    { keys: ["h"], run: () => page.selection.hide() },
    { keys: ["Delete", "Backspace"], run: () => page.remove() },
    { keys: ["F2"], shown: ["F2"], help: "helpRename", run: () => page.rename() },
    { keys: ["d", "PageDown"], shown: ["D", "A"], help: "helpImage", run: () => page.workflow.go(1) },
    { keys: ["a", "PageUp"], run: () => page.workflow.go(-1) },
    { keys: ["Mod+Enter"], shown: ["Ctrl Enter", "G"], help: "helpDone", run: () => page.workflow.markAndGo("done") },
    { keys: ["g"], run: () => page.workflow.markAndGo("nothing") },
    { keys: ["Mod+Delete", "Mod+Backspace"], shown: ["Ctrl Del"], help: "takeOff", run: () => page.removeImage() },
    { keys: ["q"], shown: ["Q", "W", "R", "T"], help: "helpTools", run: () => page.take("plus") },
    { keys: ["w"], run: () => page.take("minus") },
    { keys: ["r"], run: () => page.take("box") },
    { keys: ["t"], run: () => page.take("pan") },
    { keys: ["f"], shown: ["F", "⇧ F"], help: "helpBrush", run: () => page.take("brush") },
    { keys: ["F"], run: () => page.take("eraser") },
    { keys: ["l"], shown: ["L", "⇧ L", "Y"], help: "helpLasso", run: () => page.take("lasso") },
    { keys: ["L"], run: () => page.take("scissors") },
    { keys: ["y"], run: () => page.take("polygon") },
    { keys: ["i"], shown: ["I", "U"], help: "helpPlain", run: () => page.take("plain-box") },
    { keys: ["u"], run: () => page.take("point") },
    { keys: ["+", "="], shown: ["+", "−", "0"], help: "helpZoom", run: () => editor.zoom(1.25) },
    { keys: ["-", "_"], run: () => editor.zoom(0.8) },
    { keys: ["0"], run: () => editor.fit() },
    { keys: [","], shown: [",", "."], help: "helpOpacity", run: () => page.opacity(-10) },
    { keys: ["."], run: () => page.opacity(10) },
    { keys: ["v"], shown: ["V"], help: "helpMasks", run: () => page.toggleMasks() },
    { keys: ["p"], shown: ["P"], help: "helpHover", run: () => page.toggleHover() },
    { keys: ["ArrowLeft"], shown: ["← ↑ ↓ →"], help: "helpCross", onCanvas: true, run: arrow(-1, 0) },
    { keys: ["ArrowRight"], onCanvas: true, run: arrow(1, 0) },
    { keys: ["ArrowUp"], onCanvas: true, run: arrow(0, -1) },
    { keys: ["ArrowDown"], onCanvas: true, run: arrow(0, 1) },
    { keys: [" "], shown: ["Space", "X", "B"], help: "helpCrossClick", onCanvas: true, run: click(1) },
    { keys: ["x"], onCanvas: true, run: click(0) },
    { keys: ["b"], onCanvas: true, run: () => editor.cornerAtCross((box) => page.selection.box(box)) },
    { keys: ["o"], shown: ["O", "S"], help: "helpOpen", run: () => press("open") },
    { keys: ["s"], run: () => press("export") },
    { keys: ["Mod+s"], run: () => page.tell(page.storageTrouble ? t("notKept", { why: page.storageTrouble }) : t("isKept")) },
    { keys: ["?"], run: () => press("help") },
  ];
}

export function listen(rows, canvas) {
  const found = new Map(rows.flatMap((row) => row.keys.map((key) => [key, row])));
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.altKey || document.querySelector("dialog[open]")) return;
    const row = found.get(keyOf(event));
    if (!row || (row.onCanvas && document.activeElement !== canvas && document.activeElement !== document.body)) return;
    if (takesText(event.target)) return;
    if ((event.key === "Enter" || event.key === " ") && event.target.closest("button, a, select, input")) return;
    event.preventDefault();
    row.run(event);
  });
}

// What is printed on the keys beside the letters, where a layout has something else there: plain, and with Shift.
const SIGNS = { BracketLeft: "[{", BracketRight: "]}", Comma: ",<", Period: ".>", Slash: "/?", Minus: "-_", Equal: "=+" };
const SILENT = ["Process", "Unidentified", "Dead"]; // an input method has taken the key

/**
 * The key of an event, as the table names it. Letters are large with Shift only, whatever CapsLock says. Where a layout or an
 * input method types no Latin ones (C is ㅊ on a Korean keyboard) keys are told by their place, and digits where they need Shift.
 */
export function keyOf({ key, code, shiftKey, ctrlKey, metaKey }) {
  const isForeign = SILENT.includes(key) || (/^\p{L}$/u.test(key) && !/[a-z]/i.test(key));
  const isDigit = /^Digit\d$/.test(code) && !shiftKey && !/^\d$/.test(key);
  const name = isForeign || isDigit ? placed(code, shiftKey) ?? key : key;
  const cased = /^[a-z]$/i.test(name) ? name[shiftKey ? "toUpperCase" : "toLowerCase"]() : name;
  return ctrlKey || metaKey ? `Mod+${cased}` : cased;
}

/** What the key at a place types on a plain Latin keyboard. */
function placed(code, shiftKey) {
  if (/^(Key|Digit)\w$/.test(code)) return code.at(-1);
  return SIGNS[code]?.[shiftKey ? 1 : 0];
}

function takesText(target) {
  return target.matches("textarea, select, input:not([type=checkbox], [type=radio], [type=range], [type=color])");
}
