"""What the disk tier does beyond the port: restarts, kills, other processes, damage, a full disk."""

import asyncio
import errno
import hashlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.files import GRACE_S, ObjectFiles
from labeling_ground.cache.disk.folder import INDEX, VALUES
from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cache.policies.lru import LeastRecentlyUsed
from labeling_ground.cache.policies.port import Ranking
from labeling_ground.errors import StoreFailed, StoreFull
from labeling_ground.types import Entry, Kind

pytestmark = pytest.mark.anyio

LARGE = 50_000
A, B = "v1/public/a/image", "v1/public/b/image"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def build(
    folder: Path,
    clock: Clock,
    budget: int = 800_000,
    ranking: Ranking | None = None,
    low_watermark: float = 0.9,
    idle_s: float | None = 1800.0,
    max_age_s: float | None = None,
    lock_s: float = 5.0,
) -> DiskStore:
    return DiskStore(
        folder,
        budget_bytes=budget,
        idle_s=idle_s,
        max_age_s=max_age_s,
        ranking=ranking or GreedyDualSize(),
        low_watermark=low_watermark,
        lock_s=lock_s,
        clock=clock,
    )


def entry(size: int = LARGE, seed: int = 0) -> Entry:
    return Entry(Kind.IMAGE, random.Random(seed).randbytes(size), 1.0, 1_700_000_000.0)


