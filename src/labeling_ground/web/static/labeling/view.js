// Where the image lies on the canvas: screen = image × scale + offset, in CSS pixels. Pure functions on plain values.

export const MOST = 40;

const MARGIN = 16, BELOW = 68; // CSS pixels; below there is room for the bar with «Finish»

/** The view that shows the whole image, in the middle, never larger than four times its size. */
export function fit(image, canvas) {
  const width = canvas.width - 2 * MARGIN, height = canvas.height - MARGIN - BELOW;
  const scale = Math.max(0.001, Math.min(width / image.width, height / image.height, 4));
  return {
    scale,
    x: MARGIN + (width - image.width * scale) / 2,
    y: MARGIN + (height - image.height * scale) / 2,
  };
}

/** Zoom by `factor` so that the image stays where it is under the screen point `at`. */
export function zoom(view, at, factor, image, canvas) {
  const least = Math.min(fit(image, canvas).scale, 1) / 2;
  const scale = Math.min(MOST, Math.max(least, view.scale * factor));
  const ratio = scale / view.scale;
  return kept({ scale, x: at.x - (at.x - view.x) * ratio, y: at.y - (at.y - view.y) * ratio }, image, canvas);
}

export function pan(view, dx, dy, image, canvas) {
  return kept({ ...view, x: view.x + dx, y: view.y + dy }, image, canvas);
}

// A part of the image always stays in sight.
function kept(view, image, canvas) {
  const seen = 48;
  const clamp = (value, size, room) => Math.min(room - seen, Math.max(seen - size * view.scale, value));
  return {
    scale: view.scale,
    x: clamp(view.x, image.width, canvas.width),
    y: clamp(view.y, image.height, canvas.height),
  };
}

export function toImage(view, at) {
  return { x: (at.x - view.x) / view.scale, y: (at.y - view.y) / view.scale };
}

export function toScreen(view, at) {
  return { x: at.x * view.scale + view.x, y: at.y * view.scale + view.y };
}

/** The pixel under a point of the image, or `null` outside of it. Whole pixels: two annotators' clicks meet more often. */
export function pixelAt(point, image) {
  const x = Math.floor(point.x), y = Math.floor(point.y);
  return x >= 0 && y >= 0 && x < image.width && y < image.height ? { x, y } : null;
}

/** The box between two points of the image, cut off at its edges, as `[x0, y0, x1, y1]`; `null` if nothing is left. */
export function boxBetween(a, b, image) {
  const clamp = (value, most) => Math.min(most, Math.max(0, Math.round(value)));
  const x0 = clamp(Math.min(a.x, b.x), image.width), x1 = clamp(Math.max(a.x, b.x), image.width);
  const y0 = clamp(Math.min(a.y, b.y), image.height), y1 = clamp(Math.max(a.y, b.y), image.height);
  return x1 - x0 >= 2 && y1 - y0 >= 2 ? [x0, y0, x1, y1] : null;
}
