// Whose turn it is among the tabs that are open at this address: two that write would overwrite each other's work.

const NAME = "labeling-ground-page";
const SOON = 250; // milliseconds in which a tab that is being closed or reloaded has let go

/**
 * Wait for our turn. `elsewhere(takeOver)` is told when another tab has it: this one goes on when that is closed, or at
 * once if `takeOver()` is called. `lost(takeBack)` is told when another tab took it from us; `takeBack()` resolves when it
 * is ours again.
 *
 * Browsers have locks only where the address is safe (https or this machine); elsewhere it is always our turn.
 */
export function ourTurn({ elsewhere, lost }, locks = navigator.locks) {
  if (!locks) return Promise.resolve();
  const ask = (options) =>
    new Promise((resolve) => {
      let isOurs = false;
      const held = () => {
        isOurs = true;
        resolve();
        return new Promise(() => {}); // until the tab is closed
      };
      locks.request(NAME, options, held).catch(() => isOurs && lost(() => ask({ steal: true })));
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
    const timer = setTimeout(() => elsewhere(takeOver), SOON);
    ask({ signal: waiting.signal }).then(begin);
  });
}

/** Wait for our turn to write; while another tab is at it, a dialog says so. `lost()` hears that one took it from us. */
export async function turnInDialog(lost) {
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
  await ourTurn({
    elsewhere: tell,
    lost: (takeBack) => {
      lost();
      tell(() => takeBack().then(() => location.reload())); // what the other tab did is read anew
    },
  });
  dialog.onclose = null;
  dialog.close();
}
