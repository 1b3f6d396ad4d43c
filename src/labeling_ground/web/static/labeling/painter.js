// Draws the image, the masks and the prompt. Masks are drawn as outlines of their pixels, crisp at any zoom.

import { thinned, trace } from "../shared/outline.js";
import { drawDot, drawHand, drawLabel } from "./overlay.js";
import { toScreen } from "./view.js";

const GROUND = "#0f1218"; // the page's own
const shapes = new WeakMap(); // rle → {rings, paths by level}

/** The path of a mask, in image pixels, as exact as this scale can show. */
function pathOf(rle, scale) {
  let shape = shapes.get(rle);
  if (!shape) shapes.set(rle, (shape = { rings: trace(rle), paths: new Map() }));
  const level = Math.max(0, Math.floor(Math.log2(1 / scale)));
  let path = shape.paths.get(level);
  if (!path) {
    path = new Path2D();
    for (const ring of shape.rings) {
      const corners = thinned(ring, level === 0 ? 0 : 2 ** level);
      path.moveTo(corners[0], corners[1]);
      for (let i = 2; i < corners.length; i += 2) path.lineTo(corners[i], corners[i + 1]);
      path.closePath();
    }
    shape.paths.set(level, path);
  }
  return path;
}

/** A decoded image and its halves: drawing a large one small from all of its pixels would be slow and would flicker. */
export class Picture {
  #levels = [];

  static async of(blob) {
    const picture = new Picture();
    picture.#levels.push(await createImageBitmap(blob));
    return picture;
  }

  get width() {
    return this.#levels[0].width;
  }

  get height() {
    return this.#levels[0].height;
  }

  async addHalves() {
    for (let last = this.#levels[0]; last.width * last.height > 1e6; last = this.#levels.at(-1)) {
      const size = { resizeWidth: last.width >> 1, resizeHeight: last.height >> 1, resizeQuality: "medium" };
      this.#levels.push(await createImageBitmap(last, size));
    }
  }

  at(scale) {
    let found = this.#levels[0];
    for (const level of this.#levels) if (level.width >= this.width * scale) found = level;
    return found;
  }

  close() {
    for (const level of this.#levels) level.close();
  }
}

function scaled(context, level, picture, view, ratio) {
  context.fillStyle = GROUND;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
  context.imageSmoothingEnabled = view.scale * ratio < 3; // pixels are to be seen as pixels
  context.drawImage(level, 0, 0, picture.width, picture.height);
}

export class Painter {
  #frame = 0;
  #scene;
  #seen = []; // what the image was drawn by the last time
  #still = null; // the scaled image, if it lies still

  /** `scene()` says what to draw at the moment of drawing. */
  constructor(canvas, scene) {
    this.canvas = canvas;
    this.#scene = scene;
    this.context = canvas.getContext("2d", { alpha: false });
  }

  /** Draw with the next frame. */
  ask() {
    this.#frame ||= requestAnimationFrame(() => this.now());
  }

  /** Draw at once, for what somebody waits for: the browser shows it with its next frame. */
  now() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#draw(this.#scene());
  }

  #draw(scene) {
    const { canvas, context } = this;
    const ratio = devicePixelRatio;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(1, 0, 0, 1, 0, 0);
    if (!scene.picture) {
      this.#seen = [];
      this.#still = null;
      context.fillStyle = GROUND;
      context.fillRect(0, 0, width, height);
      return;
    }
    const { view, picture } = scene;
    this.#image(picture, view, ratio);
    context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    for (const mask of scene.masks) this.#mask(mask, view.scale);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const box of scene.boxes) this.#box(box, view, scene.colour);
    for (const point of scene.points) this.#point(toScreen(view, { x: point.x + 0.5, y: point.y + 0.5 }), point.label);
    for (const dot of scene.dots) drawDot(context, dot, view);
    for (const label of scene.labels) drawLabel(context, label, view);
    drawHand(context, scene.hand, view, scene.colour);
    if (scene.cross) this.#cross(toScreen(view, { x: scene.cross.x + 0.5, y: scene.cross.y + 0.5 }));
  }

  // Scaling the image is most of the work. While it lies still, as between two clicks, it is scaled once.
  #image(picture, view, ratio) {
    const { canvas, context } = this;
    const level = picture.at(view.scale * ratio);
    const same = [level, view.scale, view.x, view.y, ratio, canvas.width, canvas.height];
    const lies = this.#seen.length > 0 && same.every((value, i) => value === this.#seen[i]);
    this.#seen = same;
    if (!lies) this.#still = null;
    if (lies && !this.#still) {
      this.#still = new OffscreenCanvas(canvas.width, canvas.height);
      scaled(this.#still.getContext("2d", { alpha: false }), level, picture, view, ratio);
    }
    if (this.#still) context.drawImage(this.#still, 0, 0);
    else scaled(context, level, picture, view, ratio);
  }

  #mask({ rle, colour, opacity, strong, dashed }, scale) {
    const { context } = this;
    const path = pathOf(rle, scale * devicePixelRatio);
    context.globalAlpha = opacity;
    context.fillStyle = colour;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
    if (strong) {
      context.lineWidth = 4 / scale;
      context.strokeStyle = "#0009";
      context.stroke(path);
    }
    context.lineWidth = (strong ? 2 : 1.25) / scale;
    context.strokeStyle = strong ? "#fff" : colour;
    context.setLineDash(dashed ? [5 / scale, 4 / scale] : []);
    context.stroke(path);
    context.setLineDash([]);
  }

  #box([x0, y0, x1, y1], view, colour) {
    const { context } = this;
    const from = toScreen(view, { x: x0, y: y0 }), to = toScreen(view, { x: x1, y: y1 });
    for (const [style, dash] of [["#000b", []], [colour, [6, 4]]]) {
      context.lineWidth = dash.length ? 2 : 4;
      context.strokeStyle = style;
      context.setLineDash(dash);
      context.strokeRect(from.x, from.y, to.x - from.x, to.y - from.y);
    }
    context.setLineDash([]);
  }

  // A plus and a minus: colour alone would not tell everybody.
  #point({ x, y }, label) {
    const { context } = this;
    context.beginPath();
    context.arc(x, y, 8, 0, 2 * Math.PI);
    context.fillStyle = label ? "#0f9d63" : "#d93a3f";
    context.fill();
    context.lineWidth = 2;
    context.strokeStyle = "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(x - 4, y);
    context.lineTo(x + 4, y);
    if (label) {
      context.moveTo(x, y - 4);
      context.lineTo(x, y + 4);
    }
    context.stroke();
  }

  #cross({ x, y }) {
    const { context } = this;
    for (const [width, style] of [[4, "#000c"], [1.5, "#fff"]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx, y + 4 * dy);
        context.lineTo(x + 16 * dx, y + 16 * dy);
      }
      context.stroke();
    }
  }
}
