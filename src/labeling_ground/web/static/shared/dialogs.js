// The dialogs that our pages share.

import { t } from "./words.js";

const $ = (id) => document.getElementById(id);

/** Where the API key is kept until the tab is closed. */
export const KEY = "labeling-ground-key";

/** Ask before something is done; `yes` is what the button for it says. */
export async function confirmed(text, yes) {
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  return (await answer($("ask-dialog"))) === "yes";
}

/** Ask for a key; `null` if none was given. `title`, `more` and `trouble` are what the dialog says beside that. */
export async function askForKey({ title, more, trouble = "" } = {}) {
  if (title) $("key-title").textContent = title;
  if (more) $("key-more").textContent = more;
  $("key-trouble").textContent = trouble;
  $("key-trouble").hidden = !trouble;
  const key = (await answer($("key-dialog"))) === "use" ? $("key").value : null;
  $("key").value = "";
  return key;
}

/** Ask for another key than the one that is kept, and keep it. `words` are as for `askForKey`. */
export async function renewKey(words = {}) {
  const trouble = sessionStorage.getItem(KEY) ? t("keyRefused") : "";
  sessionStorage.setItem(KEY, (await askForKey({ ...words, trouble })) ?? "");
}

/** What the dialog was closed with; nothing if it was closed by Escape. */
function answer(dialog) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
    dialog.showModal();
  });
}
