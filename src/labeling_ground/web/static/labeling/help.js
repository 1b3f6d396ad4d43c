// What the help dialog says of the mouse and of the keys.

import { make } from "../shared/elements.js";
import { t } from "../shared/words.js";

const MOUSE = [["keyClick", "helpClick"], ["keyAlt", "helpAlt"], ["keyClickObject", "helpClickObject"], ["keyAltObject", "helpAltObject"],
  ["keyShiftObject", "helpShiftObject"], ["keyDrag", "helpBox"], ["keyWheel", "helpWheel"],
  ["keySpaceDrag", "helpPan"], ["keyPress", "helpAlt"], ["keyFingers", "helpFingers"]];

/** List them in the language that is spoken; `rows` are those of `keys.js`. */
export function drawHelp(rows) {
  const keys = rows.filter((row) => row.help).map((row) => helpRow(row.shown ?? row.keys, t(row.help)));
  document.getElementById("help-keys").replaceChildren(...MOUSE.map(([key, help]) => helpRow([t(key)], t(help))), ...keys);
}

function helpRow(keys, text) {
  const shown = keys.flatMap((key, i) => (i ? [" ", make("kbd", {}, key)] : [make("kbd", {}, key)]));
  return make("div", {}, make("span", {}, text), make("span", {}, ...shown));
}
