// What somebody may choose on the page, which is kept from one visit to the next.

import { notes } from "../shared/storage.js";
import { languageFor } from "../shared/words.js";

/** The choices of somebody who has made none yet. */
export function initialChoices() {
  return {
    language: languageFor(notes.get("language"), navigator.language),
    client: `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`,
    classes: null,
    classId: null,
    opacity: 40,
    colours: "class", // or "object"
    outline: false, // masks as their outlines only
    labels: false, // numbers and names of objects on the picture
    hover: true,
    prepare: true,
    decodeHere: false,
    stretch: false,
    model: null, // a model's name; or the server's default one
    imageId: null,
    brush: 24, // pixels of the image across
    least: 100, // pixels: islands of fewer are dropped when that is asked for
    exporting: {}, // what was chosen in the export dialog
  };
}