def objects(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{VALUES}/*/*") if path.is_file()]


def everything(folder: Path) -> list[Path]:
    """All paths below, the deepest first."""
    return sorted(folder.rglob("*"), reverse=True)


def sql(folder: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / INDEX, isolation_level=None)) as db:
        return db.execute(statement).fetchall()


async def test_a_restart_loses_nothing(folder: Path, clock: Clock) -> None:
    """Entries, figures and the order of eviction are there after a clean restart."""
    store = build(folder, clock)
    put = {f"v1/public/{n}/image": entry(LARGE if n % 2 else 100, n) for n in range(10)}
    for key, value in put.items():
        await store.put(key, value)
    before = await store.stats()
    await store.aclose()
    store = build(folder, clock)
    assert await store.stats() == before
    for key, value in put.items():
        assert await store.get(key) == value
    await store.aclose()
    await store.aclose()


async def test_only_the_owner_may_read(folder: Path, clock: Clock) -> None:
    """Directories are 0700 and files 0600."""
    store = build(folder, clock)
    await store.put(A, entry())
    for path in [folder, *everything(folder)]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    await store.aclose()


async def test_a_closed_store_says_so(folder: Path, clock: Clock) -> None:
    """Use after close is a failure with a sentence, not a hang."""
    store = build(folder, clock)
    await store.aclose()
    with pytest.raises(StoreFailed, match="closed"):
        await store.get(A)


FILL_BUDGET = 4_000_000
FILL_KEYS = 400


def value_of(key: str) -> bytes:
    """What belongs under a key: from 1 byte to 120 kB, so in SQLite and in files."""
    seed = hashlib.sha256(key.encode()).digest()
    return random.Random(seed).randbytes(1 + int.from_bytes(seed[:3]) % 120_000)


def key_of(number: int) -> str:
    return f"v1/public/{number:064x}/embedding/m@1"


def open_store(folder: Path) -> DiskStore:
    return DiskStore(
        folder,
        budget_bytes=FILL_BUDGET,
        idle_s=1800.0,
        max_age_s=None,
        ranking=GreedyDualSize(),
    )


async def fill(folder: Path, seed: int, count: int) -> None:
    dice = random.Random(seed)
    store = open_store(folder)
    print("begun", flush=True)  # noqa: T201 -- what the parent waits for
    for _ in range(count):
        key = key_of(dice.randrange(FILL_KEYS))
        found = await store.get(key)
        if found is None:
            await store.put(key, Entry(Kind.EMBEDDING, value_of(key), 1.0, 1.0))
        elif found.value != value_of(key):
            sys.exit(f"wrong value for {key}")
        if (await store.stats()).bytes > FILL_BUDGET:
            sys.exit("over budget")
    await store.aclose()


def launch(folder: Path, seed: int, count: int) -> "subprocess.Popen[str]":
    """Another process on the directory, past its imports."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(seed), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.fixture
def dice() -> random.Random:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"dice {seed}")  # noqa: T201 -- shown when the test fails
    return random.Random(seed)


async def test_a_kill_at_any_instant_leaves_a_whole_cache(folder: Path, dice: random.Random) -> None:
    """After kill -9, every value that can be read is right, the figures are true, writing goes on."""
    for round_ in range(5):
        process = launch(folder, round_, 1_000_000)
        await asyncio.sleep(dice.uniform(0.02, 0.5))
        process.kill()
        process.communicate()
        store = open_store(folder)
        read = {}
        for number in range(FILL_KEYS):
            key = key_of(number)
            found = await store.get(key)
            if found is not None:
                assert found.value == value_of(key)
                read[key] = found.size
        stats = await store.stats()
        assert (stats.entries, stats.bytes) == (len(read), sum(read.values()))
        assert stats.bytes <= FILL_BUDGET
        assert stats.evictions["damaged"] == 0
        await store.put(A, entry())
        assert await store.get(A) == entry()
        assert await store.delete(A) == 1
        await store.aclose()


async def test_processes_share_one_directory_within_one_budget(folder: Path) -> None:
    """Three processes fill, read and evict at once: no wrong value, no error, never over budget."""
    processes = [launch(folder, seed, 250) for seed in range(3)]
    store = open_store(folder)
    seen = 0
    under_way = True
    while under_way:  # and once more when they have ended, which they may have done before the first look
        under_way = any(process.poll() is None for process in processes)
        assert (await store.stats()).bytes <= FILL_BUDGET
        for number in range(0, FILL_KEYS, 20):
            key = key_of(number)
            found = await store.get(key)
            if found is not None:
                seen += 1
                assert found.value == value_of(key)
    for process in processes:
        _, complaint = process.communicate()
        assert (process.returncode, complaint) == (0, "")
    stats = await store.stats()
    assert seen > 0
    files = sum(path.stat().st_size for path in objects(folder))
    assert files <= stats.bytes <= FILL_BUDGET
    rows = sql(folder, "SELECT count(*), sum(size) FROM entries")
    assert rows == [(stats.entries, stats.bytes)]
    await store.aclose()


async def test_two_stores_see_each_other(folder: Path, clock: Clock) -> None:
    """What one writes the other reads; what one evicts or purges is a miss to the other."""
    one, two = build(folder, clock), build(folder, clock)
    await one.put(A, entry())
    assert await two.get(A) == entry()
    await two.delete(A)
    assert await one.get(A) is None
    assert (await one.stats()).evictions["purge"] == 0
    assert (await two.stats()).evictions["purge"] == 1
    await one.aclose()
    await two.aclose()


@pytest.mark.parametrize("damage", ["short", "long", "gone"])
async def test_a_file_of_another_length_is_a_miss(folder: Path, clock: Clock, damage: str) -> None:
    """A file cut short, grown or gone is found out, thrown away and counted."""
    store = build(folder, clock)
    await store.put(A, entry())
    (path,) = objects(folder)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(entry().value[:-1] if damage == "short" else entry().value + b"x")
    assert await store.get(A) is None
    stats = await store.stats()
    assert (stats.entries, stats.bytes, stats.evictions["damaged"]) == (0, 0, 1)
    assert objects(folder) == []
    await store.put(A, entry())
    assert await store.get(A) == entry()
    await store.aclose()


async def test_a_turned_bit_is_the_callers_to_find(folder: Path, clock: Clock) -> None:
    """The length is all that is checked here; the frame inside the value has the checksum."""
    store = build(folder, clock)
    await store.put(A, entry())
    (path,) = objects(folder)
    wrong = bytes([entry().value[0] ^ 1]) + entry().value[1:]
    path.write_bytes(wrong)
    found = await store.get(A)
    assert found is not None
    assert found.value == wrong
    await store.drop_damaged(A)
    assert await store.get(A) is None
    await store.aclose()


@pytest.mark.parametrize("junk", [b"this is no database" * 100, b"SQLite format 3\0" + b"\1" * 5000])
async def test_a_broken_index_is_set_aside(
    folder: Path, clock: Clock, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no database is kept for a look, said in the log, and the cache starts empty."""
    store = build(folder, clock)
    await store.put(A, entry())
    await store.aclose()
    (folder / INDEX).write_bytes(junk)
    store = build(folder, clock)
    assert await store.get(A) is None
    assert "damaged" in caplog.text
    assert (folder / "labeling-ground-index.damaged").read_bytes() == junk
    assert objects(folder) == []
    await store.put(B, entry())
    assert await store.get(B) == entry()
    await store.aclose()


async def test_an_index_that_breaks_under_way_is_replaced(folder: Path, clock: Clock) -> None:
    """Damage found while running fails that one call, and the next ones work on an empty cache."""
    store = build(folder, clock)
    for number in range(200):
        await store.put(f"v1/public/{number}/image", entry(3000, number))
    await store.aclose()
    path = folder / INDEX
    data = bytearray(path.read_bytes())
    intact = 4096 * 24  # enough to open it
    data[intact:] = b"\xff" * (len(data) - intact)
    path.write_bytes(bytes(data))
    store = build(folder, clock)
    failures = 0
    for number in range(200):
        try:
            assert await store.get(f"v1/public/{number}/image") in (entry(3000, number), None)
        except StoreFailed:
            failures += 1
    assert 0 < failures <= 3
    await store.put(A, entry())
    assert await store.get(A) == entry()
    await store.aclose()


async def test_another_layout_starts_empty(folder: Path, clock: Clock) -> None:
    """An index of another release is not read, and its files are cleared away."""
    store = build(folder, clock)
    await store.put(A, entry())
    await store.aclose()
    sql(folder, "PRAGMA user_version = 99")
    store = build(folder, clock)
    assert await store.get(A) is None
    assert objects(folder) == []
    await store.aclose()


async def test_another_release_in_the_same_directory_is_left_alone(folder: Path, clock: Clock) -> None:
    """Who finds the index replaced by another layout while running stops, and does not fight."""
    store = build(folder, clock)
    await store.put(A, entry())
    for path in everything(folder):
        if path.name.startswith(INDEX):
            path.unlink()
    sql(folder, "CREATE TABLE t (x)")
    sql(folder, "PRAGMA user_version = 99")
    with pytest.raises(StoreFailed, match="another release"):
        await store.get(A)
    assert sql(folder, "PRAGMA user_version") == [(99,)]
    await store.aclose()


async def test_an_emptied_directory_is_made_anew(folder: Path, clock: Clock) -> None:
    """A person may clear the cache directory under a running server."""
    store = build(folder, clock)
    await store.put(A, entry())
    assert await store.get(A) == entry()
    for path in [*everything(folder), folder]:
        path.rmdir() if path.is_dir() else path.unlink()
    assert await store.get(A) is None
    await store.put(A, entry())
    assert await store.get(A) == entry()
    await store.aclose()


async def test_no_directory_is_a_failure_with_a_sentence(tmp_path: Path, clock: Clock) -> None:
    """A path through a file can hold no cache; the store says so and goes on saying so."""
    (tmp_path / "file").write_text("")
    store = build(tmp_path / "file" / "cache", clock)
    for _ in range(2):
        with pytest.raises(StoreFailed, match="is gone, or is no directory"):
            await store.open()
    with pytest.raises(StoreFailed):
        await store.get(A)
    await store.aclose()


async def test_a_directory_that_cannot_be_made_is_a_failure_with_a_sentence(clock: Clock) -> None:
    """Where nothing can be written, opening says so. (A file in the way stops root too, unlike permissions.)"""
    store = build(Path(__file__), clock)
    with pytest.raises(StoreFailed, match="is no directory"):
        await store.open()
    await store.aclose()


class FailingFiles(ObjectFiles):
    """A disk that takes half of a value and then fails."""

    def __init__(self, folder: Path, code: int) -> None:
        super().__init__(folder)
        self.code = code

    def write(self, name: str, value: bytes) -> None:
        super().write(name, value[: len(value) // 2])
        self.remove(name)
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.EROFS, "cannot be written"), (errno.EIO, "failed")],
)
async def test_a_failing_disk_is_a_failure_with_a_sentence(folder: Path, clock: Clock, code: int, says: str) -> None:
    """A value that could not be written is not there, costs no room, and the rest can be read."""
    store = build(folder, clock)
    await store.put(A, entry())
    store._index.files = FailingFiles(folder / VALUES, code)
    with pytest.raises(StoreFailed, match=says):
        await store.put(B, entry())
    assert await store.get(B) is None
    assert await store.get(A) == entry()
    stats = await store.stats()
    assert (stats.entries, stats.bytes) == (1, LARGE)
    assert sql(folder, "SELECT count(*) FROM entries") == [(1,)]
    await store.aclose()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_refuses_values_and_serves_what_it_has(
    folder: Path, clock: Clock, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = build(folder, clock)
    await store.put(A, entry())
    store._index.files = FailingFiles(folder / VALUES, code)
    for _ in range(3):
        await store.put(B, entry())
    assert await store.get(B) is None
    assert await store.get(A) == entry()
    stats = await store.stats()
    assert (stats.entries, stats.bytes, stats.refused) == (1, LARGE, 3)
    assert store.trouble == f"The disk under the cache directory {folder} is full."
    assert [record.message for record in caplog.records] == [
        f"disk: a value was not kept: The disk under the cache directory {folder} is full."
    ]
    store._index.files = ObjectFiles(folder / VALUES)
    await store.put(B, entry())
    assert store.trouble == ""
    await store.aclose()


async def test_an_index_that_cannot_be_made_is_no_tier_that_is_merely_full(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the start: nothing is served, so look-ups fail, and the tier says why."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = build(folder, clock)
    with monkeypatch.context() as patched:
        patched.setattr("labeling_ground.cache.disk.folder.make", full)
        for work in (store.open(), store.get(A), store.put(A, entry()), store.touch(A)):
            with pytest.raises(StoreFailed, match="is full") as failed:
                await work
            assert not isinstance(failed.value, StoreFull)
    await store.put(A, entry())
    assert await store.get(A) == entry()
    await store.aclose()


async def test_a_locked_index_is_a_failure_with_a_sentence(folder: Path, clock: Clock) -> None:
    """Another process that keeps the write lock delays a write, and then fails it; reads go on."""
    store = build(folder, clock, lock_s=0.05)
    await store.put(A, entry())
    assert await store.get(A) == entry()
    with closing(sqlite3.connect(folder / INDEX, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="in use by others"):
            await store.put(B, entry())
        assert await store.get(A) == entry()
    await store.put(B, entry())
    assert await store.get(B) == entry()
    await store.aclose()


async def reserve(store: DiskStore, folder: Path, clock: Clock) -> str:
    """What a process leaves that is killed while it writes A; returns the file's name."""
    await store.open()
    assert store._index._reserve(A, entry(), "aa/half.bin", clock.now)
    path = folder / VALUES / "aa" / "half.tmp"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    return "aa/half.bin"


async def test_what_a_killed_writer_left_is_reclaimed(folder: Path, clock: Clock) -> None:
    """A reservation cannot be read, takes its room for a while, and then gives it back."""
    store = build(folder, clock)
    await reserve(store, folder, clock)
    assert await store.get(A) is None
    assert (await store.stats()).bytes == 0
    await store.put(A, entry())
    assert await store.get(A) is None  # it may be another process's, which is still at it
    clock.now += GRACE_S
    await store.put(A, entry())
    assert await store.get(A) == entry()
    assert len(objects(folder)) == 1
    assert sql(folder, "SELECT count(*) FROM entries") == [(1,)]
    await store.aclose()


async def test_a_sweep_reclaims_too(folder: Path, clock: Clock) -> None:
    """Nobody has to write that key again."""
    store = build(folder, clock)
    await reserve(store, folder, clock)
    assert await store.sweep() == 0
    assert len(objects(folder)) == 1
    clock.now += GRACE_S
    await store.sweep()
    assert objects(folder) == []
    assert sql(folder, "SELECT sum(bytes) FROM totals") == [(0,)]
    await store.aclose()


async def test_what_is_being_written_counts_and_is_not_evicted(folder: Path, clock: Clock) -> None:
    """Reserved room cannot be given to others; if all is reserved a write fails with a sentence."""
    store = build(folder, clock, budget=8 * LARGE)
    await store.open()
    for number in range(8):
        key = f"v1/public/{number}/image"
        assert store._index._reserve(key, entry(), f"aa/{number}.bin", clock.now)
    with pytest.raises(StoreFailed, match="no room"):
        await store.put(B, entry())
    await store.aclose()


async def test_a_purge_reaches_what_is_being_written(folder: Path, clock: Clock) -> None:
    """A value whose key is purged while its file is written does not appear afterwards."""
    store = build(folder, clock)
    purger = build(folder, clock)
    await purger.open()

    class Purging(ObjectFiles):
        def write(self, name: str, value: bytes) -> None:
            super().write(name, value)
            purger._index.purging.go_on(purger._index.purging.begin("v1/*", clock.now))

    store._index.files = Purging(folder / VALUES)
    await store.put(A, entry())
    assert await store.get(A) is None
    assert objects(folder) == []
    assert sql(folder, "SELECT sum(bytes) FROM totals") == [(0,)]
    await store.aclose()
    await purger.aclose()


async def test_files_without_a_row_are_cleared_at_start(folder: Path, clock: Clock) -> None:
    """Orphans go once they are old enough not to be anybody's; rows without a file go as well."""
    store = build(folder, clock)
    await store.put(A, entry())
    await store.put(B, entry())
    await store.aclose()
    kept, lost = objects(folder)
    lost.unlink()
    old = time.time() - 2 * GRACE_S
    for name, age in (("old.bin", old), ("old2.tmp", old), ("new.bin", None), ("new2.tmp", None)):
        path = kept.parent / name
        path.write_bytes(b"x")
        if age is not None:
            os.utime(path, (age, age))
    store = build(folder, clock)
    await store.open()
    assert {path.name for path in objects(folder)} == {kept.name, "new.bin", "new2.tmp"}
    stats = await store.stats()
    assert (stats.entries, stats.bytes, stats.evictions["damaged"]) == (1, LARGE, 0)
    await store.aclose()


async def test_eviction_goes_down_to_the_low_watermark(folder: Path, clock: Clock) -> None:
    """Once something must go, room is made for the next ones too, and never above the budget."""
    store = build(folder, clock, budget=1000, low_watermark=0.5)
    for number in range(10):
        await store.put(f"v1/public/{number}/image", entry(100))
    assert (await store.stats()).bytes == 1000
    await store.put(A, entry(100))
    stats = await store.stats()
    assert (stats.bytes, stats.evictions["budget"]) == (500, 6)
    await store.aclose()


async def test_a_use_is_written_down_now_and_then(folder: Path, clock: Clock) -> None:
    """Reads soon after a noted use write nothing; later ones do."""
    store = build(folder, clock)
    await store.put(A, entry())
    uses = sql(folder, "SELECT uses FROM progress")
    for _ in range(5):
        clock.now += 10
        await store.get(A)
        await store.touch(A)
    await store.sweep()  # behind whatever was handed to the writer
    assert sql(folder, "SELECT uses FROM progress") == uses
    clock.now += 10
    await store.get(A)
    await store.sweep()
    assert sql(folder, "SELECT uses FROM progress") != uses
    assert sql(folder, "SELECT used FROM entries") == [(clock.now,)]
    await store.aclose()


async def test_another_ranking_takes_over_at_start(folder: Path, clock: Clock) -> None:
    """Entries kept under one formula are ranked anew under the next one."""
    store = build(folder, clock, budget=800)
    for number in range(8):
        cost = 8.0 - number
        await store.put(f"v1/public/{number}/image", Entry(Kind.IMAGE, bytes(100), cost, clock.now))
        clock.now += 1
    await store.aclose()
    store = build(folder, clock, budget=800, ranking=LeastRecentlyUsed(), low_watermark=1.0)
    await store.open()
    await store.put(A, entry(100))
    assert await store.get("v1/public/0/image") is None
    assert await store.get("v1/public/7/image") is not None
    await store.aclose()


async def test_the_budget_can_change_at_run_time(folder: Path, clock: Clock) -> None:
    """A smaller budget evicts at once; a larger one admits more."""
    store = build(folder, clock, budget=800)
    for number in range(8):
        await store.put(f"v1/public/{number}/image", entry(100))
    await store.reconfigure(budget_bytes=400)
    assert (await store.stats()).bytes == 300  # 90 % of 400 holds three
    await store.reconfigure(budget_bytes=8000, idle_s=None)
    await store.put(A, entry(1000))
    clock.now += 1e6
    assert await store.get(A) == entry(1000)
    await store.aclose()


async def test_a_much_smaller_budget_lets_others_have_their_turn(folder: Path, clock: Clock) -> None:
    """It is come near batch by batch; what is put meanwhile does not wait for the end."""
    store = build(folder, clock, budget=100_000)
    for number in range(700):
        await store.put(f"v1/public/{number}/image", entry(100))
    seen: list[int] = []
    shrinking = asyncio.create_task(store.reconfigure(budget_bytes=8_000))
    while not shrinking.done():
        await store.put(f"v1/public/new{len(seen)}/image", entry(100))
        seen.append((await store.stats()).bytes)
    await shrinking
    assert [size for size in seen if 8_000 < size < 60_000]
    last = await store.stats()
    assert (last.budget, last.bytes <= 8_000) == (8_000, True)
    assert await store.get(f"v1/public/new{len(seen) - 1}/image") is not None
    await store.aclose()


async def test_a_budget_that_cannot_be_reached_is_not_taken(folder: Path, clock: Clock) -> None:
    """The directory is gone: the limits stay what they were, and the next try works."""
    store = build(folder, clock, budget=800)
    await store.put(A, entry(100))
    away = await asyncio.to_thread(folder.rename, folder.with_name("elsewhere"))
    await asyncio.to_thread(folder.write_bytes, b"")  # a file in its place
    with pytest.raises(StoreFailed):
        await store.reconfigure(budget_bytes=400, idle_s=5.0)
    await asyncio.to_thread(folder.unlink)
    await asyncio.to_thread(away.rename, folder)
    assert (await store.stats()).budget == 800
    clock.now += 50
    assert await store.get(A) is not None
    await store.reconfigure(budget_bytes=400)
    assert (await store.stats()).budget == 400
    await store.aclose()


async def test_the_ranking_can_change_at_run_time(folder: Path, clock: Clock) -> None:
    """Nothing goes by the change; who goes next follows the new formula, done hints included."""
    store = build(folder, clock, budget=800, ranking=LeastRecentlyUsed(), low_watermark=1.0)
    for number in range(8):
        await store.put(f"v1/public/{number}/image", Entry(Kind.IMAGE, bytes(100), 8.0 - number, clock.now))
        clock.now += 1
    await store.mark_done("v1/public/0/", True)
    await store.reconfigure(ranking=GreedyDualSize(0.01))
    assert (await store.stats()).entries == 8
    for key in (A, B):
        await store.put(key, Entry(Kind.IMAGE, bytes(100), 100.0, clock.now))
    left = {number for number in range(8) if await store.get(f"v1/public/{number}/image") is not None}
    assert left == {1, 2, 3, 4, 5, 6}  # 0 is done, 7 was the cheapest; the oldest would have been 0 and 1
    await store.aclose()


@pytest.mark.parametrize("size", [100, LARGE])
@pytest.mark.parametrize("ranking", [GreedyDualSize(), LeastRecentlyUsed()], ids=["gds", "lru"])
async def test_what_a_tier_above_gave_up_goes_in_the_order_of_last_use(
    folder: Path, clock: Clock, ranking: Ranking, size: int
) -> None:
    """Not as what was just used: it goes before what was used since."""
    store = build(folder, clock, budget=8 * size, ranking=ranking, low_watermark=1.0)
    for number in range(12):  # the first ones go, which raises the floor
        clock.now += 1
        await store.put(f"v1/public/{number}/image", entry(size, number))
    held = {f"v1/public/{number}/image" for number in range(4, 12)}
    await store.put(A, entry(size), clock.now - 4.5)  # between 6 and 7; 4 makes room for it
    for number in range(3):  # 5, 6, A
        await store.put(f"v1/public/new {number}/image", entry(size, number))
    assert {key for key in held if await store.has(key)} == {f"v1/public/{number}/image" for number in range(7, 12)}
    assert await store.has(A) is False
    await store.aclose()


async def test_uses_above_are_noted_before_the_idle_time_shrinks(folder: Path, clock: Clock) -> None:
    """What a tier above had in use stays; what nobody used goes; a use that is older than the one noted is ignored."""
    store = build(folder, clock)
    other = "v1/public/other/image"
    await store.put(A, entry(100))
    await store.put(other, entry(100))
    clock.now += 40.0
    await store.reconfigure(idle_s=10.0, uses=[("v1/public/none/image", clock.now), (A, clock.now - 5.0)])
    await store.sweep()
    assert sql(folder, "SELECT key, used FROM entries") == [(A, clock.now - 5.0)]
    await store.reconfigure(uses=[(A, clock.now - 8.0)])
    assert sql(folder, "SELECT used FROM entries") == [(clock.now - 5.0,)]
    assert await store.get(other) is None
    await store.aclose()


AHEAD = 30 * 86_400.0


@pytest.mark.parametrize("is_used", [False, True])
async def test_what_was_made_while_the_clock_was_ahead_goes_idle_when_it_is_set_back(
    folder: Path, clock: Clock, is_used: bool
) -> None:
    store = build(folder, clock)
    clock.now += AHEAD
    await store.put(A, entry())
    clock.now -= AHEAD
    if is_used:
        assert await store.touch(A)
    assert await store.sweep() == 0
    assert sql(folder, "SELECT used FROM entries") == [(clock.now,)]
    clock.now += 1799.0
    assert await store.has(A)
    clock.now += 1.0
    assert await store.sweep() == 1
    assert (await store.stats()).evictions["idle"] == 1
    await store.aclose()


async def test_what_was_made_while_the_clock_was_ahead_grows_old_when_it_is_set_back(
    folder: Path, clock: Clock
) -> None:
    store = build(folder, clock, idle_s=None, max_age_s=100.0)
    await store.put(A, Entry(Kind.IMAGE, b"x", 1.0, clock.now + AHEAD))
    assert await store.sweep() == 0
    clock.now += 99.0
    assert await store.has(A)
    clock.now += 1.0
    assert await store.sweep() == 1
    await store.aclose()


async def test_what_was_being_written_while_the_clock_was_ahead_is_reclaimed(folder: Path, clock: Clock) -> None:
    store = build(folder, clock)
    clock.now += AHEAD
    await reserve(store, folder, clock)
    clock.now -= AHEAD
    await store.sweep()
    clock.now += GRACE_S
    await store.sweep()
    assert sql(folder, "SELECT count(*) FROM entries") == [(0,)]
    await store.aclose()


async def test_who_was_used_last_goes_last_though_the_clock_was_set_back_in_between(folder: Path, clock: Clock) -> None:
    store = build(folder, clock, budget=800, ranking=LeastRecentlyUsed(), low_watermark=1.0)
    clock.now += AHEAD
    for number in range(8):
        await store.put(f"v1/public/{number}/image", entry(100))
    clock.now -= AHEAD
    await store.touch("v1/public/0/image")
    await store.sweep()
    await store.put(A, entry(100))
    assert [await store.has(f"v1/public/{number}/image") for number in (0, 1, 2)] == [True, False, True]
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
