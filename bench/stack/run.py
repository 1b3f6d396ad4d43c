"""The scenarios and the table."""

import asyncio
import hashlib
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.serving.client import Connection, Reply, request
from bench.serving.photos import SIZE, jpeg
from bench.serving.run import where
from bench.stack.containers import MODEL, Stack, built, must

ASK_S = 60.0
"""No answer takes so long on a machine that is fit to measure on; the run ends there."""
BACK_S = 120.0
"""The same for a container that was restarted."""


@dataclass(frozen=True)
class Plan:
    """How much to do.

    Attributes:
        seconds: no round begins after so long, and the whole run ends after twice as long, whatever it is at.
        rounds: of the scenarios that leave the stack alone; in each so many
        images: new images,
        clicks: new clicks (and half as many together with each other client), and
        repeated: repeated asks.
        stops: how often Redis is stopped; with and without it, in turn, ``clicks`` new ones are made.
        cold: clicks that are asked again after the proxy was restarted.
        clients: how many ask together.
        same_images: how often all clients of
        proxies: so many proxies send one new image at once.
    """

    seconds: float
    rounds: int
    images: int
    clicks: int
    repeated: int
    stops: int
    cold: int
    clients: int = 8
    same_images: int = 5
    proxies: int = 4


FULL = Plan(seconds=420, rounds=4, images=4, clicks=24, repeated=60, stops=6, cold=60)
TOY = Plan(seconds=120, rounds=1, images=1, clicks=6, repeated=4, stops=1, cold=4, same_images=2, proxies=2)

FROM_REDIS = "repeated click, from Redis (memory cold)"
WITH_REDIS, WITHOUT_REDIS = "new click, just before Redis is stopped", "new click, Redis stopped"
SCENARIOS = (
    "first image",
    "repeated image",
    "new click",
    "repeated click",
    "new click, 8 clients",
    FROM_REDIS,
    WITH_REDIS,
    WITHOUT_REDIS,
)
SERVICES = ("proxy", "redis", "gpu", "cpu")
SAME_IMAGE_CLIENTS = 10
"""Presence at each proxy when all of them send one new image."""


