"""Segment Anything from socket to socket: what serving a click costs beyond its engine, and what it holds in memory.

``python -m bench.serving.sam``: a server of its own process serves MobileSAM with seeded random weights. Its decoder
gets some more nodes, which replace the noise that random weights make of a mask by discs around the click
(``bench.engines.discs``): what follows the engine costs what the mask's shape makes it cost, so the shape must be one
that masks have. Requests and bare engine calls take turns, round by round: compare the ratios.
"""

import asyncio
import base64
import hashlib
import importlib
import io
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from bench.command import models_folder, parser_of, report
from bench.serving.client import Connection, request
from bench.serving.photos import SIZE, jpeg
from bench.serving.run import where
from bench.serving.server import Server, running
from labeling_ground.inference.auto import ENGINES
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.sam.prompts import tensors
from labeling_ground.settings import Settings
from labeling_ground.types import Point, Prompt

LARGE = (4000, 3000)
BARE, SMALL, LARGE_NAME = "bare engine call", "1024 × 768", "4000 × 3000"
BARE_PAUSED, SMALL_PAUSED = (f"{name}, after a pause" for name in (BARE, SMALL))
PAUSE_S = 0.1
"""A person's is longer. What a server does behind its answer has ended by then."""
MODEL = "mobile-sam-discs"
ANCESTOR_PER_SECOND = 6.4


@dataclass(frozen=True)
class Plan:
    """How much to do: rounds, clicks of each kind in a round, clients at once, clicks of each of them in a round."""

    rounds: int
    clicks: int
    clients: int
    each: int


FULL = Plan(rounds=10, clicks=15, clients=8, each=8)
TOY = Plan(rounds=1, clicks=2, clients=2, each=4)


class Bare:
    """The engine that the server chose, in this process, with the server's threads and files."""

    def __init__(self, engine: str, files: dict[str, Any]) -> None:
        settings = Settings()
        module, _, attribute = ENGINES[engine].partition(":")
        create = getattr(importlib.import_module(module), attribute)
        self._engine = create(settings.encode_workers, settings.decode_workers, **files).engine
        self._embedding = {"image_embeddings": np.random.default_rng(0).standard_normal((1, 256, 64, 64), np.float32)}

    def click(self, x: float, y: float, *, alone: bool = True) -> float:
        """Seconds of one call."""
        family = self._engine.family
        read = tensors(Prompt((Point(x, y, 1),)), family.frame(SIZE[1], SIZE[0]), family)
        started = time.perf_counter()
        self._engine.decode(self._embedding, read, alone=alone)
        return time.perf_counter() - started

    def together(self, count: int) -> float:
        """Seconds of so many calls, as many at once as the server decodes at once."""
        with ThreadPoolExecutor(Settings().decode_workers) as pool:
            started = time.perf_counter()
            for future in [pool.submit(self.click, x, 300.0, alone=False) for x in range(count)]:
                future.result()
            return time.perf_counter() - started


