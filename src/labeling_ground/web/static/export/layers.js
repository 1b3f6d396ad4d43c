// Objects as one picture, where a pixel can be of one object only: the later one lies on top, as the page draws them.

import { cutOut } from "../shared/rle.js";

/** The picture, row-major: `valueOf(object, index)` where an object is seen, 0 where there is none. `Values` is the kind of array. */
export function layered({ objects, width, height }, valueOf, Values = Uint8Array) {
  const picture = new Values(width * height);
  objects.forEach((object, index) => {
    const cut = cutOut(object.rle);
    const value = valueOf(object, index);
    for (let y = 0, at = 0; y < cut.height; y++) {
      for (let x = 0; x < cut.width; x++, at++) if (cut.pixels[at]) picture[(cut.y + y) * width + cut.x + x] = value;
    }
  });
  return picture;
}

/** By value of a picture, where it is seen, `Map(value → {area, bbox: [x, y, width, height]})`; 0 is not among them. */
export function seen(picture, width) {
  const found = new Map();
  picture.forEach((value, at) => {
    if (!value) return;
    const x = at % width, y = Math.floor(at / width);
    const one = found.get(value) ?? { area: 0, x0: x, y0: y, x1: x, y1: y };
    found.set(value, { area: one.area + 1, x0: Math.min(one.x0, x), y0: one.y0, x1: Math.max(one.x1, x), y1: y });
  });
  const bboxed = ([value, { area, x0, y0, x1, y1 }]) => [value, { area, bbox: [x0, y0, x1 - x0 + 1, y1 - y0 + 1] }];
  return new Map([...found].map(bboxed));
}

/** The colour of a value in the palette of Pascal VOC, `[red, green, blue]`: its bits, spread from the highest bit of each down. */
export function vocColour(value) {
  const colour = [0, 0, 0];
  for (let bit = 7, rest = value; rest; bit--, rest >>= 3) for (let i = 0; i < 3; i++) colour[i] |= ((rest >> i) & 1) << bit;
  return colour;
}
