// Fixing masks by hand: with brush, eraser, lasso and polygon, and as a whole. What is fixed is the object in the making, else
// the selected one; where there is neither, an object is begun. Each fix is a step that undo takes back.

import { cornerAt, ringsOf, sideAt, withCorner, withoutCorner } from "./corners.js";
import { CornerDrag, Lasso, PointDrag, Stroke } from "./drags.js";
import { filled } from "../shared/shapes.js";
import { smoothed, withoutHoles, withoutIslands } from "../shared/mend.js";
import { areaOf, rleOf, spansOf, united } from "../shared/spans.js";
import { t } from "../shared/words.js";
import * as views from "./view.js";
import * as works from "./work.js";

const TOOLS = ["brush", "eraser", "lasso", "scissors", "polygon"];
const REACH = 9; // CSS pixels around a corner or a click within which one takes hold of it
const SMOOTH = 3; // pixels of the outline to either side
export const LARGEST = 400; // pixels across

export class Handwork {
  drag = null;
  draft = null; // the corners of a polygon that is not closed yet
  pointer = null; // where the pointer is, in pixels of the image
  lastEnd = null; // where the last stroke ended

  /** `choices` has the `brush`, pixels across, and `least`, the area of islands that stay; `tool()` is the tool in hand. */
  constructor({ editor, choices, choose, tool, tell }) {
    Object.assign(this, { editor, choices, choose, tool, tell });
  }

  /** Whether a tool is in hand that draws on masks. */
  get isDrawing() {
    return TOOLS.includes(this.tool());
  }

