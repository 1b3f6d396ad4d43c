// Connects what can be pressed, dropped and drawn on the page with what it does.

import { namesIn } from "./classes.js";
import { filesOf } from "./files.js";
import { watch } from "./gestures.js";
import { LARGEST } from "./handwork.js";
import { listen, table } from "./keys.js";
import { connectStrip } from "./strip.js";
import { connectObjects } from "./object-bar.js";
import { notes } from "../shared/storage.js";

const $ = (id) => document.getElementById(id);

/** Connect buttons, fields, keys and the canvas to the page. */
export function connect(page) {
  const { editor, canvas } = page;
  const click = (id, run) => $(id).addEventListener("click", run);
  const files = (id) => $(id).addEventListener("change", async () => {
    const chosen = [...$(id).files];
    $(id).value = "";
    await page.receive(chosen);
  });
  files("files");
  files("folder-files");
  for (const id of ["open", "welcome-open"]) click(id, () => $("files").click());
  for (const id of ["open-folder", "welcome-folder"]) click(id, () => $("folder-files").click());
  click("previous", () => page.workflow.go(-1));
  click("next", () => page.workflow.go(1));
  connectStrip(page);
  click("remove-image", () => page.removeImage());
  click("undo", () => page.undo());
  click("redo", () => editor.redo());
  click("zoom-in", () => editor.zoom(1.25));
  click("zoom-out", () => editor.zoom(0.8));
  click("zoom-fit", () => editor.fit());
  click("candidate-previous", () => editor.candidate(-1));
  click("candidate-next", () => editor.candidate(1));
  click("discard", () => page.discard());
  click("finish", () => page.finish());
  click("help", () => $("help-dialog").showModal());
  click("export", () => page.exporting.open());
  click("panel-switch", () => {
    const open = $("panel").classList.toggle("open");
    $("panel-switch").setAttribute("aria-expanded", String(open));
  });
  for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => page.take(button.dataset.tool));
  document.addEventListener("click", (event) => {
    // After a click by mouse the keys go on with the image: Enter finishes, and does not press that button again.
    const pressed = event.detail > 0 && event.target.closest("#tools button, #bars button, #object-bar button, #where button, #strip button, .pick");
    if (pressed && !document.querySelector("dialog[open]")) canvas.focus({ preventScroll: true });
  });
  click("fill-holes", () => page.hand.fillHoles());
  click("drop-islands", () => page.hand.dropIslands());
  click("smooth", () => page.hand.smooth());
  $("brush").addEventListener("input", () => {
    page.choose({ brush: Math.round(LARGEST ** ($("brush").value / 100)) });
    page.draw();
  });
  $("least").addEventListener("change", () => page.choose({ least: Math.max(1, Math.round(Number($("least").value)) || 1) }));
  $("add-class").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = event.target.elements.namedItem("name");
    for (const name of namesIn(field.value)) page.addClass(name);
    field.value = "";
    canvas.focus({ preventScroll: true }); // the next keys are the page's, and no second name
  });
  $("add-class").elements.namedItem("name").addEventListener("paste", (event) => {
    const names = namesIn(event.clipboardData.getData("text"));
    if (names.length < 2) return;
    event.preventDefault(); // a field would run the lines together
    event.target.setRangeText(names.join(", "), event.target.selectionStart, event.target.selectionEnd, "end");
  });
  $("opacity").addEventListener("input", () => page.opacity(Number($("opacity").value) - page.choices.opacity));
  $("hover").addEventListener("change", () => page.toggleHover());
  $("prepare").addEventListener("change", () => {
    page.choose({ prepare: $("prepare").checked });
    page.prepare();
  });
  $("stretch").addEventListener("change", () => page.stretch($("stretch").checked));
  $("model-id").addEventListener("change", () => page.useModel($("model-id").value));
  $("decode-here").addEventListener("change", () => {
    page.choose({ decodeHere: $("decode-here").checked });
    page.decoder.turn(page.choices.decodeHere);
  });
  connectObjects(page);
  document.addEventListener("change", ({ target }) => {
    // A chosen entry is done with: the keys go on with the image, and choose no other entry.
    if (target.matches("select") && !document.querySelector("dialog[open]")) canvas.focus({ preventScroll: true });
  });
  $("language").addEventListener("change", () => {
    page.choose({ language: $("language").value });
    notes.set("language", page.choices.language);
    page.speak();
    page.draw();
  });
  makeRoom();
  watchFiles((files) => page.receive(files));
  const { hand } = page;
  const gestures = watch(canvas, () => page.tool, {
    hand,
    click: (at, label, held) => {
      const pixel = editor.pixelAt(at);
      editor.cross = null;
      if (pixel) page.selection.click(pixel, label, held);
    },
    boxing: (a, b) => {
      editor.boxing = a && editor.boxBetween(a, b);
      editor.redraw();
    },
    box: (a, b) => page.selection.box(editor.boxBetween(a, b)),
    pan: (dx, dy) => editor.pan(dx, dy),
    zoom: (at, factor) => editor.zoom(factor, at),
    hover: (at) => {
      hand.hover(at);
      const pixel = at && !hand.isDrawing ? editor.pixelAt(at) : null;
      const isObject = pixel !== null && page.selection.at(pixel).length > 0;
      canvas.classList.toggle("picks", isObject);
      editor.hover(isObject ? null : pixel);
    },
  });
  page.rows = table(page);
  listen(page.rows, canvas);
  for (const [kind, down] of [["keydown", true], ["keyup", false]]) {
    document.addEventListener(kind, (event) => event.key === " " && gestures.space(down));
  }
  addEventListener("blur", () => gestures.space(false));
  let size = null;
  new ResizeObserver(() => {
    const now = `${canvas.clientWidth} ${canvas.clientHeight}`;
    if (size !== now) editor.resized();
    size = now;
  }).observe(canvas);
}

/** In a narrow window, or a zoomed one, the panel has what the header has no room for. */
function makeRoom() {
  const narrow = matchMedia("(max-width: 760px)");
  const moving = [...document.querySelectorAll(".to-panel")].map((element) => ({ element, parent: element.parentElement, next: element.nextElementSibling }));
  const move = () => {
    for (const { element, parent, next } of moving.toReversed()) {
      if (narrow.matches) $("more").prepend(element);
      else parent.insertBefore(element, next);
    }
  };
  narrow.addEventListener("change", move);
  move();
}

/** Take files that are dropped or pasted. */
function watchFiles(add) {
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    $("drop").hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").hidden = true;
  });
  document.addEventListener("drop", async (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    $("drop").hidden = true;
    await add(await filesOf(event.dataTransfer));
  });
  document.addEventListener("paste", async (event) => {
    if (event.clipboardData.files.length) await add([...event.clipboardData.files]);
  });
}