@dataclass
class Measured:
    """One stack's figures: seconds by scenario, and bytes by service of each new click and each first image."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCENARIOS})
    click_bytes: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SERVICES})
    image_bytes: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SERVICES})
    busy: float = 0.0
    """Seconds that the eight clients took together."""
    decode: list[float] = field(default_factory=list)
    """What the proxy says that the decode of a new click took, in seconds: the way there and back, and painting."""
    handler: list[float] = field(default_factory=list)
    """What TorchServe says that its handler took for it, in seconds. Our own engine keeps no such figure."""
    rounds: int = 0
    outcomes: list[str] = field(default_factory=list)
    """Of new images that all clients of all proxies sent at once."""
    encodes: float = 0.0
    """Images that went to the encoder meanwhile, by the bytes that came to it."""
    rebuilt: dict[str, float] = field(default_factory=dict)
    """Seconds until each image was built again after one line of our code had changed."""


class Bench:
    """One running stack and what is asked of it.

    The stack has no disk tier (``PROXY_DISK_BYTES=0``): what memory does not have comes from Redis.
    """

    def __init__(self, stack: Stack, plan: Plan, seed: int) -> None:
        self.stack, self.plan, self.measured = stack, plan, Measured()
        rng = random.Random(seed)
        self._points = ((rng.uniform(0, SIZE[0] - 1), rng.uniform(0, SIZE[1] - 1)) for _ in itertools.repeat(0))
        self._photos = (jpeg(variant) for variant in itertools.count(2))
        self._photo = jpeg(1)
        self._figures_url = ""
        self._path = f"/v1/images/{hashlib.sha256(self._photo).hexdigest()}/masks"

    async def prepare(self) -> None:
        """The image that is clicked on, and one click."""
        if self.stack.engines == "torchserve":
            self._figures_url = self.stack.figures_url("cpu")
        async with Connection(self.stack.port) as connection:
            await _send(connection, _upload(self._photo))
            await _send(connection, self._click())

    async def round(self) -> None:
        """Every scenario but those that disturb the stack, once."""
        plan, seconds = self.plan, self.measured.seconds
        async with Connection(self.stack.port) as connection:
            fresh = [_upload(next(self._photos)) for _ in range(plan.images)]
            before = self._moved()
            seconds["first image"] += [await _timed(connection, photo) for photo in fresh]
            await self._count(self.measured.image_bytes, before, plan.images)
            again = _upload(self._photo)
            seconds["repeated image"] += [await _timed(connection, again) for _ in range(plan.repeated // 4 or 1)]
            clicks = [self._click() for _ in range(plan.clicks)]
            before = self._moved()
            seconds["new click"] += [await self._new_click(connection, click) for click in clicks]
            await self._count(self.measured.click_bytes, before, plan.clicks)
            seconds["repeated click"] += [await _timed(connection, clicks[0]) for _ in range(plan.repeated)]
        await self._together()
        self.measured.rounds += 1

    async def from_redis(self) -> None:
        """What a proxy that has just been started, whose memory is empty, finds in Redis."""
        kept = [self._click() for _ in range(self.plan.cold)]
        async with Connection(self.stack.port) as connection:
            for click in kept:
                await _send(connection, click)
        must("docker", "restart", "-t", "30", self.stack.container("proxy"), timeout=90)
        self.stack.wait_for("proxy", BACK_S)
        async with Connection(self.stack.port) as connection:
            await _send(connection, request("GET", "/v1/models"))
            for click in kept:
                started = time.perf_counter()
                reply = await _send(connection, click)
                self.measured.seconds[FROM_REDIS].append(time.perf_counter() - started)
                assert reply.json()["outcome"] == "hit", reply.body

    async def without_redis(self) -> None:
        """New clicks with Redis and, right after it was stopped, without it. The first who finds out is among them."""
        plan, seconds = self.plan, self.measured.seconds
        for _ in range(plan.stops):
            async with Connection(self.stack.port) as connection:
                await _send(connection, self._click())  # after a restart it brings the embedding into memory
                seconds[WITH_REDIS] += [await _timed(connection, self._click()) for _ in range(plan.clicks)]
                must("docker", "stop", "-t", "2", self.stack.container("redis"))
                try:
                    seconds[WITHOUT_REDIS] += [await _timed(connection, self._click()) for _ in range(plan.clicks)]
                finally:
                    must("docker", "start", self.stack.container("redis"))
                    self.stack.wait_for("redis", BACK_S)
                await self._until_redis_is_used(connection)

    async def same_image(self, *settings: str) -> None:
        """One new image, from ten clients at each of several proxies at once, some times over."""

        async def one(port: int, photo: bytes) -> str:
            async with Connection(port) as connection:
                return str((await _send(connection, photo)).json()["outcome"])

        with self.stack.more_proxies(self.plan.proxies, *settings) as ports:
            before = self.stack.bytes_of("gpu")
            for _ in range(self.plan.same_images):
                photo = _upload(next(self._photos))
                asks = (one(port, photo) for port in ports for _ in range(SAME_IMAGE_CLIENTS))
                self.measured.outcomes += await asyncio.gather(*asks)
            moved = self.stack.bytes_of("gpu") - before
        self.measured.encodes = moved / statistics.median(self.measured.image_bytes["gpu"])

    def rebuild(self) -> None:
        """Images after a changed line."""
        images = ("proxy", "gpu", "cpu") if self.stack.engines == "torchserve" else ("proxy", "engine")
        self.measured.rebuilt = self.stack.rebuilt_s(*images)

    async def _new_click(self, connection: Connection, click: bytes) -> float:
        started = time.perf_counter()
        reply = await _send(connection, click)
        seconds = time.perf_counter() - started
        self.measured.decode.append(reply.json()["timing"]["decode"])
        # TorchServe reads this figure from its worker's log, a moment after the answer.
        await asyncio.sleep(0.03)
        if self._figures_url:
            self.measured.handler.append(self.stack.handler_ms(self._figures_url) / 1e3)
        return seconds

    async def _together(self) -> None:
        async def client() -> None:
            async with Connection(self.stack.port) as connection:
                for _ in range(max(1, self.plan.clicks // 2)):
                    self.measured.seconds["new click, 8 clients"].append(await _timed(connection, self._click()))

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(self.plan.clients)))
        self.measured.busy += time.perf_counter() - started

    async def _until_redis_is_used(self, connection: Connection) -> None:
        until = time.monotonic() + ASK_S
        while [tier["breaker"] for tier in self.stack.figures()["tiers"] if tier["tier"] == "redis"] != ["closed"]:
            assert time.monotonic() < until, "the proxy does not come back to Redis"
            await _send(connection, self._click())

    def _click(self) -> bytes:
        x, y = next(self._points)
        return request("POST", self._path, json.dumps({"points": [{"x": x, "y": y, "label": 1}]}).encode())

    def _moved(self) -> dict[str, int]:
        return {service: self.stack.bytes_of(service) for service in SERVICES}

    async def _count(self, into: dict[str, list[float]], before: dict[str, int], asks: int) -> None:
        await asyncio.sleep(0.5)  # what is written behind the answers belongs to them
        for service, now in self._moved().items():
            into[service].append((now - before[service]) / asks)


def _upload(photo: bytes) -> bytes:
    return request("POST", "/v1/images", photo, "image/jpeg")


async def _send(connection: Connection, raw: bytes) -> Reply:
    async with asyncio.timeout(ASK_S):
        reply = await connection.send(raw)
    assert reply.status == 200, (reply.status, reply.body)
    return reply


async def _timed(connection: Connection, raw: bytes) -> float:
    started = time.perf_counter()
    await _send(connection, raw)
    return time.perf_counter() - started


def run(plan: Plan, engines: Sequence[str]) -> dict[str, Any]:
    """All stacks at the same time, asked in turn: a machine that slows down slows all of them down."""
    with ExitStack() as running:
        benches = []
        for number, name in enumerate(engines):
            stack = built(name, discs=True)
            stack.knobs["PROXY_DISK_BYTES"] = "0"
            running.callback(stack.down)
            stack.up()
            benches.append(Bench(stack, plan, number))
        load = os.getloadavg()[0]
        began = time.monotonic()
        asyncio.run(measure(benches, plan))
        took = time.monotonic() - began
    for bench in benches:
        bench.rebuild()
    return {
        "where": where() | {"load": f"{load:.1f}", "seconds": f"{took:.0f}"},
        "plan": asdict(plan),
        "engines": {bench.stack.engines: summary(bench.measured) for bench in benches},
    }


async def measure(benches: Sequence[Bench], plan: Plan, *settings: str) -> None:
    """Ask all stacks everything.

    Args:
        benches: the stacks.
        plan: how much.
        settings: of the proxies that share the work on one new image.

    Raises:
        TimeoutError: it takes longer than the plan allows.
    """
    began = time.monotonic()
    async with asyncio.timeout(2 * plan.seconds):
        for bench in benches:
            await bench.prepare()
        for _ in range(plan.rounds):
            if time.monotonic() - began > plan.seconds:
                break
            for bench in benches:
                await bench.round()
        for bench in benches:
            await bench.from_redis()
            await bench.without_redis()
            await bench.same_image(*settings)


def summary(measured: Measured) -> dict[str, Any]:
    """One stack's row of figures; times in milliseconds."""
    rows = {}
    for name, times in measured.seconds.items():
        ordered = sorted(times)
        rows[name] = {
            "requests": len(ordered),
            "p50_ms": statistics.median(ordered) * 1e3,
            "p95_ms": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] * 1e3,
        }
    handler = statistics.median(measured.handler) * 1e3 if measured.handler else None
    return {
        "rounds": measured.rounds,
        "scenarios": rows,
        "clicks_per_second_8_clients": len(measured.seconds["new click, 8 clients"]) / measured.busy,
        "decode_ms": statistics.median(measured.decode) * 1e3,
        "handler_ms": handler,
        "new_click_to_handler": rows["new click"]["p50_ms"] / handler if handler else None,
        "redis_stopped_growth": rows[WITHOUT_REDIS]["p50_ms"] / rows[WITH_REDIS]["p50_ms"] - 1,
        "same_image_asks": len(measured.outcomes),
        "same_image_computed": measured.outcomes.count("miss"),
        "same_image_encodes": measured.encodes,
        "rebuilt_s": measured.rebuilt,
        "bytes_per_click": {name: statistics.median(values) for name, values in measured.click_bytes.items()},
        "bytes_per_first_image": {name: statistics.median(values) for name, values in measured.image_bytes.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    engines: dict[str, Any] = result["engines"]
    here, plan = result["where"], result["plan"]

    def row(text: str, form: str, key: str) -> str:
        cells = ("–" if figures[key] is None else form.format(figures[key]) for figures in engines.values())
        return f"| {text} | {' | '.join(cells)} |"

    lines = [
        f"Machine: {here['machine']}; load {here['load']} before; commit {here['commit']}; {here['date']}.",
        f"Model {MODEL}, its masks discs of up to 9 % of the image; JPEG of {SIZE[0]} × {SIZE[1]}. Both stacks ran at "
        f"the same time and were asked in turn, for {here['seconds']} s.",
        "",
        f"| request, p50 / p95 ms | {' | '.join(engines)} |",
        f"| --- |{' ---: |' * len(engines)}",
    ]
    for name in SCENARIOS:
        rows = [figures["scenarios"][name] for figures in engines.values()]
        cells = " | ".join("{p50_ms:.1f} / {p95_ms:.1f}".format(**row) for row in rows)
        lines.append(f"| {name} | {cells} |")
    clients = f"{plan['proxies']} proxies × {SAME_IMAGE_CLIENTS} clients, {plan['same_images']} times one new image"
    lines += [
        row("new clicks a second, 8 clients", "{:.1f}", "clicks_per_second_8_clients"),
        row("of a new click: the decode, as the proxy sees it, ms", "{:.1f}", "decode_ms"),
        row("of a new click: TorchServe's handler (its `PredictionTime`), ms", "{:.1f}", "handler_ms"),
        row("new click, as a multiple of that handler's time", "{:.2f}", "new_click_to_handler"),
        row("new click, Redis stopped: p50 grows by", "{:+.0%}", "redis_stopped_growth"),
        row(f"{clients}: answers that computed it", "{}", "same_image_computed"),
        row(f"{clients}: encodes, by the bytes that came to the encoder", "{:.1f}", "same_image_encodes"),
        "",
        f"| bytes moved at each container, in and out | {' | '.join(engines)} |",
        f"| --- |{' ---: |' * len(engines)}",
    ]
    for text, key in (("a new click", "bytes_per_click"), ("a first image", "bytes_per_first_image")):
        for service in SERVICES:
            moved = " | ".join(f"{figures[key][service]:,.0f}" for figures in engines.values())
            lines.append(f"| {text}: {service} | {moved} |")
    lines += ["", "After one changed line of our code, each image is built again in:", ""]
    for name, figures in engines.items():
        rebuilt = ", ".join(f"`build_{image}` {seconds:.1f} s" for image, seconds in figures["rebuilt_s"].items())
        lines.append(f"- {name}: {rebuilt}")
    return "\n".join(lines)
