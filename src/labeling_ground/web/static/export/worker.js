// Makes exports away from the page, which stays alive meanwhile.

import { packed } from "./index.js";
import { setLanguage } from "../shared/words.js";

const EVERY = 100; // milliseconds between two words of progress
let told = 0;

function report(step, done, of) {
  if (performance.now() - told < EVERY) return;
  told = performance.now();
  postMessage({ step, done, of });
}

onmessage = async ({ data: { language, format, set, options } }) => {
  setLanguage(language);
  try {
    postMessage(await packed(format, set, options, report));
  } catch (error) {
    postMessage({ problem: error.message });
  }
};
