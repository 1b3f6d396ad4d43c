"""The scenarios and the table."""

import asyncio
import contextlib
import multiprocessing
import os
import platform
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from labeling_ground.cache.choose import choose
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.connections import Connections, Transaction
from labeling_ground.cache.disk.folder import INDEX
from labeling_ground.errors import StoreFailed
from labeling_ground.types import Entry, Kind

_MASK_BYTES = 4_000


@dataclass(frozen=True)
class Plan:
    """How much to do."""

    entries: int


FULL = Plan(200_000)
TOY = Plan(2_000)


def run(plan: Plan) -> dict[str, Any]:
    """Each piece of work on a full disk tier, while another process writes all the while."""
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(_run(Path(folder) / "cache", plan))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cores": os.cpu_count(),
        "load": load,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "entries": plan.entries,
        "works": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    columns = {
        "work": "name",
        "takes s": "seconds",
        "transactions": "transactions",
        "longest ms": "longest_ms",
        "longest commit ms": "commit_ms",
        "the other process: writes": "writes",
        "longest ms ": "write_longest_ms",
        "p99 ms": "write_p99_ms",
        "failed": "failed",
    }
    lines = [
        f"{result['date']}, commit {result['commit']}, {result['cores']} cores, load {result['load']} before, "
        f"{result['machine']}, Python {result['python']}, SQLite {result['sqlite']}.",
        "",
        f"{result['entries']:,} masks of {_MASK_BYTES} bytes on the disk. Another process writes small values, one "
        "after the other, all the while; compare with what it notices of nothing. A commit may take in SQLite's "
        "checkpoint, which lets others write.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
    ]
    for work in result["works"]:
        values = [
            f"{value:,.1f}" if isinstance(value := work[name], float) else str(value) for name in columns.values()
        ]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


async def _run(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    store = _store(folder)
    await store.open()
    _fill(folder, plan.entries)
    works: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("nothing", lambda: asyncio.sleep(1.0)),
        ("another policy", lambda: store.reconfigure(ranking=choose("lru").ranking)),
        ("purge of a model of which nothing is held", lambda: store.delete("v1/*/*/*/none@*")),
        ("purge of one image (20 masks)", lambda: store.delete(f"v1/public/{5:064x}/*")),
        ("purge of a model (a quarter)", lambda: store.delete("v1/*/*/*/m0@*")),
        ("half the budget", lambda: store.reconfigure(budget_bytes=plan.entries * _MASK_BYTES // 2)),
        ("purge of everything", lambda: store.delete("v1/public/*")),
        ("sweep", store.sweep),
    ]
    rows = [await _measure(folder, name, work) for name, work in works]
    await store.aclose()
    return rows


async def _measure(folder: Path, name: str, work: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_write, args=(folder, there))
    process.start()
    await asyncio.to_thread(here.recv)  # it has begun
    with _timed() as seconds_each:
        started = time.perf_counter()
        await work()
        seconds = time.perf_counter() - started
    here.send("stop")
    took, failed = await asyncio.to_thread(here.recv)
    process.join()
    took.sort()
    return {
        "name": name,
        "seconds": seconds,
        "transactions": len(seconds_each),
        "longest_ms": 1e3 * max((work for work, _ in seconds_each), default=0.0),
        "commit_ms": 1e3 * max((commit for _, commit in seconds_each), default=0.0),
        "writes": len(took),
        "write_longest_ms": 1e3 * took[-1],
        "write_p99_ms": 1e3 * took[int(0.99 * len(took))],
        "failed": failed,
    }


@contextlib.contextmanager
def _timed() -> Iterator[list[tuple[float, float]]]:
    """Seconds of each transaction of this process, and of its commit."""
    seconds: list[tuple[float, float]] = []
    original = Connections.transaction

    @contextlib.contextmanager
    def change(self: Connections) -> Iterator[Transaction]:
        started = done = 0.0
        with original(self) as made:
            started = time.perf_counter()  # the lock is had
            yield made
            done = time.perf_counter()
        seconds.append((done - started, time.perf_counter() - done))

    Connections.transaction = change  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Connections.transaction = original  # type: ignore[method-assign]


def _write(folder: Path, pipe: Connection) -> None:
    """The other process: small values, one after the other, until it is told to stop."""
    asyncio.run(_writing(folder, pipe))


async def _writing(folder: Path, pipe: Connection) -> None:
    store = _store(folder)
    await store.open()
    took: list[float] = []
    failed = 0
    pipe.send("begun")
    while not took or not pipe.poll():
        key = f"v1/other/{time.monotonic_ns():064x}/mask/m@1/{'0' * 32}"
        started = time.perf_counter()
        try:
            await store.put(key, Entry(Kind.MASK, b"x" * 600, 0.02, time.time()))
        except StoreFailed:
            failed += 1
        took.append(time.perf_counter() - started)
        await asyncio.sleep(0.005)
    await store.aclose()
    pipe.send((took, failed))


def _store(folder: Path) -> DiskStore:
    # Another policy would be brought back by a process that opens with this one: then both rank anew.
    return DiskStore(folder, budget_bytes=8 << 30, idle_s=None, max_age_s=None, ranking=choose("gds").ranking)


def _fill(folder: Path, entries: int) -> None:
    now = time.time()
    with closing(sqlite3.connect(folder / INDEX)) as db, db:
        db.executemany(
            "INSERT INTO entries"
            " (key, tenant, grp, kind, size, cost, created, used, formula, base, rank, use, state, file)"
            " VALUES (?, 'public', ?, 'mask', ?, 0.02, ?, ?, 1, 0.0, ?, ?, 'ready', NULL)",
            (
                (
                    f"v1/public/{number // 20:064x}/mask/m{number % 4}@1/{number:032x}",
                    f"v1/public/{number // 20:064x}/",
                    _MASK_BYTES,
                    now,
                    now,
                    0.02 / _MASK_BYTES,
                    number,
                )
                for number in range(entries)
            ),
        )
        db.execute("INSERT INTO inline SELECT id, zeroblob(size) FROM entries")
