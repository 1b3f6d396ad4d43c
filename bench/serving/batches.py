"""What batches gain, and that somebody who is alone does not pay for them: ``python -m bench.serving.batches``.

The engine is a toy that computes one call at a time. Most of the time is the call's and little each ask's, as on a GPU
that one ask leaves half idle. The same server is asked with batches and, by its settings, without.
"""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from bench.command import benchmark
from bench.serving.fairness import new_file
from bench.serving.run import where
from bench.serving.server import Server, running
from labeling_ground.inference.backend import BatchSizes, DecodeAsk, ModelInfo
from labeling_ground.key import image_id
from labeling_ground.types import Embedding, Image, Mask, ModelVersion, Prediction

CALL_S, ASK_S = 0.04, 0.005
SIDE = 128
SIZES: dict[str, dict[str, str]] = {
    "without": {"encode_batch": "1", "encode_batch_background": "1", "decode_batch": "1"},
    "with": {},
}


@dataclass(frozen=True)
class Plan:
    """How much is asked for.

    Attributes:
        clients: requests that are under way at the same time.
        seconds: for which they go on.
        opens: images that somebody opens who is alone.
    """

    clients: int
    seconds: float
    opens: int


FULL, TOY = Plan(clients=16, seconds=10.0, opens=40), Plan(clients=8, seconds=1.0, opens=2)


class GainingEngine:
    """Takes ``CALL_S`` for each call and ``ASK_S`` for each ask in it, one call at a time."""

    info = ModelInfo(
        ModelVersion("gaining-toy", "0" * 64),
        "A toy that gains by batches.",
        encode_batch=BatchSizes(16, 16),
        decode_batch=BatchSizes(16, 16),
        encodes_at_once=2,
        decodes_at_once=2,
    )

    def __init__(self, **_: object) -> None:
        """What a server says of its machine means nothing to it."""
        self._device = asyncio.Lock()

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """Zeros."""
        await self._work(len(images))
        return [Embedding({"zeros": np.zeros((1, 4), np.float32)}, image.height, image.width) for image in images]

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        """Empty masks."""
        await self._work(len(asks))
        logits = np.zeros((256, 256), np.float32)
        return [Prediction((Mask(np.zeros((e.height, e.width), bool), 0.5, logits),)) for e, _ in asks]

    async def aclose(self) -> None:
        """There is nothing to give back."""

    async def _work(self, asks: int) -> None:
        async with self._device:
            await asyncio.sleep(CALL_S + asks * ASK_S)


def run(plan: Plan) -> dict[str, Any]:
    """The same load on a server with batches and on one without."""
    lone = asyncio.run(_lone(plan))
    rows = {name: {"lone_open_s": lone[name], **asyncio.run(_loaded(plan, SIZES[name]))} for name in SIZES}
    return {"where": where(), "load": os.getloadavg()[1], "clients": plan.clients, "rows": rows}


async def _lone(plan: Plan) -> dict[str, float]:
    """The median of a lone open, by turns with batches and without: what else this machine does counts for both."""
    seconds: dict[str, list[float]] = {name: [] for name in SIZES}
    with contextlib.ExitStack() as servers:
        started = {name: servers.enter_context(_server(settings)) for name, settings in SIZES.items()}
        for _ in range(plan.opens):
            for name, server in started.items():
                async with _client(server) as client:
                    (await client.get("/health/live")).raise_for_status()  # connected
                    began = time.perf_counter()
                    (await client.post("/v1/images", content=new_file())).raise_for_status()
                    seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


async def _loaded(plan: Plan, settings: dict[str, str]) -> dict[str, float]:
    with _server(settings) as server:
        async with _client(server) as client:
            files = [new_file(SIDE) for _ in range(plan.clients)]
            for file in files:
                (await client.post("/v1/images", content=file)).raise_for_status()

            async def click(number: int, count: int) -> None:
                place = {"points": [{"x": count % SIDE, "y": count // SIDE, "label": 1}]}  # one that nobody has made
                (await client.post(f"/v1/images/{image_id(files[number])}/masks", json=place)).raise_for_status()

            async def open_one(_: int, __: int) -> None:
                (await client.post("/v1/images", content=new_file())).raise_for_status()

            return {"clicks": await _a_second(plan, click), "opens": await _a_second(plan, open_one)}


async def _a_second(plan: Plan, work: Callable[[int, int], Awaitable[None]]) -> float:
    """How often all clients together get it done in a second, each for itself as fast as it is answered."""
    done = 0

    async def go_on(number: int) -> None:
        nonlocal done
        count = 0
        while True:
            await work(number, count)
            count += 1
            done += 1

    tasks = [asyncio.create_task(go_on(number)) for number in range(plan.clients)]
    finished, _ = await asyncio.wait(tasks, timeout=plan.seconds)
    for task in finished:  # only an error ends one
        task.result()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return done / plan.seconds


def _server(settings: dict[str, str]) -> contextlib.AbstractContextManager[Server]:
    return running(model="bench.serving.batches:GainingEngine", disk_bytes="0", **settings)


def _client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=120)


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    found, rows = result["where"], result["rows"]
    without, batched = rows["without"], rows["with"]
    named = {"clicks": "new clicks a second", "opens": "opened images a second", "lone_open_s": "a lone open, p50 ms"}
    scale = {"lone_open_s": 1e3}
    lines = [
        f"Machine: {found['machine']}, {result['load']:.0f} processes wanting to run; commit {found['commit']}; "
        f"{found['date']}.",
        "",
        f"A toy engine of one call at a time, which takes {CALL_S * 1e3:g} ms and {ASK_S * 1e3:g} ms for each ask; "
        f"{result['clients']} clients. Target: a lone open ≤ 1.1 × that without batches.",
        "",
        "| | without batches | with | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {words} | {without[name] * scale.get(name, 1):.1f} | {batched[name] * scale.get(name, 1):.1f} "
        f"| {batched[name] / without[name]:.2f} |"
        for name, words in named.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    benchmark("bench.serving.batches", "Batches", run, table, FULL, TOY)
