// The commands for the selected objects, and what a click on the picture selects.

import { boxed } from "../shared/shapes.js";
import { areaOf, rleOf } from "../shared/spans.js";
import { t } from "../shared/words.js";
import { copies, duplicated, merged, nextAt, objectsAt, plainLabel, raised, subtracted, twinOf } from "./objects.js";
import * as works from "./work.js";

const REACH = 9; // CSS pixels around a point label

export class Selection {
  /** `page` has the `editor`, the `album`, the `workflow`, the `storage`, and tells. */
  constructor(page) {
    this.page = page;
  }

  get #editor() {
    return this.page.editor;
  }

  get #ids() {
    return this.#editor.selection;
  }

  /** The selected objects, in the order in which they were selected. */
  get objects() {
    return this.#ids.map((id) => this.#editor.work.objects.find((one) => one.id === id));
  }

  /** The objects that a click on a pixel would select, the topmost first; none while an object is in the making. */
  at(pixel) {
    const { work, masksShown, view } = this.#editor;
    return masksShown && !works.hasPrompt(work) ? objectsAt(work, pixel, REACH / view.scale) : [];
  }

  /** A click, by mouse, finger or key: it picks among what was found; else, on an object it selects, on one that is selected the one below; elsewhere, and with Alt or the other button on an object, it is one on the picture. */
  click(pixel, label, { shift, isOther }) {
    const editor = this.#editor;
    if (this.page.found.isOpen) return this.page.found.pick(pixel, label);
    if (this.page.tool === "point") return this.#add({ kind: "point", points: [{ ...pixel, label: 1 }] });
    const found = this.page.tool === "minus" ? [] : this.at(pixel);
    if (found.length === 0) return editor.click(pixel, label);
    if (isOther) return editor.click(pixel, 1);
    return editor.select(shift ? found[0].id : nextAt(found, editor.selected), shift);
  }

  /** A box was drawn: around what was found, to pick it; else a prompt, or with the tool for that a label by itself. */
  box(box) {
    const editor = this.#editor, { found, tool } = this.page;
    if (!box || (tool !== "plain-box" && !found.isOpen)) return editor.box(box);
    editor.box(null);
    if (found.isOpen) return found.pickAll(box);
    const size = [editor.image.height, editor.image.width], spans = boxed(box, size);
    return this.#add({ kind: "box", box, mask: { rle: rleOf(spans, size), area: areaOf(spans) } });
  }

  #add(label) {
    const object = plainLabel({ ...label, classId: this.page.choices.classId });
    this.#editor.apply((work) => ({ ...work, objects: [...work.objects, object] }));
    this.#editor.select(object.id);
    this.warn(this.#editor.work, object.id);
  }

  /** Select all objects that are not hidden. */
  all() {
    this.#editor.select(null);
    for (const { id, hidden } of this.#editor.work.objects) if (!hidden) this.#editor.select(id, true);
  }

  merge() {
    this.#combine(merged);
  }

  /** Take off the first selected object what the others cover. */
  subtract() {
    this.#combine(subtracted);
  }

  #combine(combine) {
    const ids = this.#unlocked();
    if (!ids) return;
    this.#editor.apply((work) => combine(work, ids));
    this.#editor.select(ids[0]);
  }

  /** The selected ids, or `null`, and that is told, where one of them is locked. */
  #unlocked() {
    if (!this.objects.some(({ locked }) => locked)) return this.#ids;
    this.page.tell(t("isLocked"));
    return null;
  }

  duplicate() {
    let made = [];
    this.#editor.apply((work) => {
      const next = duplicated(work, this.#ids);
      made = next.ids;
      return made.length ? next.work : work;
    });
    for (const [i, id] of made.entries()) this.#editor.select(id, i > 0);
  }

  /** Copy the selected objects to the next image that is shown, where that has the same size. */
  async copyOn() {
    const { workflow, storage, tell } = this.page;
    const { image } = this.#editor;
    const [next] = workflow.ahead;
    const made = copies(this.objects);
    if (!next || made.length === 0) return;
    if (next.width !== image.width || next.height !== image.height) {
      tell.call(this.page, t("otherSize", { name: next.names[0] }));
      return;
    }
    const saved = await storage.get("work", next.id).catch(() => null);
    this.#editor.receive(next, saved, made);
    tell.call(this.page, t("copiedOn", { n: made.length, name: next.names[0] }));
  }

  raise(step) {
    this.#editor.apply((work) => raised(work, this.#ids, step));
  }

  /** Lock the selected objects against every change but this one, or unlock them where all are locked. */
  lock() {
    const locked = !this.objects.every((one) => one.locked);
    this.#change(() => ({ locked }));
  }

  hide() {
    for (const id of [...this.#ids]) this.#editor.hide(id);
  }

  remove() {
    const ids = this.#unlocked();
    if (ids?.length) this.#editor.apply((work) => ids.reduce(works.without, work));
  }

  /** Change one object, selected or not. */
  change(id, change) {
    const isLocked = this.#editor.work.objects.find((one) => one.id === id)?.locked;
    if (isLocked) this.page.tell(t("isLocked"));
    else this.#editor.change(id, change);
    this.page.draw();
  }

  /** Give the selected objects a class. */
  classify(classId) {
    if (this.#unlocked()) this.#change(() => ({ classId }));
  }

  /** Give the selected objects a value of one of their attributes; an empty one takes it away. */
  describe(name, value) {
    this.#change(({ attributes: { [name]: _, ...others } = {} }) => ({ attributes: value === "" ? others : { ...others, [name]: value } }));
  }

  #change(change) {
    this.#editor.apply((work) => this.objects.reduce((now, object) => works.changed(now, object.id, change(object)), work));
  }

  /** Say that an object covers nearly the same as another one. */
  warn(work, id) {
    const twin = twinOf(work, id);
    if (twin) this.page.tell(t("twin", { name: works.shownName(twin, work.objects, this.page.choices.classes) }));
  }
}
