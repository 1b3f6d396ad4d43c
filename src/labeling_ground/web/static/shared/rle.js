// COCO run-length encoding: runs go down the columns, the first one is background, and the text form holds the
// difference to the run before last in groups of five bits (pycocotools' `rleToString`).

/** The runs of a COCO RLE's text. */
export function decodeCounts(text) {
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let shift = 0;
    for (let more = true; more; ) {
      const code = text.charCodeAt(at++) - 48;
      if (!(code >= 0 && code < 64)) throw new Error("This is no COCO RLE.");
      value |= (code & 31) << shift;
      shift += 5;
      more = (code & 32) !== 0;
      if (!more && code & 16) value |= -1 << shift;
    }
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** The text of runs. */
export function encodeCounts(runs) {
  let text = "";
  runs.forEach((run, i) => {
    let value = i > 2 ? run - runs[i - 2] : run;
    for (let more = true; more; ) {
      let code = value & 31;
      value >>= 5;
      more = code & 16 ? value !== -1 : value !== 0;
      if (more) code |= 32;
      text += String.fromCharCode(code + 48);
    }
  });
  return text;
}

/**
 * A mask cut out of its image: `{x, y, width, height, pixels, area}`, where `pixels` is row-major, 0 or 1, without
 * margin. An empty mask has width and height 0.
 */
export function cutOut(rle) {
  const [height] = rle.size;
  const runs = decodeCounts(rle.counts);
  let x0 = Infinity, x1 = -1, y0 = height, y1 = -1, area = 0;
  eachRun(runs, (from, to) => {
    const left = Math.floor(from / height), right = Math.floor((to - 1) / height);
    x0 = Math.min(x0, left);
    x1 = Math.max(x1, right);
    y0 = Math.min(y0, left < right ? 0 : from % height);
    y1 = Math.max(y1, left < right ? height - 1 : (to - 1) % height);
    area += to - from;
  });
  if (area === 0) return { x: 0, y: 0, width: 0, height: 0, pixels: new Uint8Array(0), area };
  const cut = { x: x0, y: y0, width: x1 - x0 + 1, height: y1 - y0 + 1, area };
  const pixels = new Uint8Array(cut.width * cut.height);
  eachRun(runs, (from, to) => {
    let column = Math.floor(from / height) - x0;
    let row = (from % height) - y0;
    for (let left = to - from; left > 0; column++) {
      const many = Math.min(left, height - y0 - row);
      const end = Math.min(row + many, cut.height);
      for (let at = Math.max(row, 0); at < end; at++) pixels[at * cut.width + column] = 1;
      left -= many;
      row = -y0;
    }
  });
  return { ...cut, pixels };
}

function eachRun(runs, see) {
  let at = 0;
  runs.forEach((run, i) => {
    if (i % 2 && run > 0) see(at, at + run);
    at += run;
  });
}

/** The whole mask, row-major, 0 or 1, `height * width`. */
export function toPixels(rle) {
  const [height, width] = rle.size;
  const pixels = new Uint8Array(height * width);
  eachRun(decodeCounts(rle.counts), (from, to) => {
    for (let at = from; at < to; at++) pixels[(at % height) * width + Math.floor(at / height)] = 1;
  });
  return pixels;
}

/** The RLE of a whole row-major mask. */
export function fromPixels(pixels, width, height) {
  const runs = [];
  let value = 0, run = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if (pixels[y * width + x] !== value) {
        runs.push(run);
        run = 0;
        value ^= 1;
      }
      run++;
    }
  }
  runs.push(run);
  return { size: [height, width], counts: encodeCounts(runs) };
}
