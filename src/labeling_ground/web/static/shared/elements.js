// Elements made by hand. What users typed, and what the server says, goes into text nodes and values only.

/** An element with properties, `aria` and `data` attributes, and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  const { aria = {}, data = {}, ...rest } = properties;
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  Object.assign(element.dataset, data);
  Object.assign(element, rest);
  element.append(...children);
  return element;
}

/** Have an element say something, unless it does: a live region that is written again is read out again. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

// A list is made anew only when what it shows is another, so that focus and typing are not disturbed.
const drawn = new WeakMap();

/** Fill a list with what `draw()` returns, unless it shows `shown` already. */
export function unlessDrawn(list, shown, draw) {
  const text = JSON.stringify([document.documentElement.lang, shown]);
  if (drawn.get(list) === text) return;
  drawn.set(list, text);
  const focus = focusIn(list);
  list.replaceChildren(...draw());
  focus?.();
}

function focusIn(list) {
  const active = document.activeElement;
  const row = active && [...list.children].findIndex((child) => child.contains(active));
  if (row === null || row < 0) return null;
  const inner = [...list.children[row].querySelectorAll("button, input, select")].indexOf(active);
  return () => list.children[Math.min(row, list.children.length - 1)]?.querySelectorAll("button, input, select")[inner]?.focus();
}
