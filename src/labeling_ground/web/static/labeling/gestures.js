// Mouse, pen and fingers on the canvas, as what they mean: click, box, pan, zoom, hover.

const DRAG = 5; // CSS pixels: less than that is a click by a hand that is not quite still
const LONG_PRESS = 500; // milliseconds

/**
 * Calls `on.click(at, label, held)`, `on.boxing(a, b)` while a box is drawn, `on.box(a, b)` when it is, `on.pan(dx, dy)`,
 * `on.zoom(at, factor)`, `on.hover(at or null)`. Points are CSS pixels of the canvas. `tool()` is the tool in hand.
 *
 * `on.hand` goes first where `begin(at, held)` takes hold of something: then it hears `move(at, held)` and `end()`, or
 * `cancel()`, and `press()` where a finger was held still; `resize(steps)` says whether it took the wheel with Alt.
 */
export function watch(canvas, tool, on) {
  const fingers = new Map();
  let hold = null; // what the first pointer does: {id, kind: "click" | "box" | "pan" | "hand" | "done", from, at, label}
  let spaceDown = false;
  let timer = 0;

  const place = (event) => {
    const edge = canvas.getBoundingClientRect();
    return { x: event.clientX - edge.left, y: event.clientY - edge.top };
  };
  const held = (event) => ({ shift: event.shiftKey, isOther: event.button === 2 || event.altKey, isTouch: event.pointerType === "touch" });
  const far = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

  canvas.addEventListener("pointerdown", (event) => {
    const at = place(event);
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at);
    clearTimeout(timer);
    if (fingers.size > 1) {
      if (hold?.kind === "box") on.boxing(null, null);
      if (hold?.kind === "hand") on.hand.cancel();
      hold = { kind: "done" };
      return;
    }
    on.hover(null);
    const pans = event.button === 1 || spaceDown || (event.button === 0 && tool() === "pan");
    if (!pans && event.button !== 1 && on.hand.begin(at, held(event))) {
      hold = { kind: "hand", from: at, at };
      if (event.pointerType === "touch") timer = setTimeout(() => on.hand.press(), LONG_PRESS);
      return;
    }
    const negative = event.button === 2 || event.altKey || tool() === "minus";
    hold = { kind: pans ? "pan" : "click", from: at, at, label: negative ? 0 : 1, held: held(event), boxes: event.button === 0 && !negative };
    canvas.classList.toggle("panning", pans);
    if (event.pointerType === "touch" && !pans) {
      timer = setTimeout(() => {
        if (hold?.kind !== "click") return;
        hold.kind = "done";
        navigator.vibrate?.(20);
        on.click(hold.from, 0, { ...hold.held, isOther: true });
      }, LONG_PRESS);
    }
  });

  canvas.addEventListener("pointermove", (event) => {
    const at = place(event);
    if (!fingers.has(event.pointerId)) {
      if (event.pointerType !== "touch" && !spaceDown) on.hover(tool() === "pan" ? null : at);
      return;
    }
    if (fingers.size === 2) {
      pinch(event.pointerId, at);
      return;
    }
    fingers.set(event.pointerId, at);
    if (!hold) return;
    if (hold.kind === "click" && far(at, hold.from) >= DRAG) {
      clearTimeout(timer);
      hold.kind = hold.boxes ? "box" : "done";
    }
    if (hold.kind === "hand" && far(at, hold.from) > 1) {
      if (far(at, hold.from) >= DRAG) clearTimeout(timer);
      for (const one of event.getCoalescedEvents?.() ?? [event]) on.hand.move(place(one), held(one));
    }
    if (hold.kind === "pan") on.pan(at.x - hold.at.x, at.y - hold.at.y);
    if (hold.kind === "box") on.boxing(hold.from, at);
    hold.at = at;
  });

  function pinch(id, at) {
    const [other] = [...fingers].filter(([key]) => key !== id).map(([, value]) => value);
    const before = fingers.get(id);
    fingers.set(id, at);
    const middle = { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 };
    on.pan((at.x - before.x) / 2, (at.y - before.y) / 2);
    if (far(before, other) > 1) on.zoom(middle, far(at, other) / far(before, other));
  }

  const ended = (event) => {
    clearTimeout(timer);
    if (!fingers.delete(event.pointerId)) return;
    canvas.classList.remove("panning");
    const was = hold;
    if (fingers.size === 0) hold = null;
    if (!was || was.kind === "done" || was.kind === "pan") return;
    if (was.kind === "hand") {
      if (event.type === "pointercancel") on.hand.cancel();
      else on.hand.end();
    } else if (event.type === "pointercancel") {
      on.boxing(null, null);
    } else if (was.kind === "box") {
      on.box(was.from, place(event));
    } else if (!["box", "plain-box"].includes(tool())) {
      on.click(was.from, was.label, was.held);
    }
  };
  canvas.addEventListener("pointerup", ended);
  canvas.addEventListener("pointercancel", ended);
  canvas.addEventListener("pointerleave", () => on.hover(null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      if (event.altKey && on.hand.resize(-Math.sign(event.deltaY))) return;
      if (event.shiftKey) on.pan(-(event.deltaX || event.deltaY) * lines, 0);
      else on.zoom(place(event), Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)));
    },
    { passive: false },
  );
  return {
    /** Whether the space bar is held: then a drag moves the image. */
    space(down) {
      spaceDown = down;
      canvas.classList.toggle("pan", down || tool() === "pan");
    },
  };
}
