"""The scenarios and the table."""

import asyncio
import base64
import hashlib
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import numpy as np

from bench.serving.client import Connection, request
from bench.serving.photos import SIZE, jpeg
from bench.serving.server import BARE, Server, running
from labeling_ground.codec.records import seal_embedding
from labeling_ground.types import Embedding


@dataclass
class Figures:
    """One scenario's times. ``per_request_cpu`` is the server's own CPU time, which drifts least."""

    name: str
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0

    @property
    def count(self) -> int:
        """Requests answered."""
        return len(self.latencies)

    def summary(self) -> dict[str, Any]:
        """Milliseconds (the longest too, which tells of stalls), requests per second, CPU microseconds per request."""
        ordered = sorted(self.latencies)
        return {
            "name": self.name,
            "requests": self.count,
            "p50_ms": statistics.median(ordered) * 1e3,
            "p95_ms": ordered[min(self.count - 1, int(0.95 * self.count))] * 1e3,
            "longest_ms": ordered[-1] * 1e3,
            "per_second": self.count / self.seconds,
            "cpu_us": self.cpu / self.count * 1e6,
        }


@dataclass(frozen=True)
class Plan:
    """How much to do."""

    rounds: int
    fast: int
    slow: int
    clients: int = 8


FULL = Plan(rounds=6, fast=250, slow=12)
TOY = Plan(rounds=1, fast=8, slow=1)


def click(x: float, y: float) -> bytes:
    """The body of a click."""
    return json.dumps({"points": [{"x": x, "y": y, "label": 1}]}).encode()


