"""The file that sessions outlive the process in: bounded, private, and no reason to fail when it is damaged."""

import asyncio
import gc
import shutil
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.doubles import Clock

from labeling_ground.cache.disk.folder import SESSIONS
from labeling_ground.cache.disk.state_store import DiskStateStore
from labeling_ground.errors import StoreFailed

pytestmark = pytest.mark.anyio

VALUE = b"value"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def state_store(tmp_path: Path, clock: Clock) -> AsyncIterator[DiskStateStore]:
    """One that keeps three states."""
    made = DiskStateStore(tmp_path / "cache", most=3, clock=clock)
    yield made
    await made.aclose()


def rows(folder: Path) -> int:
    db = sqlite3.connect(folder / SESSIONS)
    try:
        return int(db.execute("SELECT count(*) FROM logs").fetchone()[0])
    finally:
        db.close()


async def test_only_its_owner_can_read_it(state_store: DiskStateStore, tmp_path: Path) -> None:
    await state_store.write("a", b"", VALUE, 60, anew=True)
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    for file in (tmp_path / "cache").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


async def test_the_one_unused_for_longest_makes_room(state_store: DiskStateStore, tmp_path: Path, clock: Clock) -> None:
    for name in "abc":
        await state_store.write(name, b"", VALUE, 60, anew=True)
        clock.now += 1
    again = VALUE + b"again"
    await state_store.write("a", VALUE, b"again", 60, anew=False)
    await state_store.write("d", b"", VALUE, 60, anew=True)
    assert [await state_store.load(name) for name in "abcd"] == [again, b"", VALUE, VALUE]
    assert rows(tmp_path / "cache") == 3


async def test_what_has_run_out_is_deleted(state_store: DiskStateStore, tmp_path: Path, clock: Clock) -> None:
    await state_store.write("a", b"", VALUE, 60, anew=True)
    await state_store.write("b", b"", VALUE, 61, anew=True)
    clock.now += 60
    await state_store.sweep()
    assert rows(tmp_path / "cache") == 1
    assert await state_store.load("b") == VALUE


async def test_it_outlives_its_process_without_being_closed(
    state_store: DiskStateStore, tmp_path: Path, clock: Clock
) -> None:
    await state_store.write("a", b"", VALUE, 60, anew=True)
    other = DiskStateStore(tmp_path / "cache", most=3, clock=clock)
    assert await other.load("a") == VALUE
    await other.aclose()


async def test_a_damaged_file_fails_once_and_is_begun_anew(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / SESSIONS).write_bytes(b"no database" * 1000)
    state_store = DiskStateStore(tmp_path, most=3, clock=clock)
    with pytest.raises(StoreFailed):
        await state_store.load("a")
    assert await state_store.load("a") == b""
    assert await state_store.write("a", b"", VALUE, 60, anew=True) == (True, VALUE)
    await state_store.aclose()


async def test_where_there_is_no_room_nothing_is_saved_and_what_there_is_can_be_loaded(
    state_store: DiskStateStore,
) -> None:
    await state_store.write("a", b"", VALUE, 60, anew=True)
    assert state_store._db is not None
    pages = state_store._db.execute("PRAGMA page_count").fetchone()[0]
    state_store._db.execute(f"PRAGMA max_page_count = {pages}").fetchall()  # as full as a disk: it answers the same
    large = bytes(100_000)
    assert await state_store.write("b", b"", large, 60, anew=True) is None
    assert await state_store.load("a") == VALUE
    assert await state_store.load("b") == b""
    state_store._db.execute("PRAGMA max_page_count = 1000000").fetchall()
    assert await state_store.write("b", b"", large, 60, anew=True) == (True, large)


async def test_a_folder_that_somebody_cleared_is_made_anew(state_store: DiskStateStore, tmp_path: Path) -> None:
    await state_store.write("a", b"", VALUE, 60, anew=True)
    shutil.rmtree(tmp_path / "cache")
    assert await state_store.load("a") == b""
    assert await state_store.write("a", b"", VALUE, 60, anew=True) == (True, VALUE)
    assert rows(tmp_path / "cache") == 1


async def test_a_file_in_the_place_of_one_that_is_gone_or_damaged_is_met_as_another(
    state_store: DiskStateStore, tmp_path: Path
) -> None:
    """Though file systems give it the inode of the one before, as soon as nothing has that open any more."""
    file = tmp_path / "cache" / SESSIONS

    async def place() -> str:
        return (await state_store.meet("a", 60))[1]

    first = await place()
    assert await place() == first
    shutil.rmtree(file.parent)
    second = await place()
    assert await place() == second
    state_store._close()
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreFailed):
        await place()
    assert len({first, second, await place()}) == 3


async def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    state_store = DiskStateStore(tmp_path / "file" / "cache", most=3)
    with pytest.raises(StoreFailed, match=r"sessions\.sqlite3"):
        await state_store.write("a", b"", VALUE, 60, anew=True)
    await state_store.aclose()


async def test_a_closed_one_fails_like_any_other(tmp_path: Path) -> None:
    state_store = DiskStateStore(tmp_path, most=3)
    await state_store.aclose()
    with pytest.raises(StoreFailed, match="closed"):
        await state_store.load("a")


