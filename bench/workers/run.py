"""Hits per second of a server of one and of two processes, side by side, and what a hit costs that the other one has.

The client is a process of its own on the same cores. So beside the hits per second, which it takes part of, stand the
seconds of computing that a hit costs the server: as long as these stay the same, N processes do N times as much.
"""

import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving.client import Connection, request
from bench.serving.photos import jpeg
from bench.serving.run import where
from bench.serving.server import Server, running


@dataclass(frozen=True)
class Plan:
    """How much is asked for.

    Attributes:
        prompts: different masks that are asked for again and again.
        connections: asks under way at the same time.
        seconds: of each round.
        rounds: of each server, in turn.
    """

    prompts: int
    connections: int
    seconds: float
    rounds: int


FULL, TOY = Plan(prompts=200, connections=16, seconds=5.0, rounds=6), Plan(4, 4, 0.5, 1)


def processes_of(server: Server) -> list[int]:
    """Those that answer: the server's children, or itself where it has none that do."""
    path = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    found = [int(word) for word in path.read_text(encoding="ascii").split()]
    return [pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()] or [server.pid]


def proportional_mb(pid: int) -> float:
    """Memory of a process in MB; what it shares with others counts in part (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def prompts(image_id: str, count: int) -> list[bytes]:
    """Requests for so many different masks of an image."""
    path = f"/v1/images/{image_id}/masks"
    bodies = [f'{{"points":[{{"x":{20 + 3 * n % 400},"y":{20 + n},"label":1}}]}}' for n in range(count)]
    return [request("POST", path, body.encode()) for body in bodies]


async def ask(port: int, raws: Sequence[bytes]) -> list[float]:
    """Ask for each over one connection; the seconds that each took."""
    took = []
    async with Connection(port) as connection:
        for raw in raws:
            began = time.perf_counter()
            reply = await connection.send(raw)
            took.append(time.perf_counter() - began)
            assert reply.status == 200, reply.body
    return took


async def _load(port: int, raws: Sequence[bytes], connections: int, seconds: float) -> int:
    until = time.perf_counter() + seconds

    async def one(first: int) -> int:
        count = 0
        async with Connection(port) as connection:
            while time.perf_counter() < until:
                reply = await connection.send(raws[(first + count) % len(raws)])
                assert reply.status == 200, reply.body
                count += 1
        return count

    return sum(await asyncio.gather(*(one(7 * number) for number in range(connections))))


def load(given: tuple[int, Sequence[bytes], int, float]) -> int:
    """Keep so many asks under way for so long, and count the answers; in a process of its own."""
    import uvloop

    return uvloop.run(_load(*given))


def servers(workers: int, stack: ExitStack) -> Server:
    """A server of so many processes, with the engine without weights."""
    return stack.enter_context(running(model="classical", workers=str(workers), log_level="info"))


async def _fill(server: Server, count: int) -> list[bytes]:
    async with Connection(server.port) as connection:
        reply = await connection.send(request("POST", "/v1/images", jpeg(1), "image/jpeg"))
    raws = prompts(reply.json()["image_id"], count)
    await ask(server.port, raws)
    while any(tier["writes_pending"] for tier in server.get("/v1/cache")["tiers"]):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return raws


def cpu_seconds(pids: Sequence[int]) -> Iterator[float]:
    """Seconds of computing of each."""
    for pid in pids:
        yield Server(0, pid).cpu_seconds()


def measure(plan: Plan) -> dict[str, Any]:
    """One round after the other, the two servers in turn."""
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    with ExitStack() as stack, multiprocessing.get_context("spawn").Pool(1) as pool:
        both = {workers: servers(workers, stack) for workers in found}
        raws = {workers: asyncio.run(_fill(server, plan.prompts)) for workers, server in both.items()}
        pids = {workers: processes_of(server) for workers, server in both.items()}
        for workers, server in both.items():
            pool.map(load, [(server.port, raws[workers], plan.connections, plan.seconds / 2)])  # each has all in memory
        for _ in range(plan.rounds):
            for workers, server in both.items():
                before = list(cpu_seconds(pids[workers]))
                began = time.perf_counter()
                [hits] = pool.map(load, [(server.port, raws[workers], plan.connections, plan.seconds)])
                took = time.perf_counter() - began
                spent = [now - then for now, then in zip(cpu_seconds(pids[workers]), before, strict=True)]
                found[workers].append({"hits": hits, "seconds": took, "cpu": spent})
        memory = {workers: sum(map(proportional_mb, pids[workers])) for workers in both}
    return {"rounds": found, "memory_mb": memory}


def second_look(plan: Plan) -> dict[str, float]:
    """Median ms of hits that a fresh process has on disk only, and of the same ones once they are in its memory."""
    with ExitStack() as stack:
        folder = f"{stack.enter_context(tempfile.TemporaryDirectory())}/cache"
        with running(model="classical", cache_dir=folder) as first:
            raws = asyncio.run(_fill(first, plan.prompts))
        with running(model="classical", cache_dir=folder) as second:
            asyncio.run(ask(second.port, raws[:1]))  # the first ask of all opens things
            from_disk = asyncio.run(ask(second.port, raws[1:]))
            from_memory = asyncio.run(ask(second.port, raws[1:]))
            kinds = second.get("/v1/cache")["kinds"]["mask"]
    assert kinds["misses"] == 0, kinds
    return {"disk_ms": 1e3 * statistics.median(from_disk), "memory_ms": 1e3 * statistics.median(from_memory)}


def run(plan: Plan) -> dict[str, Any]:
    """All figures."""
    measured = measure(plan)
    rows = {}
    for workers, rounds in measured["rounds"].items():
        cpu = sum(sum(one["cpu"]) for one in rounds)
        hits = sum(one["hits"] for one in rounds)
        shares = [sum(one["cpu"][number] for one in rounds) / cpu for number in range(workers)]
        rows[workers] = {
            "hits_s": statistics.median(one["hits"] / one["seconds"] for one in rounds),
            "us_per_hit": 1e6 * cpu / hits,
            "cores": cpu / sum(one["seconds"] for one in rounds),
            "shares": shares,
            "memory_mb": measured["memory_mb"][workers],
        }
    here = where() | {"load": f"{os.getloadavg()[0]:.0f}"}
    return {"where": here, "plan": vars(plan), "rows": rows, "looks": second_look(plan), "cores": os.cpu_count()}


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    here, plan, looks = result["where"], result["plan"], result["looks"]
    one, two = result["rows"][1], result["rows"][2]
    lines = [
        f"Machine: {here['machine']}, load {here['load']}; commit {here['commit']}; {here['date']}.",
        "",
        f"{plan['connections']} connections ask for {plan['prompts']} masks that are in memory, from one process on the"
        f" same cores; {plan['rounds']} rounds of {plan['seconds']:g} s each, the two servers in turn.",
        "",
        "| processes | hits/s (median) | µs of computing a hit | cores used | share of each | memory MB (PSS) |",
        "| ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for workers, row in result["rows"].items():
        shares = " ".join(f"{share:.0%}" for share in row["shares"])
        lines.append(
            f"| {workers} | {row['hits_s']:,.0f} | {row['us_per_hit']:.0f} | {row['cores']:.2f} | {shares} | "
            f"{row['memory_mb']:.0f} |"
        )
    scaling = one["us_per_hit"] / two["us_per_hit"]
    lines += [
        "",
        f"Per second of computing two processes answer {scaling:.2f} times as many hits as one (target: at least 0.9): "
        f"with cores to themselves, {2 * scaling:.1f} times as many in all. Here they share {result['cores']} with the "
        f"client and with others: {two['hits_s'] / one['hits_s']:.2f} times.",
        "",
        f"A mask that this process has in memory: {looks['memory_ms']:.2f} ms; one that only the disk tier has, since "
        f"another process made it: {looks['disk_ms']:.2f} ms (medians of one client), once a mask and process.",
    ]
    return "\n".join(lines)
