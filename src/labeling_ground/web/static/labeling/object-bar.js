// The bar of what can be done with the selected objects, and how objects are shown.

import { drawValues } from "./attributes.js";
import { t } from "../shared/words.js";

const $ = (id) => document.getElementById(id);

/** Connect the bar's buttons, and the choices of how objects are shown, with the page. */
export function connectObjects(page) {
  const { selection } = page;
  const commands = {
    merge: () => selection.merge(),
    subtract: () => selection.subtract(),
    duplicate: () => selection.duplicate(),
    "copy-on": () => selection.copyOn(),
    raise: () => selection.raise(1),
    lower: () => selection.raise(-1),
    lock: () => selection.lock(),
  };
  for (const [id, run] of Object.entries(commands)) $(id).addEventListener("click", run);
  const look = (id, change) => $(id).addEventListener("change", () => {
    page.choose(change());
    page.draw();
  });
  look("colours", () => ({ colours: $("colours").value }));
  look("outline", () => ({ outline: $("outline").checked }));
  look("labels", () => ({ labels: $("labels").checked }));
}

/** Draw the bar, where something is selected. */
export function drawObjectBar(page) {
  const { objects } = page.selection;
  const masks = objects.filter(({ rle }) => rle).length;
  $("object-bar").hidden = objects.length === 0;
  $("selected-count").textContent = objects.length > 1 ? t("selectedCount", { n: objects.length }) : "";
  $("merge").disabled = $("subtract").disabled = masks < 2;
  $("copy-on").disabled = page.workflow.ahead.length === 0;
  $("lock").setAttribute("aria-pressed", String(objects.length > 0 && objects.every(({ locked }) => locked)));
  drawValues(page);
}
