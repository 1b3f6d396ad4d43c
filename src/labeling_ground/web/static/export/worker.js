// Makes exports away from the page, which stays alive meanwhile.

import { FORMATS } from "./index.js";

const EVERY = 100; // milliseconds between two words of progress
let told = 0;

function progress(done, of) {
  if (performance.now() - told < EVERY) return;
  told = performance.now();
  postMessage({ done, of });
}

onmessage = async ({ data: { format, set, options } }) => {
  try {
    postMessage({ blob: await FORMATS[format].make(set, options, progress) });
  } catch (error) {
    postMessage({ problem: error.message, kind: error.name });
  }
};
