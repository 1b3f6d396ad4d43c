"""The scenarios and the table."""

import asyncio
import hashlib
import json
import random
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.serving.client import Connection, Reply, request
from bench.serving.photos import SIZE, jpeg
from bench.serving.run import where
from bench.stack.containers import MODEL, Stack, built, must


@dataclass(frozen=True)
class Plan:
    """How much to do: rounds, and in each so many images, new clicks and repeated asks."""

    rounds: int
    images: int
    clicks: int
    repeated: int
    clients: int = 8


FULL = Plan(rounds=4, images=4, clicks=24, repeated=60)
TOY = Plan(rounds=1, images=1, clicks=8, repeated=4)

SCENARIOS = (
    "first image",
    "repeated image",
    "new click",
    "repeated click",
    "repeated click, from Redis (memory cold)",
    "new click, 8 clients",
    "new click, Redis stopped",
)
SERVICES = ("proxy", "redis", "gpu", "cpu")


@dataclass
class Measured:
    """One stack's figures: seconds by scenario, and bytes by service of each new click and each first image."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCENARIOS})
    click_bytes: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SERVICES})
    image_bytes: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SERVICES})
    busy: float = 0.0
    """Seconds that the eight clients took together."""
    engine: list[float] = field(default_factory=list)
    """What the decoder itself said that a new click took, in seconds."""


class Bench:
    """One running stack and what is asked of it."""

    def __init__(self, stack: Stack, plan: Plan, seed: int) -> None:
        self.stack, self.plan, self.measured = stack, plan, Measured()
        rng = random.Random(seed)
        self._points = ((rng.uniform(0, SIZE[0] - 1), rng.uniform(0, SIZE[1] - 1)) for _ in iter(int, 1))
        self._photos = (jpeg(variant) for variant in range(2, 1000))
        self._photo = jpeg(1)
        self._path = f"/v1/images/{hashlib.sha256(self._photo).hexdigest()}/masks"

    async def prepare(self) -> None:
        """The image that is clicked on, and one click."""
        async with Connection(self.stack.port) as connection:
            await _send(connection, _upload(self._photo))
            await _send(connection, self._click())

    async def round(self) -> None:
        """Every scenario but those that disturb the stack, once."""
        plan, seconds = self.plan, self.measured.seconds
        async with Connection(self.stack.port) as connection:
            before = self._moved()
            seconds["first image"] += [
                await _timed(connection, _upload(next(self._photos))) for _ in range(plan.images)
            ]
            self._count(self.measured.image_bytes, before, plan.images)
            again = _upload(self._photo)
            seconds["repeated image"] += [await _timed(connection, again) for _ in range(plan.repeated // 4 or 1)]
            clicks = [self._click() for _ in range(plan.clicks)]
            before = self._moved()
            for click in clicks:
                started = time.perf_counter()
                reply = await _send(connection, click)
                seconds["new click"].append(time.perf_counter() - started)
                self.measured.engine.append(reply.json()["timing"]["decode"])
            self._count(self.measured.click_bytes, before, plan.clicks)
            seconds["repeated click"] += [await _timed(connection, clicks[0]) for _ in range(plan.repeated)]
        await self._together()

    async def disturbed(self) -> None:
        """With Redis stopped; and with a proxy that has just been started, whose memory is empty."""
        plan, seconds = self.plan, self.measured.seconds
        kept = [self._click() for _ in range(plan.clicks)]
        async with Connection(self.stack.port) as connection:
            for click in kept:
                await _send(connection, click)
        await asyncio.sleep(1)  # what was computed is written behind the answers
        must("docker", "restart", self.stack.container("proxy"))
        self.stack.wait_for("proxy", 90)
        async with Connection(self.stack.port) as connection:
            for click in kept:
                started = time.perf_counter()
                reply = await _send(connection, click)
                seconds["repeated click, from Redis (memory cold)"].append(time.perf_counter() - started)
                assert reply.json()["outcome"] == "hit", reply.body
            await _send(connection, self._click())  # brings the embedding back into memory
            must("docker", "stop", "-t", "2", self.stack.container("redis"))
            try:
                await _send(connection, self._click())  # the one that finds out
                fresh = [self._click() for _ in range(plan.clicks)]
                seconds["new click, Redis stopped"] += [await _timed(connection, click) for click in fresh]
            finally:
                must("docker", "start", self.stack.container("redis"))
                self.stack.wait_for("redis", 60)

    async def _together(self) -> None:
        async def client() -> None:
            async with Connection(self.stack.port) as connection:
                for _ in range(max(1, self.plan.clicks // 4)):
                    self.measured.seconds["new click, 8 clients"].append(await _timed(connection, self._click()))

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(self.plan.clients)))
        self.measured.busy += time.perf_counter() - started

    def _click(self) -> bytes:
        x, y = next(self._points)
        return request("POST", self._path, json.dumps({"points": [{"x": x, "y": y, "label": 1}]}).encode())

    def _moved(self) -> dict[str, int]:
        return {service: self.stack.bytes_of(service) for service in SERVICES}

    def _count(self, into: dict[str, list[float]], before: dict[str, int], asks: int) -> None:
        time.sleep(0.5)  # what is written behind the answers belongs to them
        for service, now in self._moved().items():
            into[service].append((now - before[service]) / asks)


def _upload(photo: bytes) -> bytes:
    return request("POST", "/v1/images", photo, "image/jpeg")


async def _send(connection: Connection, raw: bytes) -> Reply:
    reply = await connection.send(raw)
    assert reply.status == 200, (reply.status, reply.body)
    return reply


async def _timed(connection: Connection, raw: bytes) -> float:
    started = time.perf_counter()
    await _send(connection, raw)
    return time.perf_counter() - started


def run(plan: Plan, engines: list[str]) -> dict[str, Any]:
    """Both stacks at the same time, asked in turn: a machine that slows down slows both down."""
    with ExitStack() as running:
        benches = []
        for number, name in enumerate(engines):
            stack = built(name)
            stack.knobs["PROXY_DISK_BYTES"] = "0"  # so that what memory does not have comes from Redis
            running.callback(stack.down)
            stack.up()
            benches.append(Bench(stack, plan, number))
        asyncio.run(_measure(benches, plan))
        figures = {bench.stack.engines: _summary(bench.measured) for bench in benches}
    return {"where": where(), "plan": asdict(plan), "engines": figures}


async def _measure(benches: list[Bench], plan: Plan) -> None:
    for bench in benches:
        await bench.prepare()
    for _ in range(plan.rounds):
        for bench in benches:
            await bench.round()
    for bench in benches:
        await bench.disturbed()


def _summary(measured: Measured) -> dict[str, Any]:
    rows = {}
    for name, times in measured.seconds.items():
        ordered = sorted(times)
        rows[name] = {
            "requests": len(ordered),
            "p50_ms": statistics.median(ordered) * 1e3,
            "p95_ms": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] * 1e3,
        }
    return {
        "scenarios": rows,
        "clicks_per_second_8_clients": len(measured.seconds["new click, 8 clients"]) / measured.busy,
        "decode_ms": statistics.median(measured.engine) * 1e3,
        "bytes_per_click": {name: statistics.median(values) for name, values in measured.click_bytes.items()},
        "bytes_per_first_image": {name: statistics.median(values) for name, values in measured.image_bytes.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    engines: dict[str, Any] = result["engines"]
    here = result["where"]
    lines = [
        f"Machine: {here['machine']}; commit {here['commit']}; {here['date']}.",
        f"Model {MODEL}, JPEG of {SIZE[0]} × {SIZE[1]}.",
        "",
        f"| request, p50 / p95 ms | {' | '.join(engines)} |",
        f"| --- |{' ---: |' * len(engines)}",
    ]
    for name in SCENARIOS:
        rows = [figures["scenarios"][name] for figures in engines.values()]
        cells = " | ".join("{p50_ms:.1f} / {p95_ms:.1f}".format(**row) for row in rows)
        lines.append(f"| {name} | {cells} |")
    for text, key in (
        ("new clicks a second, 8 clients", "clicks_per_second_8_clients"),
        ("of a new click: the decode, as the proxy sees it, ms", "decode_ms"),
    ):
        lines.append(f"| {text} | {' | '.join(f'{figures[key]:.1f}' for figures in engines.values())} |")
    lines += [
        "",
        f"| bytes moved at each container, in and out | {' | '.join(engines)} |",
        f"| --- |{' ---: |' * len(engines)}",
    ]
    for text, key in (("a new click", "bytes_per_click"), ("a first image", "bytes_per_first_image")):
        for service in SERVICES:
            moved = " | ".join(f"{figures[key][service]:,.0f}" for figures in engines.values())
            lines.append(f"| {text}: {service} | {moved} |")
    return "\n".join(lines)
