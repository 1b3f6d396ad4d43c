// Small plots in SVG. Colours are the style sheet's: each part has a class. Lengths are pixels of the page.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function titled(shape, text) {
  if (text) shape.append(svg("title", {}, text));
  return shape;
}

function plot(width, height, label, ...children) {
  return svg("svg", { class: "plot", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...children);
}

function text(x, y, words, anchor = "start") {
  return svg("text", { x, y, "text-anchor": anchor }, words);
}

/**
 * One bar of parts beside each other: `{value, kind, title}`, `kind` being a class. `whole` is what the full width stands
 * for. A part that is there is seen, however small.
 */
export function bar(parts, { width, whole, label, height = 12 }) {
  const shown = parts.filter(({ value }) => value > 0);
  const scale = whole > 0 ? width / whole : 0;
  let x = 0;
  const shapes = shown.map(({ value, kind, title }) => {
    const length = Math.min(Math.max(2, value * scale), width - x);
    const shape = svg("rect", { x, y: 0, width: Math.max(0, length), height, class: kind });
    x += length;
    return titled(shape, title);
  });
  return plot(width, height, label, svg("rect", { x: 0, y: 0, width, height, class: "track" }), ...shapes);
}

/** Columns with a word below each: `{value, name, title, kind}`. `top` is the value at the upper edge. */
export function columns(found, { width, label, top, height = 96 }) {
  const floor = height - 18;
  const step = width / found.length;
  const shapes = found.flatMap(({ value, name, title, kind = "" }, i) => {
    const tall = value > 0 ? Math.max(2, (value / top) * (floor - 4)) : 0;
    const box = { x: i * step + step * 0.1, y: floor - tall, width: step * 0.8, height: tall, class: kind };
    return [titled(svg("rect", box), title), text((i + 0.5) * step, height - 4, name, "middle")];
  });
  return plot(width, height, label, svg("path", { d: `M0 ${floor + 0.5}H${width}`, class: "axis" }), ...shapes);
}

/**
 * Steps of time from the left to the right, each with parts above one another: `{from, to, parts: [{value, kind}], title}`.
 * The right edge is `end`, `seconds` before it is the left one. `lines` are `{values: [[at, value], …], kind}` on the same
 * scale. `names` are the words of the axes: `top`, `left`, `right`.
 */
export function timeline({ steps = [], lines = [], width, height = 120, seconds, end, top, label, names }) {
  const floor = height - 18;
  const x = (at) => Math.max(0, width * (1 - (end - at) / seconds));
  const y = (value) => floor - (value / top) * (floor - 16);
  const shapes = steps.map(({ from, to, parts, title }) => {
    const [left, right] = [x(from), x(to)];
    let at = floor;
    const stack = parts.filter(({ value }) => value > 0).map(({ value, kind }) => {
      const tall = Math.max(1, floor - y(value));
      at -= tall;
      return svg("rect", { x: left, y: at, width: Math.max(1, right - left - 0.6), height: tall, class: kind });
    });
    return titled(svg("g", {}, ...stack), title);
  });
  const drawn = lines.map(({ values, kind }) => {
    const path = values.map(([at, value], i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    return svg("path", { d: path, class: `line ${kind}` });
  });
  return plot(
    width,
    height,
    label,
    svg("path", { d: `M0 ${floor + 0.5}H${width}M0 15.5H${width}`, class: "axis" }),
    ...shapes,
    ...drawn,
    text(0, 11, names.top),
    text(0, height - 4, names.left),
    text(width, height - 4, names.right, "end"),
  );
}

/** From one number to another on a logarithmic scale between `least` and `most`, with a mark at the first. */
export function range(low, high, { width, least, most, kind, label, height = 12 }) {
  const x = (value) => (width - 3) * Math.min(1, Math.max(0, Math.log(value / least) / Math.log(most / least)));
  const decades = [];
  for (let at = least * 10; at < most; at *= 10) decades.push(`M${x(at).toFixed(1)} 0V${height}`);
  return plot(
    width,
    height,
    label,
    svg("rect", { x: 0, y: 0, width, height, class: "track" }),
    svg("path", { d: decades.join(""), class: "axis" }),
    svg("rect", { x: x(low), y: 3, width: Math.max(3, x(high) - x(low)), height: height - 6, class: `${kind} soft` }),
    svg("rect", { x: x(low), y: 0, width: 3, height, class: kind }),
  );
}
