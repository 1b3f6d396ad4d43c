"""What one tenant's flood does to another's open image: ``python -m bench.serving.fairness``.

The engine is a toy that takes a fixed time for an image, so what is measured is the queue. One tenant floods the server
with images that it opens, fetches ahead, or sends as jobs; another one opens an image now and then. Then both flood it,
and what counts is how the engine's time was shared.
"""

import asyncio
import io
import itertools
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image as Pillow

from bench.command import benchmark
from bench.serving.run import where
from bench.serving.server import Server, running
from labeling_ground.inference.backend import DecodeAsk, ModelInfo
from labeling_ground.types import Embedding, Image, Mask, ModelVersion, Prediction

KEYS = {"A": "a" * 32, "B": "b" * 32}
FLOODS: dict[str, tuple[str, dict[str, str]]] = {
    "nothing": ("", {}),
    "opens": ("/v1/images", {}),
    "prefetches": ("/v1/images?wait=false", {}),
    "jobs": ("/v1/images", {"X-Priority": "job"}),
}


class SlowEngine:
    """Takes ``encode_s`` seconds for each image, whatever it shows."""

    encode_s = 0.5
    info = ModelInfo(ModelVersion("slow-toy", "0" * 64), "A toy that takes its time.")

    def __init__(self, **_: object) -> None:
        """What a server says of its machine means nothing to it."""

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """Zeros."""
        await asyncio.sleep(self.encode_s * len(images))
        return [Embedding({"zeros": np.zeros((1, 4), np.float32)}, image.height, image.width) for image in images]

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        """Empty masks."""
        logits = np.zeros((256, 256), np.float32)
        return [Prediction((Mask(np.zeros((e.height, e.width), bool), 0.5, logits),)) for e, _ in asks]

    async def aclose(self) -> None:
        """There is nothing to give back."""


class QuickEngine(SlowEngine):
    """The same in a fifth of the time."""

    encode_s = 0.1


@dataclass(frozen=True)
class Plan:
    """How much is asked for.

    Attributes:
        engine: what computes.
        opens: images that the other tenant opens during each flood.
        flooding: requests that the flood has under way at the same time.
        shared_s: seconds for which both tenants flood.
    """

    engine: type[SlowEngine]
    opens: int
    flooding: int
    shared_s: float


FULL, TOY = Plan(SlowEngine, opens=20, flooding=24, shared_s=20.0), Plan(QuickEngine, opens=2, flooding=6, shared_s=1.0)


_numbers = itertools.count()


def new_file(side: int = 2) -> bytes:
    """An image file of this many pixels squared that nobody has sent before."""
    out = io.BytesIO()
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:2, :2] = np.frombuffer(next(_numbers).to_bytes(12, "big"), np.uint8).reshape(2, 2, 3)
    Pillow.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def run(plan: Plan) -> dict[str, Any]:
    """Each flood against a server of its own, then both tenants against one."""
    rows = [{"flood": name, **asyncio.run(_against(plan, name))} for name in FLOODS]
    shares = asyncio.run(_shared(plan))
    load = os.getloadavg()[1]
    return {
        "where": where(),
        "load": load,
        "encode_s": plan.engine.encode_s,
        "flooding": plan.flooding,
        "opens": rows,
        "shares": shares,
    }


def _server(engine: type[SlowEngine]) -> Any:
    settings = {"model": f"bench.serving.fairness:{engine.__name__}", "encode_workers": "1", "disk_bytes": "0"}
    return running(**settings, api_keys=",".join(KEYS.values()))


def _client(server: Server, tenant: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{server.port}", headers={"X-API-Key": KEYS[tenant]}, timeout=120
    )


async def _against(plan: Plan, flood: str) -> dict[str, Any]:
    path, headers = FLOODS[flood]
    encode_s = plan.engine.encode_s
    with _server(plan.engine) as server:
        async with _client(server, "A") as flooding, _client(server, "B") as opening:
            floods = [
                asyncio.create_task(_flood(flooding, path, headers, encode_s))
                for _ in range(plan.flooding if path else 0)
            ]
            await asyncio.sleep(5 * encode_s if path else 0)  # until the queue is long
            seconds, refused = [], 0
            for _ in range(plan.opens):
                started = time.perf_counter()
                answer = await opening.post("/v1/images", content=new_file())
                seconds.append(time.perf_counter() - started)
                refused += answer.status_code == 503
                await asyncio.sleep(encode_s / 3)  # so that what the engine has begun is at another point each time
            for task in floods:
                task.cancel()
            await asyncio.gather(*floods, return_exceptions=True)
    return {"p50_s": statistics.median(seconds), "worst_s": max(seconds), "refused": refused}


async def _flood(client: httpx.AsyncClient, path: str, headers: dict[str, str], encode_s: float) -> None:
    while True:
        answer = await client.post(path, content=new_file(), headers=headers)
        if answer.status_code in (202, 503):
            await asyncio.sleep(encode_s / 4)


async def _shared(plan: Plan) -> dict[str, float]:
    """The share of the engine's time that each tenant got; one has twice as many requests under way as the other."""
    counts = dict.fromkeys(KEYS, 0)

    async def work(client: httpx.AsyncClient, tenant: str) -> None:
        while True:
            answer = await client.post("/v1/images", content=new_file())
            if answer.status_code == 200:
                counts[tenant] += 1
            else:
                await asyncio.sleep(plan.engine.encode_s)

    with _server(plan.engine) as server:
        async with _client(server, "A") as first, _client(server, "B") as second:
            tasks = [asyncio.create_task(work(first, "A")) for _ in range(plan.flooding)]
            tasks += [asyncio.create_task(work(second, "B")) for _ in range(plan.flooding // 2)]
            await asyncio.sleep(plan.shared_s)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    return {tenant: count / max(1, sum(counts.values())) for tenant, count in counts.items()}


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    found, encode_s = result["where"], result["encode_s"]
    lines = [
        f"Machine: {found['machine']}, {result['load']:.0f} processes wanting to run; commit {found['commit']}; "
        f"{found['date']}.",
        "",
        f"A toy engine that takes {encode_s:g} s for an image, one at a time; {result['flooding']} requests of "
        "tenant A under way all the time, while tenant B opens one image after the other. Target: 2 encodes, none "
        "refused.",
        "",
        "| A floods with | B's open, p50 s | worst s | worst in encodes | refused |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['flood']} | {row['p50_s']:.2f} | {row['worst_s']:.2f} | {row['worst_s'] / encode_s:.2f} "
        f"| {row['refused']} |"
        for row in result["opens"]
    ]
    shares = result["shares"]
    return "\n".join(
        [
            *lines,
            "",
            f"Both open images, A with twice as many requests under way: A got {shares['A']:.0%} of the engine's time, "
            f"B {shares['B']:.0%}. Target: 50 ± 10 %.",
        ]
    )


if __name__ == "__main__":
    benchmark("bench.serving.fairness", "Fairness", run, table, FULL, TOY)
