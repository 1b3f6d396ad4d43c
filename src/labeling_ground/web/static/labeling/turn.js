// Whose turn it is among the tabs that are open at this address: two that write would overwrite each other's work.

import { ChannelLocks } from "./channel-locks.js";
import { t } from "../shared/words.js";

const NAME = "labeling-ground-page";
const SOON = 500; // milliseconds in which a tab that is being closed or reloaded has let go

/**
 * Wait for our turn. `elsewhere(takeOver)` is told when another tab has it: this one goes on when that is closed, or at
 * once if `takeOver()` is called. `lost(takeBack)` is told when another tab took it from us; `takeBack()` resolves when it
 * is ours again. Tabs that wait hear `who(words)` of the one whose turn it is: what its `says()` was when they asked.
 *
 * Browsers have locks only where the address is safe (https or this machine); elsewhere the tabs make it out over the channel.
 */
export function ourTurn({ elsewhere, lost, says = () => null, who = () => {} }, channel, locks = navigator.locks ?? new ChannelLocks(channel)) {
  let isOurTurn = false;
  channel.addEventListener("message", ({ data }) => {
    if (data.ask === "who" && isOurTurn) channel.postMessage({ at: says() });
    if (data.at && !isOurTurn) who(data.at);
  });
  const ask = (options) =>
    new Promise((resolve) => {
      let isOurs = false;
      const held = () => {
        isOurs = isOurTurn = true;
        resolve();
        return new Promise(() => {}); // until the tab is closed
      };
      locks.request(NAME, options, held).catch(() => {
        if (!isOurs) return;
        isOurTurn = false;
        lost(() => ask({ steal: true }));
        channel.postMessage({ ask: "who" });
      });
    });
  const waiting = new AbortController();
  return new Promise((resolve) => {
    const begin = () => {
      clearTimeout(timer);
      resolve();
    };
    const takeOver = () => {
      if (waiting.signal.aborted) return; // a double click: the second would take it from the first
      waiting.abort();
      ask({ steal: true }).then(begin);
    };
    const timer = setTimeout(() => {
      elsewhere(takeOver);
      channel.postMessage({ ask: "who" });
    }, SOON);
    ask({ signal: waiting.signal }).then(begin);
  });
}

/**
 * Wait for our turn to write; while another tab is at it, a dialog says so, and which image is open there. `lost()` hears
 * that one took it from us; `says()` is `{name, changed}`: what is open here, and when something of it changed, or `null`.
 */
export async function turnInDialog(lost, says) {
  const dialog = document.getElementById("elsewhere-dialog");
  const button = document.getElementById("take-over");
  const tell = (takeOver) => {
    button.onclick = () => {
      button.onclick = null; // a second click would take it from the first
      takeOver();
    };
    dialog.onclose = () => dialog.showModal(); // Escape does not make it our turn
    dialog.showModal();
  };
  const steps = {
    elsewhere: tell,
    lost: (takeBack) => {
      lost();
      tell(() => takeBack().then(() => location.reload())); // what the other tab did is read anew
    },
    says,
    who: ({ name, changed }) => {
      const time = changed && new Date(changed).toLocaleTimeString(document.documentElement.lang);
      document.getElementById("elsewhere-who").textContent = t(time ? "elsewhereWho" : "elsewhereIdle", { name, time });
    },
  };
  await ourTurn(steps, new BroadcastChannel(NAME));
  dialog.onclose = null;
  dialog.close();
}