  get #isBrush() {
    return ["brush", "eraser"].includes(this.tool());
  }

  /** What is fixed, `{id, rle, rings}`, `id` being that of a finished object; `null`, and why is told, where that cannot be. */
  #target() {
    const { work, selected } = this.editor;
    if (works.hasPrompt(work)) {
      const mask = works.chosen(work);
      if (!mask) this.tell(t("handWaits"));
      return mask && { id: null, ...mask };
    }
    const object = work.objects.find(({ id }) => id === selected);
    if (!object) return { id: null, rle: null };
    if (!object.pending && !object.locked && object.kind !== "point") return object;
    this.tell(t(object.pending ? "handWaits" : "handLocked"));
    return null;
  }

  /** Whether there is a mask that can be fixed as a whole. */
  get hasTarget() {
    const { work, selected } = this.editor;
    return Boolean(works.chosen(work) ?? (!works.hasPrompt(work) && work.objects.find(({ id }) => id === selected)?.rle));
  }

  /** Put what `change(spans, size)` makes of the mask in its place; `rings` are its corners where it is a polygon. */
  apply(change, rings = null) {
    const { image } = this.editor;
    const target = image && this.#target();
    if (!target) return;
    const size = [image.height, image.width];
    const spans = change(target.rle ? spansOf(target.rle) : [], size);
    const area = areaOf(spans);
    const rle = rleOf(spans, size);
    if (rle.counts === target.rle?.counts) return;
    if (area === 0) this.tell(t("emptyMask"));
    else this.editor.reshape(target.id, { rle, area, ...(rings && { rings }) });
  }

  /** Put what is inside rings in the mask's place. */
  reshape(rings) {
    this.apply((_, size) => filled(rings, size), rings);
  }

  fillHoles() {
    this.apply(withoutHoles);
  }

  dropIslands() {
    this.apply((spans, size) => withoutIslands(spans, size, this.choices.least));
  }

  smooth() {
    this.apply((spans, size) => smoothed(spans, size, SMOOTH));
  }

  /** Make the brush `steps` larger, or smaller. Whether there is one in hand. */
  resize(steps) {
    if (!this.#isBrush) return false;
    const across = Math.round(this.choices.brush * 1.2 ** steps);
    this.choose({ brush: Math.min(LARGEST, Math.max(1, across === this.choices.brush ? across + Math.sign(steps) : across)) });
    this.editor.changed();
    return true;
  }

  // --- between pressing and letting go ---------------------------------------------------------------------------------

  /**
   * Something is pressed at a place of the canvas; `held` says which keys are, and whether it is the other button. Whether
   * it is taken hold of here: then `move` and `end`, or `cancel`, follow.
   */
  begin(screen, held) {
    const { editor } = this;
    if (!editor.picture) return false;
    const at = editor.placeAt(screen);
    const reach = (held.isTouch ? 2 : 1) * (REACH / editor.view.scale);
    if (this.isDrawing) this.drag = this.#began(at, held, reach);
    else if (this.tool() === "pan") return false;
    else this.drag = this.#pointDrag(at, held, reach);
    editor.redraw();
    return this.isDrawing || this.drag !== null;
  }

  #began(at, { isOther, shift }, reach) {
    const tool = this.tool();
    const erases = isOther !== (tool === "eraser" || tool === "scissors");
    if (tool === "polygon") return this.#polygon(at, isOther, reach);
    if (!this.#target()) return null;
    if (!this.#isBrush) return new Lasso(this, at, { erases });
    return new Stroke(this, at, { erases, radius: this.choices.brush / 2, from: shift ? this.lastEnd : null });
  }

  #polygon(at, isOther, reach) {
    const { draft } = this;
    if (draft) {
      const isAt = (x, y) => Math.hypot(x - at.x, y - at.y) <= reach;
      if (draft.length >= 6 && (isAt(draft[0], draft[1]) || isAt(...draft.slice(-2)))) this.close(); // a double click ends at the last one
      else if (!isAt(...draft.slice(-2))) draft.push(at.x, at.y);
      return null;
    }
    const target = this.#target();
    if (!target) return null;
    const rings = ringsOf(target);
    const corner = cornerAt(rings, at, reach);
    if (corner && isOther) this.reshape(withoutCorner(rings, corner));
    if (corner) return isOther ? null : new CornerDrag(this, rings, corner);
    const side = sideAt(rings, at, reach);
    if (side) return new CornerDrag(this, withCorner(rings, side, at), side, { isMoved: true });
    this.draft = [at.x, at.y];
    return null;
  }

  #pointDrag(at, { isOther }, reach) {
    const index = this.#pointAt(at, reach);
    if (index < 0) return null;
    const drag = new PointDrag(this.editor, index);
    if (!isOther) return drag;
    drag.press();
    return { move() {}, end() {}, seen: {} };
  }

  #pointAt(at, reach) {
    return this.editor.work.points.findLastIndex(({ x, y }) => Math.hypot(x + 0.5 - at.x, y + 0.5 - at.y) <= reach);
  }

  move(screen, held) {
    this.pointer = this.editor.placeAt(screen);
    this.drag?.move(this.pointer, held);
    this.editor.redraw();
  }

  end() {
    const { drag } = this;
    this.drag = null;
    drag?.end();
    this.editor.redraw();
  }

  cancel() {
    this.drag = null;
    this.editor.redraw();
  }

  /** Held still for long, on a touch screen. */
  press() {
    const { drag } = this;
    if (!drag?.press || drag.pixel) return;
    this.drag = { move() {}, end() {}, seen: {} };
    drag.press();
  }

  /** The pointer passes over the canvas, or leaves it. */
  hover(screen) {
    this.pointer = screen && this.editor.picture ? this.editor.placeAt(screen) : null;
    if (this.isDrawing) this.editor.redraw();
  }

  // --- keys ------------------------------------------------------------------------------------------------------------

  /** Close the polygon that is being drawn: it is added to the mask. Whether there was one. */
  close() {
    const { draft } = this;
    this.draft = null;
    if (!draft) return false;
    const { work, selected } = this.editor;
    const isNew = !works.hasPrompt(work) && !selected;
    if (draft.length >= 6) this.apply((spans, size) => united(spans, filled([draft], size)), isNew ? [draft] : null);
    this.editor.redraw();
    return true;
  }

  /** Give up the polygon that is being drawn, or what is being dragged. Whether there was anything. */
  giveUp() {
    const had = this.draft !== null || this.drag !== null;
    this.draft = this.drag = null;
    this.editor.redraw();
    return had;
  }

  /** Take the last corner of the polygon that is being drawn back. Whether there is one. */
  takeBack() {
    if (!this.draft) return false;
    this.draft = this.draft.length > 2 ? this.draft.slice(0, -2) : null;
    this.editor.redraw();
    return true;
  }

  /** Remove the click, or the corner, under the pointer or the keyboard's cross. Whether there is one. */
  removeHere() {
    const { editor } = this;
    const at = editor.cross ? { x: editor.cross.x + 0.5, y: editor.cross.y + 0.5 } : this.pointer;
    if (!at || !editor.picture) return false;
    const reach = REACH / editor.view.scale;
    if (this.tool() === "polygon") {
      const target = this.hasTarget ? this.#target() : null;
      const corner = target && cornerAt(ringsOf(target), at, reach);
      if (corner) this.reshape(withoutCorner(ringsOf(target), corner));
      return Boolean(corner);
    }
    const index = this.#pointAt(at, reach);
    if (index >= 0) editor.removePoint(index);
    return index >= 0;
  }

  /** What is to be seen of it, for the scene: nothing of it is in the mask yet. */
  get seen() {
    const { pointer, draft } = this;
    const seen = { ...this.drag?.seen };
    if (this.#isBrush && pointer) seen.circle = { ...pointer, radius: this.choices.brush / 2 };
    if (this.tool() === "polygon") {
      if (draft) seen.draft = pointer ? [...draft, pointer.x, pointer.y] : draft;
      else if (!seen.rings && this.hasTarget) seen.rings = ringsOf(this.#seenTarget());
    }
    return seen;
  }

  #seenTarget() {
    const { work, selected } = this.editor;
    return works.chosen(work) ?? work.objects.find(({ id }) => id === selected);
  }
}