def photo(size: tuple[int, int]) -> bytes:
    """The same picture in another size, as a JPEG."""
    buffer = io.BytesIO()
    Pillow.open(io.BytesIO(jpeg(0))).resize(size, Pillow.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def places(size: tuple[int, int], seed: int) -> Iterator[tuple[float, float]]:
    """Where to click: far enough from the rim that the disc is whole."""
    rng = random.Random(seed)
    while True:
        yield rng.uniform(0.25, 0.75) * size[0], rng.uniform(0.25, 0.75) * size[1]


def _click(path: str, x: float, y: float) -> bytes:
    return request("POST", path, json.dumps({"points": [{"x": x, "y": y, "label": 1}]}).encode())


def _session(path: str, **body: Any) -> bytes:
    return request("POST", f"/api/sam/{path}", json.dumps(body).encode())


async def measure(server: Server, bare: Bare, plan: Plan) -> dict[str, Any]:
    """Everything against one server."""
    taken: dict[str, list[float]] = {BARE: [], SMALL: [], LARGE_NAME: [], BARE_PAUSED: [], SMALL_PAUSED: []}
    cpu: dict[str, float] = dict.fromkeys(taken, 0.0)
    areas: dict[str, list[float]] = {SMALL: [], LARGE_NAME: [], SMALL_PAUSED: []}
    async with Connection(server.port) as connection:
        paths = {}
        for name, size in ((SMALL, SIZE), (LARGE_NAME, LARGE)):
            file = photo(size)
            reply = await connection.send(request("POST", "/v1/images", file, "image/jpeg"))
            assert reply.status == 200, reply.body
            paths[name] = (f"/v1/images/{hashlib.sha256(file).hexdigest()}/masks", size)
        paths[SMALL_PAUSED] = paths[SMALL]
        spots = {name: places(size, seed) for seed, (name, (_, size)) in enumerate(paths.items(), 20)}
        for name, (path, _) in paths.items():
            await connection.send(_click(path, *next(spots[name])))  # warm
        own = places(SIZE, 2)
        bare.click(*next(own))
        served, bare_s = [(1.0, 0)], 0.0
        for turn in range(plan.rounds):
            for name, (path, size) in paths.items():
                before = server.cpu_seconds()
                for _ in range(plan.clicks):
                    await asyncio.sleep(PAUSE_S if name == SMALL_PAUSED else 0)
                    raw = _click(path, *next(spots[name]))
                    started = time.perf_counter()
                    reply = await connection.send(raw)
                    taken[name].append(time.perf_counter() - started)
                    assert reply.status == 200, reply.body
                    answer = reply.json()
                    assert answer["outcome"] == "miss"
                    areas[name] += [mask["area"] / (size[0] * size[1]) for mask in answer["masks"]]
                cpu[name] += server.cpu_seconds() - before
            for name in (BARE, BARE_PAUSED):
                before = time.process_time()
                for _ in range(plan.clicks):
                    await asyncio.sleep(PAUSE_S if name == BARE_PAUSED else 0)
                    taken[name].append(bare.click(*next(own)))
                cpu[name] += time.process_time() - before
            served.append(await _together(server, plan, turn))
            bare_s += bare.together(plan.clients * plan.each)
    seconds, clicks = (sum(column) for column in zip(*served[1:], strict=True))
    count = plan.rounds * plan.clicks
    return {
        "p50_ms": {name: statistics.median(t) * 1e3 for name, t in taken.items()},
        "min_ms": {name: min(t) * 1e3 for name, t in taken.items()},
        "cpu_ms": {name: t / count * 1e3 for name, t in cpu.items()},
        "largest_share": {name: max(shares) for name, shares in areas.items()},
        "clients": plan.clients,
        "clicks_per_second": clicks / seconds,
        "clicks": clicks,
        "bare_per_second": clicks / bare_s,
        "resident_mb": server.memory_mb("VmRSS"),
        "peak_mb": server.memory_mb("VmHWM"),
        "cached_mb": next(tier["bytes"] for tier in server.get("/v1/cache")["tiers"] if tier["tier"] == "memory") / 1e6,
    }


async def _together(server: Server, plan: Plan, turn: int) -> tuple[float, int]:
    """Seconds that so many clicks took, of clients with a session each and an image each."""

    async def client(index: int, ready: "asyncio.Barrier") -> None:
        spots = places(SIZE, 1000 * turn + index + 10)
        async with Connection(server.port) as connection:
            opened = await connection.send(_session("image", image=_encoded(index), session_id=f"s{index}"))
            assert opened.status == 200, opened.body
            await ready.wait()
            for x, y in itertools.islice(spots, plan.each):
                reply = await connection.send(_session("click", points=[x, y], labels=[1], session_id=f"s{index}"))
                assert reply.status == 200, reply.body
                assert reply.json()["outcome"] == "miss"
                await connection.send(_session("finish_click", session_id=f"s{index}"))

    ready = asyncio.Barrier(plan.clients + 1)
    tasks = [asyncio.create_task(client(index, ready)) for index in range(plan.clients)]
    await ready.wait()
    started = time.perf_counter()
    await asyncio.gather(*tasks)
    return time.perf_counter() - started, plan.clients * plan.each


_FILES: dict[int, str] = {}


def _encoded(index: int) -> str:
    if index not in _FILES:
        _FILES[index] = base64.b64encode(jpeg(index)).decode()
    return _FILES[index]


def run(plan: Plan, folder: Path, engine: str) -> dict[str, Any]:
    """Make the model if it is not there, start a server on it, measure, stop it."""
    from bench.engines.models import discs

    files = discs("mobile-sam", folder)
    with tempfile.TemporaryDirectory() as home:
        store = ModelStore(Path(home))
        for role in (Role.ENCODER, Role.DECODER, Role.FAST_DECODER):
            store.add(files[f"{role.name.lower()}_path"], name=MODEL, role=role, family="sam")
        with running(model=MODEL, models_dir=home, engine=engine) as server:
            chosen = server.get("/v1/models")["models"][0]["engine"]
            result = asyncio.run(measure(server, Bare(chosen.split()[0], files), plan))
    return {**result, "engine": chosen, "where": where()}


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    p50, cpu = result["p50_ms"], result["cpu_ms"]
    bare, small, large = (p50[name] for name in (BARE, SMALL, LARGE_NAME))
    clients, at_once, target = result["clients"], result["clicks_per_second"], 8 * ANCESTOR_PER_SECOND
    lines = [
        f"Machine: {result['where']['machine']}; commit {result['where']['commit']}; {result['where']['date']}.",
        f"Engine: {result['engine']}",
        "",
        "| one client, a new click each time | p50 ms | min ms | CPU ms |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {name} | {p50[name]:.1f} | {result['min_ms'][name]:.1f} | {cpu[name]:.1f} |" for name in p50),
        "",
        "| | target | here |",
        "| --- | --- | --- |",
        f"| new click on a cached embedding over HTTP, p50 | ≤ 1.15 × the engine call + 2 ms: {1.15 * bare + 2:.1f} ms "
        f"| {small:.1f} ms |",
        f"| the same, {PAUSE_S:g} s after the last answer | ≤ 1.1 × the engine call + 1 ms: "
        f"{1.1 * p50[BARE_PAUSED] + 1:.1f} ms | {p50[SMALL_PAUSED]:.1f} ms |",
        f"| {LARGE_NAME}, object of ≤ 10 %, against {SMALL} | ≤ 1.5 × | {large / small:.2f} × |",
        f"| {clients} clients, a session each, new prompts | ≥ {target:.0f} clicks/s | {at_once:.1f} clicks/s "
        f"(the bare engine, without a server: {result['bare_per_second']:.1f}) |",
        f"| resident memory | ≤ 900 MB | {result['resident_mb']:.0f} MB (peak {result['peak_mb']:.0f}), of which the "
        f"cache's memory tier holds {result['cached_mb']:.0f} |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print."""
    parser = parser_of("bench.serving.sam", toy="a few clicks, to see that it works", models=True)
    parser.add_argument("--engine", default="auto", help="what computes")
    parser.add_argument("--rounds", type=int, help="how many; more where the machine is shared")
    given = parser.parse_args()
    plan = TOY if given.toy else FULL
    result = run(replace(plan, rounds=given.rounds or plan.rounds), models_folder(given), given.engine)
    words = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    report(given, "bench.serving.sam", "Segment Anything over HTTP", result, table, about=words)


if __name__ == "__main__":
    main()
