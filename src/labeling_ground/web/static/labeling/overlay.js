// Draws what a hand is at: the brush's circle, a stroke or a lasso on its way, the corners of an outline.

import { toScreen } from "./view.js";

const CORNER = 3.5; // CSS pixels, half a side

/** `seen` as `Handwork` says it; the context draws in CSS pixels. */
export function drawHand(context, { circle, path, radius, lasso, erases, rings, corner, draft }, view, colour) {
  const ink = erases ? "#ff5a5f" : colour;
  if (path) {
    context.globalAlpha = 0.55;
    line(context, path, view);
    Object.assign(context, { lineWidth: Math.max(1, 2 * radius * view.scale), lineCap: "round", lineJoin: "round", strokeStyle: ink });
    context.stroke();
    context.globalAlpha = 1;
    Object.assign(context, { lineCap: "butt", lineJoin: "miter" });
  }
  if (lasso) {
    line(context, lasso, view);
    context.closePath();
    context.globalAlpha = 0.25;
    context.fillStyle = ink;
    context.fill("evenodd");
    context.globalAlpha = 1;
    outlined(context, ink);
  }
  if (circle) {
    const { x, y } = toScreen(view, circle);
    context.beginPath();
    context.arc(x, y, Math.max(2, circle.radius * view.scale), 0, 2 * Math.PI);
    outlined(context, "#fff");
  }
  if (rings) for (const [i, ring] of rings.entries()) drawRing(context, ring, view, corner?.ring === i ? corner.at : -1, true);
  if (draft) drawRing(context, draft, view, -1, false);
}

function line(context, points, view) {
  context.beginPath();
  points.forEach((point, i) => {
    const { x, y } = toScreen(view, point);
    if (i) context.lineTo(x, y);
    else context.moveTo(x, y);
  });
  if (points.length === 1) context.lineTo(toScreen(view, points[0]).x + 0.01, toScreen(view, points[0]).y);
}

/** A thin line that is seen on light ground as on dark. */
function outlined(context, colour) {
  for (const [lineWidth, strokeStyle] of [[3, "#000a"], [1.25, colour]]) {
    Object.assign(context, { lineWidth, strokeStyle });
    context.stroke();
  }
}

function drawRing(context, ring, view, active, isClosed) {
  const places = [];
  for (let i = 0; i < ring.length; i += 2) places.push({ x: ring[i], y: ring[i + 1] });
  line(context, places, view);
  if (isClosed) context.closePath();
  outlined(context, "#fff");
  places.forEach((place, i) => {
    const { x, y } = toScreen(view, place);
    const half = 2 * i === active || (!isClosed && i === 0) ? CORNER + 2 : CORNER;
    context.fillStyle = "#fff";
    context.strokeStyle = "#000c";
    context.lineWidth = 1;
    context.fillRect(x - half, y - half, 2 * half, 2 * half);
    context.strokeRect(x - half, y - half, 2 * half, 2 * half);
  });
}

/** A point label. */
export function drawDot(context, { x, y, colour, strong }, view) {
  const at = toScreen(view, { x: x + 0.5, y: y + 0.5 });
  context.beginPath();
  context.arc(at.x, at.y, strong ? 7 : 5, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
  Object.assign(context, { lineWidth: 2, strokeStyle: strong ? "#fff" : "#000b" });
  context.stroke();
}

const HEIGHT = 17; // CSS pixels

/** An object's number and name, above a place of the image, and below it where there is no room above. */
export function drawLabel(context, { x, y, colour, text }, view) {
  const at = toScreen(view, { x: x + 0.5, y });
  context.font = "600 12px system-ui, sans-serif";
  const wide = context.measureText(text).width + 10;
  const top = at.y - HEIGHT - 4 < 0 ? at.y + 4 : at.y - HEIGHT - 4;
  context.fillStyle = "#0f1218d9";
  context.fillRect(at.x - wide / 2, top, wide, HEIGHT);
  context.fillStyle = colour;
  context.fillRect(at.x - wide / 2, top, 3, HEIGHT);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, at.x - wide / 2 + 7, top + HEIGHT / 2 + 0.5);
}
