"""Leases on a disk: what the contract of all leases does not say."""

import multiprocessing
import multiprocessing.synchronize
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.doubles import TOY, image_bytes, keys_of, until

from labeling_ground.cache.choose import choose
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.folder import LEASES
from labeling_ground.cache.disk.lease import DiskLeases
from labeling_ground.cache.lease import Claim
from labeling_ground.errors import StoreFailed

pytestmark = pytest.mark.anyio

KEY = keys_of(image_bytes(1)).embedding(TOY)
LONG_S = 60.0


def disk_in(folder: Path) -> DiskStore:
    return DiskStore(folder, budget_bytes=1 << 20, idle_s=60.0, max_age_s=None, ranking=choose("gds").ranking)


@pytest.fixture
async def leases(tmp_path: Path) -> AsyncIterator[DiskLeases]:
    store = disk_in(tmp_path)
    found = DiskLeases(store, tmp_path)
    yield found
    await found.aclose()
    await store.aclose()


def _hold(folder: Path, taken: "multiprocessing.synchronize.Event") -> None:
    """A process that takes the lease and never gives it back."""
    import asyncio

    async def hold() -> None:
        assert await DiskLeases(disk_in(folder), folder).take(KEY, "theirs", LONG_S) is Claim.GRANTED
        taken.set()
        await asyncio.sleep(10 * LONG_S)

    asyncio.run(hold())


async def test_a_lease_ends_with_the_process_that_holds_it_long_before_its_time(
    leases: DiskLeases, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    taken = spawn.Event()
    holder = spawn.Process(target=_hold, args=(tmp_path, taken), daemon=True)
    holder.start()
    await until(taken.is_set)
    assert await leases.take(KEY, "ours", LONG_S) is Claim.TAKEN
    async with leases.listen(KEY) as news:
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        await until(news.is_set)
    assert await leases.take(KEY, "ours", LONG_S) is Claim.GRANTED
    holder.join(LONG_S)


async def test_a_look_up_that_fails_keeps_no_lease(leases: DiskLeases, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: DiskStore, key: str) -> bool:
        raise StoreFailed("the disk does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(DiskStore, "has", fail)
        with pytest.raises(StoreFailed):
            await leases.take(KEY, "a", LONG_S)
    assert await leases.take(KEY, "b", LONG_S) is Claim.GRANTED


async def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    leases = DiskLeases(disk_in(tmp_path), tmp_path)
    with pytest.raises(StoreFailed, match="it holds something else"):
        await leases.take(KEY, "a", LONG_S)
    assert not (tmp_path / LEASES).exists()
    await leases.aclose()
