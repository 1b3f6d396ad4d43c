// The field «find all …»: instances of what a phrase names, to keep or to drop.

import { sentenceOf } from "../shared/problems.js";
import { persistently } from "../shared/server.js";
import { t } from "../shared/words.js";

const $ = (id) => document.getElementById(id);

/** The model that is asked, as the server lists it. */
export function modelOf({ models, server }) {
  return models.find((one) => (server.model ? one.name === server.model : one.default));
}

/** Find all that a phrase names in the open image; they are picked, and who does not want one clicks it. */
export async function findAll(page, phrase) {
  const { found, server, album, editor, connection } = page;
  const trouble = (...news) => connection.met(...news);
  const named = page.choices.classes.find(({ name }) => name.trim().toLowerCase() === phrase.trim().toLowerCase());
  if (named) page.choose({ classId: named.id });
  page.told = null;
  await found.look(async (image, signal, see) => {
    await album.ready(image, signal);
    const answer = await persistently(() => server.concepts(image.id, phrase, signal), { server, signal, trouble });
    see(newsOf(answer));
    if (found.shown.length === 0) throw new Error(t("conceptNothing", { phrase }));
    found.pickAll();
  }).catch((error) => page.tell(sentenceOf(error)));
  editor.redraw();
}

/** What an answer says. An instance has no click: who refines it starts from its mask. */
export function newsOf({ concepts: [{ instances, phrase }], model, model_version: version }) {
  return {
    made: { source: "text", text: phrase, model, ...(version && { version }) },
    masks: instances.map(({ index, rle, score, area, bbox }) => ({ id: index, rle, score, area, bbox, points: [] })),
    standing: instances.map(({ index }) => index),
  };
}

/** Connect the field. */
export function connectConcepts(page) {
  $("find-all").addEventListener("submit", (event) => {
    event.preventDefault();
    const phrase = event.target.elements.phrase.value.trim();
    if (phrase) findAll(page, phrase);
    document.activeElement?.blur(); // so that Enter keeps what is found
  });
}

/** Show the field where the model that is asked takes text. */
export function drawConcepts(page) {
  $("find-all").hidden = !modelOf(page)?.capabilities?.includes("text");
  $("find-all").querySelector("button").disabled = !page.editor.image;
}
