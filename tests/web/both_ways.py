"""The same prompts decoded in the browser and by the server, from a page on which one image is open."""

from collections.abc import Sequence
from typing import Any

_BOTH_WAYS = """async (prompts) => {
    const { Decoder } = await import("/web/decode/decoder.js");
    const { Server } = await import("/web/shared/server.js");
    const key = sessionStorage.getItem("labeling-ground-key");
    const server = new Server({ base: document.baseURI, client: "test", key: () => key });
    const decoder = new Decoder({
        server,
        makeWorker: () => new Worker("/web/decode/worker.js", { type: "module" }),
        trouble: () => {},
        changed: () => {},
    });
    const id = await new Promise((resolve) => {
        const open = indexedDB.open("labeling-ground");
        open.onsuccess = () => {
            const all = open.result.transaction("images").objectStore("images").getAllKeys();
            all.onsuccess = () => resolve(all.result[0]);
        };
    });
    decoder.open(id);
    decoder.turn(true);
    while (["loading", "fetching"].includes(decoder.state)) await new Promise((go) => setTimeout(go, 20));
    const never = new AbortController().signal;
    const found = [];
    for (const prompt of prompts) {
        found.push([await decoder.masks(id, prompt, never), await server.masks(id, prompt, never)]);
    }
    decoder.turn(false);
    return { found, trouble: decoder.trouble, isolated: crossOriginIsolated };
}"""


def both_ways(page: Any, prompts: Sequence[Any]) -> dict[str, Any]:
    """What the page's own modules get.

    Returns:
        ``found``, for each prompt the browser's answer (``None`` where there is none) and the server's; ``trouble``,
        what kept the browser from it; ``isolated``, whether it may use threads.
    """
    got: dict[str, Any] = page.evaluate(_BOTH_WAYS, prompts)
    return got