async def test_two_processes_lose_no_change(tmp_path: Path) -> None:
    """Each adds its lines to what it knew first, and replaces a number by the next one, over and over."""
    stores = [DiskStateStore(tmp_path, most=3) for _ in range(2)]
    await stores[0].write("lines", b"", b"first\n", 60, anew=True)

    async def count(state_store: DiskStateStore) -> None:
        seen = b""
        for _ in range(30):
            await state_store.write("lines", b"first\n", b"line\n", 60, anew=False)
            while True:
                new = str(int(seen or b"0") + 1).encode()
                written = await state_store.write("number", seen, new, 60, anew=True)
                assert written is not None
                done, seen = written
                if done:
                    break

    await asyncio.gather(*(count(state_store) for state_store in stores))
    assert await stores[0].load("number") == b"60"
    assert await stores[0].load("lines") == b"first\n" + 60 * b"line\n"
    for state_store in stores:
        await state_store.aclose()


async def test_a_log_is_replaced_at_once_where_it_is_just_what_was_seen(
    state_store: DiskStateStore, tmp_path: Path, clock: Clock
) -> None:
    assert not state_store.replace_at_once("a", b"", VALUE, 60), "nothing is open, and opening takes its time"
    await state_store.write("a", b"", VALUE, 60, anew=True)
    assert state_store.replace_at_once("a", VALUE, b"next", 60)
    other = DiskStateStore(tmp_path / "cache", most=3, clock=clock)  # another process, and this one is not closed
    assert await other.load("a") == b"next"
    assert not state_store.replace_at_once("a", VALUE, b"late", 60), "it is another one by now"
    assert not state_store.replace_at_once("b", b"", VALUE, 60), "there may be no room for a new one"
    await other.write("a", b"next", b" line", 60, anew=False)
    assert not state_store.replace_at_once("a", b"next", b"mine", 60), "the other one has added to it"
    assert await state_store.load("a") == b"next line"
    clock.now += 60
    assert not state_store.replace_at_once("a", b"next line", VALUE, 60), "its time has run out"
    await other.aclose()


async def test_replacing_a_log_at_once_waits_for_nobody(
    state_store: DiskStateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await state_store.write("a", b"", VALUE, 60, anew=True)
    db = sqlite3.connect(tmp_path / "cache" / SESSIONS, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    assert not state_store.replace_at_once("a", VALUE, b"next", 60), "somebody else is writing"
    db.execute("ROLLBACK")
    db.close()
    monkeypatch.setattr("labeling_ground.cache.disk.state_store._SLOW_S", -1.0)
    assert state_store.replace_at_once("a", VALUE, b"next", 60)
    monkeypatch.setattr(state_store, "_rests_until", state_store._rests_until + 60)
    assert not state_store.replace_at_once("a", b"next", b"more", 60), "a slow disk is left to the thread for a while"
    assert await state_store.write("a", b"next", b" more", 60, anew=False) == (True, b"next more")


async def test_what_is_written_at_once_does_not_pile_up(state_store: DiskStateStore, tmp_path: Path) -> None:
    await state_store.write("a", b"", b"0", 60, anew=True)
    for number in range(2000):
        assert state_store.replace_at_once("a", b"%d" % number, b"%d" % (number + 1), 60)
        if number % 100 == 0:
            await state_store.load("a")  # behind what the thread does meanwhile
    log = (tmp_path / "cache" / SESSIONS).with_name(f"{SESSIONS}-wal")
    assert log.stat().st_size < 2000 * 4096


async def test_what_was_saved_while_the_clock_was_ahead_ends_when_it_is_set_back(
    state_store: DiskStateStore, tmp_path: Path, clock: Clock
) -> None:
    clock.now += 86_400.0
    await state_store.write("a", b"", VALUE, 60, anew=True)
    clock.now -= 86_400.0
    await state_store.write("b", b"", VALUE, 30, anew=True)
    await state_store.sweep()
    clock.now += 59.0
    assert await state_store.load("a") == VALUE
    clock.now += 1.0
    await state_store.sweep()
    assert await state_store.load("a") == b""
    assert rows(tmp_path / "cache") == 0


async def test_one_tenants_flood_of_states_ends_none_of_the_others(tmp_path: Path) -> None:
    """The beginning of a name says whose it is."""
    clock = Clock()
    state_store = DiskStateStore(tmp_path / "shared", most=10, tenant_share=0.5, clock=clock)
    small = ["5" * 16 + str(number) for number in range(3)]
    for name in small:
        await state_store.write(name, b"", b"small", 1800.0, anew=True)
    for number in range(30):
        clock.now += 1
        await state_store.write("f" * 16 + str(number), b"", b"flood", 1800.0, anew=True)
    assert [name for name in small if not await state_store.load(name)] == []
    assert await state_store.load("f" * 16 + "29")
    assert await state_store.load("f" * 16 + "20") == b""
    await state_store.aclose()


async def test_a_failure_whose_asker_has_left_is_not_an_error_of_the_event_loop(tmp_path: Path) -> None:
    """It was, with a traceback in the log: a disk that is slow and then fails outlasts the deadlines of its askers."""
    complaints: list[dict[str, Any]] = []
    store = DiskStateStore(tmp_path / "cache", most=3)
    loop, began, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    def fail(_: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(began.set)
        go_on.wait(60)
        raise sqlite3.OperationalError("disk I/O error")

    try:
        asking = asyncio.create_task(store._do(fail))
        await began.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    finally:
        go_on.set()
        await store.aclose()
    await asyncio.sleep(0)  # the loop hears of the failure
    del asking
    gc.collect()
    assert complaints == []