async def measure(server: Server, bare: Server, plan: Plan) -> dict[str, Any]:
    """Run everything against one server."""
    photo = jpeg(0)
    image_id = hashlib.sha256(photo).hexdigest()
    masks = f"/v1/images/{image_id}/masks"
    noop = request("GET", "/health/live")
    repeated = request("POST", masks, click(412, 301))
    session_click = request(
        "POST", "/api/sam/click", json.dumps({"points": [412, 301], "labels": [1], "session_id": "b"}).encode()
    )
    session_finish = request("POST", "/api/sam/finish_click", b'{"session_id":"b"}')
    upload = request("POST", "/v1/images", photo, "image/jpeg")
    known = request("GET", f"/v1/images/{image_id}")
    new_clicks = _new_clicks(masks)
    new_images = (request("POST", "/v1/images", jpeg(variant), "image/jpeg") for variant in range(1, 1000))
    async with Connection(server.port) as one:
        first = (await one.send(upload)).json()
        await one.send(repeated)
        opened = {"image": base64.b64encode(photo).decode(), "session_id": "b"}
        await one.send(request("POST", "/api/sam/image", json.dumps(opened).encode()))

    scenarios: list[tuple[str, Callable[[], bytes], bytes | None, int]] = [
        ("no-op endpoint", lambda: noop, None, plan.fast),
        ("repeated click, mask in cache", lambda: repeated, None, plan.fast),
        ("repeated click, session style", lambda: session_click, session_finish, plan.fast),
        ("re-upload of a known 512 KB JPEG", lambda: upload, None, plan.fast // 4 or 1),
        ("upload skipped by id", lambda: known, None, plan.fast),
        ("new click", lambda: next(new_clicks), None, plan.slow * 4),
        ("new image", lambda: next(new_images), None, plan.slow // 3 or 1),
    ]
    alone = [Figures(name) for name, *_ in scenarios]
    floor = Figures("bare Starlette app, no-op")
    together = [Figures(name) for name, *_ in scenarios if name != "new image" and "session" not in name]
    by_name = {figures.name: figures for figures in together}
    for _ in range(plan.rounds):  # interleaved: a machine that slows down slows all of them down
        await _sequential(bare, floor, lambda: noop, None, plan.fast)
        for figures, (_, make, between, count) in zip(alone, scenarios, strict=True):
            await _sequential(server, figures, make, between, count)
        for name, make, _, count in scenarios:
            if name in by_name:
                await _concurrent(server, by_name[name], make, count, plan.clients)
    return {
        "first_encode_ms": first["seconds"] * 1e3,
        "image": {"size": SIZE, "bytes": len(photo)},
        "click_request_bytes": len(repeated),
        "one_client": [*(figures.summary() for figures in alone), floor.summary()],
        f"{plan.clients}_clients": [figures.summary() for figures in together],
        "hits_while_encoding": await _hits_while_encoding(server, repeated, noop, plan),
        "points_kept_of_50": await _concurrent_clicks(server, photo),
        "encodes_for_10_same_images": await _same_new_image(server),
        "sam_embedding_bytes": _sam_embedding_bytes(),
    }


def _new_clicks(path: str) -> Iterator[bytes]:
    rng = random.Random(7)
    while True:
        yield request("POST", path, click(rng.uniform(0, SIZE[0] - 1), rng.uniform(0, SIZE[1] - 1)))


async def _sequential(
    server: Server, figures: Figures, make: Callable[[], bytes], between: bytes | None, count: int
) -> None:
    async with Connection(server.port) as connection:
        requests = [make() for _ in range(count)]
        cpu, started = server.cpu_seconds(), time.perf_counter()
        for raw in requests:
            sent = time.perf_counter()
            reply = await connection.send(raw)
            figures.latencies.append(time.perf_counter() - sent)
            assert reply.status == 200, (reply.status, reply.body)
            if between is not None:
                await connection.send(between)
        figures.seconds += time.perf_counter() - started
        figures.cpu += server.cpu_seconds() - cpu


async def _concurrent(server: Server, figures: Figures, make: Callable[[], bytes], count: int, clients: int) -> None:
    async def client(requests: list[bytes]) -> None:
        async with Connection(server.port) as connection:
            for raw in requests:
                sent = time.perf_counter()
                reply = await connection.send(raw)
                figures.latencies.append(time.perf_counter() - sent)
                assert reply.status == 200, (reply.status, reply.body)

    share = max(1, count // clients)
    work = [[make() for _ in range(share)] for _ in range(clients)]
    cpu, started = server.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(client(requests) for requests in work))
    figures.seconds += time.perf_counter() - started
    figures.cpu += server.cpu_seconds() - cpu


async def _hits_while_encoding(server: Server, repeated: bytes, noop: bytes, plan: Plan) -> list[dict[str, Any]]:
    """What cache hits and the no-op endpoint take while new images are being encoded all the time."""
    stop = asyncio.Event()

    async def encode() -> None:
        async with Connection(server.port) as connection:
            variant = 2000
            while not stop.is_set():
                variant += 1
                await connection.send(
                    request("POST", "/v1/images", await asyncio.to_thread(jpeg, variant), "image/jpeg")
                )

    encoding = asyncio.create_task(encode())
    await asyncio.sleep(0.3)
    found = [Figures("no-op endpoint"), Figures("repeated click, mask in cache")]
    for _ in range(plan.rounds):
        await _sequential(server, found[0], lambda: noop, None, max(2, plan.fast // 8))
        await _sequential(server, found[1], lambda: repeated, None, max(2, plan.fast // 8))
    stop.set()
    await encoding
    return [figures.summary() for figures in found]


async def _concurrent_clicks(server: Server, photo: bytes) -> int:
    opened = {"image": base64.b64encode(photo).decode(), "session_id": "fifty"}
    async with Connection(server.port) as connection:
        await connection.send(request("POST", "/api/sam/image", json.dumps(opened).encode()))

    async def one(index: int) -> int:
        body = {"points": [100 + 15 * index, 100 + 10 * index], "labels": [1], "session_id": "fifty"}
        async with Connection(server.port) as connection:
            reply = await connection.send(request("POST", "/api/sam/click", json.dumps(body).encode()))
            return len(reply.json()["points"])

    return max(await asyncio.gather(*(one(index) for index in range(50))))


async def _same_new_image(server: Server) -> int:
    raw = request("POST", "/v1/images", jpeg(5001), "image/jpeg")

    async def one() -> str:
        async with Connection(server.port) as connection:
            return str((await connection.send(raw)).json()["outcome"])

    outcomes = await asyncio.gather(*(one() for _ in range(10)))
    return outcomes.count("miss")


def _sam_embedding_bytes() -> int:
    tensor = np.random.default_rng(0).standard_normal((1, 256, 64, 64)).astype(np.float32)
    embedding = Embedding({"image_embeddings": tensor}, height=768, width=1024)
    return seal_embedding("k", embedding, cost=1.0, created=0.0, precision="fp16").size


def run(plan: Plan) -> dict[str, Any]:
    """Start a server, measure, stop it."""
    with running() as server, running(BARE) as bare:
        measured = asyncio.run(measure(server, bare, plan))
    return measured | {"where": where(), "plan": asdict(plan), "load": os.getloadavg()[1]}


def where() -> dict[str, str]:
    """What a recorded figure must carry: machine, commit, date."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "commit": commit.stdout.strip() or "unknown",
        "date": date.today().isoformat(),
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"Machine: {result['where']['machine']}, {result['load']:.0f} processes wanting to run; commit "
        f"{result['where']['commit']}; {result['where']['date']}.",
        "",
    ]
    for title, key in (
        ("One client", "one_client"),
        ("8 clients at once", "8_clients"),
        ("One client, while new images are being encoded all the time", "hits_while_encoding"),
    ):
        rows = result[key]
        base, base_cpu = rows[0]["p50_ms"], rows[0]["cpu_us"]
        lines += [
            f"**{title}**",
            "",
            "| request | p50 ms | p95 ms | longest | × no-op | requests/s | server CPU µs per request | × no-op |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(
                f"| {row['name']} | {row['p50_ms']:.2f} | {row['p95_ms']:.2f} | {row['longest_ms']:.1f} | "
                f"{row['p50_ms'] / base:.2f} | "
                f"{row['per_second']:.0f} | {row['cpu_us']:.0f} | {row['cpu_us'] / (base_cpu or 1):.2f} |"
                for row in rows
            ),
            "",
        ]
    hit = next(row for row in result["one_client"] if row["name"].startswith("repeated click, mask"))
    again = next(row for row in result["one_client"] if row["name"].startswith("re-upload"))
    megabytes = result["sam_embedding_bytes"] / 1e6
    noop, floor = result["one_client"][0], result["one_client"][-1]
    session = next(row for row in result["one_client"] if "session" in row["name"])
    ratio, cpu = hit["p50_ms"] / noop["p50_ms"], hit["cpu_us"] / (noop["cpu_us"] or 1)
    lines += [
        "| | ancestor | target | here |",
        "| --- | --- | --- | --- |",
        f"| no-op endpoint, p50 | – | ≤ 1.6 × a bare Starlette app | {noop['p50_ms'] / floor['p50_ms']:.2f} × |",
        f"| repeated click, mask in cache, p50 | 140 ms | ≤ 1.5 × no-op | {ratio:.2f} × ({hit['p50_ms']:.2f} ms) |",
        f"| repeated click, mask in cache, server CPU | – | ≤ 1.8 × no-op | {cpu:.2f} × |",
        f"| repeated click, session style, p50 | – | ≤ 2.5 × no-op | {session['p50_ms'] / noop['p50_ms']:.2f} × |",
        f"| request side of a click | – | < 1 KB | {result['click_request_bytes']} bytes |",
        f"| points kept of 50 concurrent clicks | ~60 % | 100 % | {result['points_kept_of_50'] * 2} % |",
        f"| 10 clients post the same new image at once | 10 encodes | 1 | {result['encodes_for_10_same_images']} |",
        f"| cached bytes per SAM-size embedding | 5.7–7.3 MB | ≤ 2.2 MB | {megabytes:.2f} MB |",
        f"| re-upload of a known image (512 KB JPEG), p50 | 24 ms | ≤ 5 ms | {again['p50_ms']:.2f} ms |",
    ]
    return "\n".join(lines)
