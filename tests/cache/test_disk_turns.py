"""No work on many entries keeps the disk's write lock: it is many short transactions, and others write in between."""

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.connections import Connections, Transaction
from labeling_ground.cache.disk.folder import INDEX
from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cache.policies.lru import LeastRecentlyUsed
from labeling_ground.cache.policies.port import Ranking
from labeling_ground.errors import StoreFailed
from labeling_ground.types import Entry, Kind

pytestmark = pytest.mark.anyio

ENTRIES = 3_000
SIZE = 1_000
NOW = 1_700_000_000.0
GROUP = f"v1/public/{'a' * 64}/"
BATCH = 256
A_ROW = 5
"""Rows that change with an entry: its own, its value's, the totals', its tenant's."""


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def build(folder: Path, clock: Clock, ranking: Ranking | None = None, idle_s: float | None = 1800.0) -> DiskStore:
    return DiskStore(
        folder,
        budget_bytes=ENTRIES * SIZE * 2,
        idle_s=idle_s,
        max_age_s=None,
        ranking=ranking or GreedyDualSize(),
        clock=clock,
    )


async def fill(store: DiskStore, folder: Path) -> None:
    await store.open()
    rows = [
        (f"{GROUP}mask/{'old' if number % 2 else 'new'}@1/{number:032x}", GROUP, SIZE, 1.0 + number, NOW, NOW, number)
        for number in range(ENTRIES)
    ]
    with closing(sqlite3.connect(folder / INDEX)) as db, db:
        db.executemany(
            "INSERT INTO entries"
            " (key, tenant, grp, kind, size, cost, created, used, formula, base, rank, use, state, file)"
            " VALUES (?, 'public', ?, 'mask', ?, ?, ?, ?, (SELECT formula FROM progress), 0, 0, ?, 'ready', NULL)",
            rows,
        )
        db.execute("INSERT INTO inline SELECT id, zeroblob(size) FROM entries")


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each transaction from now on changes."""
    changed: list[int] = []
    change = Connections.transaction

    @contextlib.contextmanager
    def counted(self: Connections) -> Iterator[Transaction]:
        with change(self) as made:
            before = made.db.total_changes
            yield made
            changed.append(made.db.total_changes - before)

    monkeypatch.setattr(Connections, "transaction", counted)
    return changed


async def writing_beside(other: DiskStore, work: Awaitable[Any]) -> int:
    """Do the work while another process writes all the while; how often it wrote."""
    task = asyncio.ensure_future(work)
    for written in itertools.count():
        if task.done():
            await task
            return written
        await other.put(f"v1/beside/{written:064x}/mask/m@1/{'0' * 32}", Entry(Kind.MASK, b"x" * 10, 1.0, NOW))
    raise AssertionError


async def idle(store: DiskStore, clock: Clock) -> None:
    clock.now += 1800.0
    await store.sweep()


async def ahead(store: DiskStore, clock: Clock) -> None:
    clock.now -= 1e6
    await store.sweep()


async def large(store: DiskStore, clock: Clock) -> None:
    """A value for which some thousand small ones must go."""
    await store.reconfigure(budget_bytes=ENTRIES * SIZE)
    await store.put("v1/large/x/embedding/m@1", Entry(Kind.EMBEDDING, bytes(ENTRIES * SIZE // 8), 1.0, NOW))


WORKS: dict[str, Callable[[DiskStore, Clock], Awaitable[Any]]] = {
    "another policy": lambda store, _: store.reconfigure(ranking=LeastRecentlyUsed()),
    "purge of a model": lambda store, _: store.delete("v1/*/*/*/old@*"),
    "purge of an image": lambda store, _: store.delete(f"{GROUP}*"),
    "purge of everything": lambda store, _: store.delete("v1/public/*"),
    "sweep": idle,
    "sweep after the clock was set back": ahead,
    "smaller budget": lambda store, _: store.reconfigure(budget_bytes=SIZE),
    "done": lambda store, _: store.mark_done(GROUP, True),
    "large value": large,
}


@pytest.mark.parametrize("name", WORKS)
async def test_work_on_all_entries_is_many_transactions_and_another_process_writes_in_between(
    tmp_path: Path, clock: Clock, transactions: list[int], name: str
) -> None:
    store, other = build(tmp_path, clock), build(tmp_path, clock, idle_s=None)
    await fill(store, tmp_path)
    await other.open()
    transactions.clear()
    written = await writing_beside(other, WORKS[name](store, clock))
    assert max(transactions) <= BATCH * A_ROW
    if name != "large value":
        assert written >= 3
    await store.aclose()
    await other.aclose()


async def test_a_transaction_ends_when_it_takes_long_however_few_entries_it_had(
    tmp_path: Path, clock: Clock, transactions: list[int]
) -> None:
    """On a slow disk a batch is smaller; all of it is done all the same."""
    store = build(tmp_path, clock)
    await store.open()
    for number in range(5):
        await store.put(f"{GROUP}mask/m@1/{number:032x}", Entry(Kind.MASK, bytes(10), 1.0, NOW))
    seconds = itertools.count()
    store._index.connections._clock = lambda: float(next(seconds))
    transactions.clear()
    assert await store.delete("v1/*") == 5
    assert (await store.stats()).entries == 0
    assert max(transactions) <= A_ROW
    for number in range(5):
        await store.put(f"{GROUP}mask/m@1/{number:032x}", Entry(Kind.MASK, bytes(10), 1.0, NOW))
    clock.now += 1800.0
    transactions.clear()
    assert await store.sweep() == 5
    assert max(transactions) <= A_ROW
    await store.aclose()


async def test_a_wide_purge_that_means_nothing_holds_no_lock_while_it_looks(
    tmp_path: Path, clock: Clock, transactions: list[int]
) -> None:
    store = build(tmp_path, clock)
    await fill(store, tmp_path)
    transactions.clear()
    statements: list[str] = []

    def watch() -> None:
        store._index.connections.get().set_trace_callback(statements.append)

    await store._threads.write(watch)
    assert await store.delete("v1/*/*/*/no-such-model@*") == 0
    assert len(transactions) == 2, "to note it, and to note that it is done"
    within, scans = False, []
    for statement in statements:
        within = statement.startswith("BEGIN") or (within and not statement.startswith("COMMIT"))
        if within and "GLOB" in statement and "state <> 'ready'" not in statement:
            scans.append(statement)
    assert scans == []
    await store.aclose()


async def test_while_ranks_are_computed_anew_the_old_order_holds_and_the_floor_is_not_spoilt(
    tmp_path: Path, clock: Clock
) -> None:
    """A rank under LRU is a time, some 1.7e9: as a floor for GreedyDual-Size it would outweigh every cost."""
    store = build(tmp_path, clock, LeastRecentlyUsed())
    await fill(store, tmp_path)
    await store.reconfigure(budget_bytes=ENTRIES * SIZE, ranking=None)
    await asyncio.to_thread(store._index.eviction.set_ranking, GreedyDualSize())  # and nothing is ranked anew yet
    await store.put("v1/new/x/mask/m@1/0", Entry(Kind.MASK, bytes(SIZE), 1e-9, NOW))
    with closing(sqlite3.connect(tmp_path / INDEX)) as db:
        assert db.execute("SELECT floor FROM progress").fetchone() == (0.0,)
        assert db.execute("SELECT min(use) FROM entries WHERE use < ?", (ENTRIES,)).fetchone()[0] > 0
    assert await store.has("v1/new/x/mask/m@1/0")
    await store.aclose()


async def test_ranks_are_brought_up_to_date_by_whoever_comes_next(tmp_path: Path, clock: Clock) -> None:
    """The process that changed the formula was killed in the middle."""
    store = build(tmp_path, clock)
    await fill(store, tmp_path)
    await asyncio.to_thread(store._index.eviction.set_ranking, LeastRecentlyUsed())
    await store.aclose()
    store = build(tmp_path, clock, LeastRecentlyUsed())
    await store.open()
    await store.sweep()
    with closing(sqlite3.connect(tmp_path / INDEX)) as db:
        assert db.execute("SELECT count(*), min(rank), max(rank) FROM entries").fetchone() == (ENTRIES, NOW, NOW)
    await store.aclose()


async def test_a_value_for_which_no_room_can_be_made_pushes_nothing_out(tmp_path: Path, clock: Clock) -> None:
    store = build(tmp_path, clock)
    await store.open()
    await store.reconfigure(budget_bytes=80_000)
    for number in range(8):
        held = Entry(Kind.EMBEDDING, bytes(9_900), 1.0, NOW)
        assert await asyncio.to_thread(store._index._reserve, f"v1/a/{number}/image", held, f"aa/{number}.bin", NOW)
    await store.put("v1/a/ready/mask/m@1/0", Entry(Kind.MASK, bytes(500), 1.0, NOW))
    with pytest.raises(StoreFailed, match="no room"):
        await store.put("v1/a/b/mask/m@1/0", Entry(Kind.MASK, bytes(1_400), 1.0, NOW))
    assert await store.has("v1/a/ready/mask/m@1/0")
    await store.aclose()


async def test_no_statement_that_holds_the_write_lock_goes_through_all_entries(tmp_path: Path, clock: Clock) -> None:
    """Neither for one value nor for many: each finds its rows by an index."""
    store = build(tmp_path, clock)
    await fill(store, tmp_path)
    statements: list[str] = []

    def watch() -> None:
        store._index.connections.get().set_trace_callback(statements.append)

    await store._threads.write(watch)
    small, large = (Entry(Kind.EMBEDDING, bytes(size), 1.0, NOW) for size in (100, 100_000))
    for key, value in (("v1/a/b/embedding/m@1", small), ("v1/a/c/embedding/m@1", large)):
        for _ in range(2):
            await store.put(key, value, NOW - 1.0)
            clock.now += 100.0
            await store.touch(key)
    await store.delete("v1/a/c/embedding/m@1")
    await store.delete("v1/*/*/*/new@*")
    await store.drop_damaged("v1/a/b/embedding/m@1")
    await store.mark_done(GROUP, True)
    await store.reconfigure(ranking=LeastRecentlyUsed(), budget_bytes=ENTRIES * SIZE // 4, uses=[("v1/a", NOW)])
    store._limits.max_age_s = 1000.0
    clock.now += 1800.0
    await store.sweep()
    await store.aclose()
    within, held = False, set[str]()
    for statement in statements:
        within = statement.startswith("BEGIN") or (within and not statement.startswith(("COMMIT", "ROLLBACK")))
        if within and statement.startswith(("SELECT", "UPDATE", "DELETE")):
            held.add(statement)
    assert len(held) > 50
    with closing(sqlite3.connect(tmp_path / INDEX)) as db:
        for statement in held:
            for *_, step in db.execute(f"EXPLAIN QUERY PLAN {statement}"):
                # In the order of an index, up to a limit; or through those that are being written, which are few.
                by_order = "USING INDEX" in step and ("LIMIT" in statement or "unfinished" in step)
                assert not step.startswith("SCAN entries") or by_order, statement
                assert "key>" not in step, statement
