// What a hand does to a mask between pressing and letting go: each has `move(at, held)` and `end()`, and says what is to be
// seen of it meanwhile. Places are in pixels of the image.

import { filled, stroke } from "../shared/shapes.js";
import { united, without } from "../shared/spans.js";
import { withCornerMoved } from "./corners.js";

const NEAR = 1 / 4; // of the brush's radius: places nearer to the one before add nothing to be seen

/** A stroke of the brush or the eraser; with Shift it is a straight line, from the end of the stroke before where that was held at its start. */
export class Stroke {
  constructor(hand, at, { erases, radius, from = null }) {
    Object.assign(this, { hand, erases, radius });
    this.points = from ? [from, at] : [at];
  }

  move(at, { shift }) {
    const last = this.points.at(-1);
    if (shift) this.points = [this.points[0], at];
    else if (Math.hypot(at.x - last.x, at.y - last.y) >= Math.max(0.5, this.radius * NEAR)) this.points.push(at);
    this.last = at;
  }

  end() {
    if (this.last) this.points.push(this.last);
    this.hand.lastEnd = this.points.at(-1);
    const combine = this.erases ? without : united;
    this.hand.apply((spans, size) => combine(spans, stroke(this.points, this.radius, size)));
  }

  get seen() {
    return { path: this.points, radius: this.radius, erases: this.erases };
  }
}

/** A line around what is to be added, or cut off. */
export class Lasso {
  constructor(hand, at, { erases }) {
    Object.assign(this, { hand, erases, points: [at] });
  }

  move(at) {
    this.points.push(at);
  }

  end() {
    const combine = this.erases ? without : united;
    const ring = this.points.flatMap(({ x, y }) => [x, y]);
    this.hand.apply((spans, size) => combine(spans, filled([ring], size)));
  }

  get seen() {
    return { lasso: this.points, erases: this.erases };
  }
}

/** A corner of an outline that is dragged. `isMoved`: whether it counts although it is let go where it was taken. */
export class CornerDrag {
  constructor(hand, rings, corner, { isMoved = false } = {}) {
    Object.assign(this, { hand, rings, corner, isMoved });
  }

  move(at) {
    this.isMoved = true;
    this.rings = withCornerMoved(this.rings, this.corner, at);
  }

  end() {
    if (this.isMoved) this.hand.reshape(this.rings);
  }

  get seen() {
    return { rings: this.rings, corner: this.corner };
  }
}

/** A click that is dragged to another pixel. `press()`: held still for long, it is removed, as there is no other button on a touch screen. */
export class PointDrag {
  constructor(editor, index) {
    Object.assign(this, { editor, index, pixel: null });
  }

  move(at) {
    const { width, height } = this.editor.image;
    const clamp = (value, many) => Math.min(many - 1, Math.max(0, Math.floor(value)));
    this.pixel = { x: clamp(at.x, width), y: clamp(at.y, height) };
  }

  end() {
    if (this.pixel) this.editor.movePoint(this.index, this.pixel);
  }

  press() {
    this.editor.removePoint(this.index);
  }

  get seen() {
    return { moved: this.pixel && { index: this.index, pixel: this.pixel } };
  }
}
