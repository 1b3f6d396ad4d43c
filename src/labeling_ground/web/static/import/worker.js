// Reads files of labels away from the page: first which format they are, then, when their photographs are open, what is in them.

import { recognized, unpacked } from "./index.js";
import { imageFor } from "./match.js";
import { setLanguage } from "../shared/words.js";

let found = null;

onmessage = async ({ data: { language, files, images, ids } }) => {
  setLanguage(language);
  try {
    if (files) {
      found = await recognized(await unpacked(files));
      const photos = await Promise.all(found.photos.map(async ({ path, read }) => ({ path, blob: await read() })));
      postMessage({ format: found.format, photos });
    } else {
      const sizeOf = (names) => imageFor({ names, byStem: true }, images, ids);
      postMessage({ labels: await found.read(sizeOf) });
    }
  } catch (error) {
    postMessage({ problem: error.message });
  }
};
