"""A disk tier on a full disk: ``unshare --mount python -m tests.cache.full_disk FOLDER``, for it mounts some.

The last line of stdout is a JSON object: by scenario, what went wrong; empty where nothing did.
"""

import asyncio
import json
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from labeling_ground import key as keys
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.folder import INDEX, RESERVE
from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.types import Entry, Kind

SMALL, LARGE = 10_000, 100_000
A, B, C = (f"v1/public/{letter * 64}" for letter in "abc")
"""Images: A and B with a large value and many small ones, C with small ones alone."""
OF_A, OF_B, OF_C = ([f"{image}/mask/{number}" for number in range(20)] for image in (A, B, C))


def store_in(folder: Path, idle_s: float | None = None, clock: Callable[[], float] = time.time) -> DiskStore:
    return DiskStore(
        folder / "cache",
        budget_bytes=2 << 20,
        idle_s=idle_s,
        max_age_s=None,
        ranking=GreedyDualSize(),
        listen_s=0.01,
        clock=clock,
    )


async def filled(store: DiskStore) -> DiskStore:
    for key in (f"{A}/embedding", f"{B}/embedding"):
        await store.put(key, Entry(Kind.EMBEDDING, bytes(LARGE), 1.0, 1.0))
    for key in (*OF_A, *OF_B, *OF_C):
        await store.put(key, Entry(Kind.MASK, bytes(SMALL), 1.0, 1.0))
    return store


def fill_disk(folder: Path) -> None:
    """Take the last byte of the disk, as another program does."""
    with (folder / "filler").open("ab", buffering=0) as filler:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while filler.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


async def held(store: DiskStore, *names: str) -> int:
    return sum([await store.has(key) for key in names])


async def purge_of_one_image_leaves_the_others(folder: Path) -> None:
    store = await filled(store_in(folder))
    fill_disk(folder)
    assert await store.delete(keys.pattern("public", "a" * 64)) == 21
    assert await held(store, *OF_A, f"{A}/embedding") == 0
    assert await held(store, *OF_B, *OF_C, f"{B}/embedding") == 41
    await store.aclose()


async def purge_of_an_image_without_files_leaves_the_others(folder: Path) -> None:
    store = await filled(store_in(folder))
    fill_disk(folder)
    assert await store.delete(keys.pattern("public", "c" * 64)) == 20
    assert await held(store, *OF_C) == 0
    assert await held(store, *OF_A, *OF_B, f"{B}/embedding") == 41
    await store.aclose()


async def purge_without_any_room_leaves_nothing_of_it(folder: Path) -> None:
    """Neither in this process nor in another one that reads, nor for one that is started later."""
    store, other = await filled(store_in(folder)), store_in(folder)
    told: list[str] = []

    async def tell(pattern: str) -> None:
        told.append(pattern)

    other.on_purge = tell
    await other.open()
    assert await held(other, *OF_C) == 20
    (folder / "cache" / RESERVE).unlink()
    fill_disk(folder)
    await store.delete(keys.pattern("public", "c" * 64))
    for each in (store, other):
        assert await held(each, *OF_C) == 0
    assert told
    await store.put(OF_A[0], Entry(Kind.MASK, bytes(SMALL), 1.0, 1.0))
    for each in (store, other):
        await each.aclose()
    late = store_in(folder)
    assert await held(late, *OF_C) == 0
    await late.aclose()


async def purge_on_a_disk_that_was_full_at_the_start(folder: Path) -> None:
    await (await filled(store_in(folder))).aclose()
    fill_disk(folder)
    store = store_in(folder)
    await store.delete(keys.pattern())
    assert await held(store, *OF_A, *OF_B, *OF_C) == 0
    await filled(store)
    assert await held(store, f"{A}/embedding", f"{B}/embedding", *OF_A, *OF_B, *OF_C) > 0, (
        "there is some room again, and it is used"
    )
    await store.aclose()


async def what_has_expired_goes(folder: Path) -> None:
    now = 1_700_000_000.0
    store = store_in(folder, idle_s=60.0, clock=lambda: now)
    await store.open()
    for key in OF_C:
        await store.put(key, Entry(Kind.MASK, bytes(SMALL), 1.0, 1.0))
    fill_disk(folder)
    now += 61.0
    assert await store.sweep() == 20
    assert (await store.stats()).entries == 0
    await store.aclose()


async def quota_that_is_used_up_is_a_full_disk(folder: Path) -> None:
    """As the kernel says it for one file: what is there is served, nothing new is kept, and a purge is possible."""
    store = await filled(store_in(folder))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = folder / "cache" / f"{INDEX}-wal"
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, before[1]))
    try:
        for number in range(200):
            await store.put(f"{B}/mask/more-{number}", Entry(Kind.MASK, bytes(SMALL), 1.0, 1.0))
        assert "quota" in store.trouble
        assert (await store.get(f"{B}/embedding")) is not None
        await store.delete(keys.pattern("public", "a" * 64))
        assert await held(store, *OF_A, f"{A}/embedding") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await store.put(OF_A[0], Entry(Kind.MASK, bytes(SMALL), 1.0, 1.0))
    assert await held(store, OF_A[0]) == 1
    await store.aclose()


SCENARIOS: dict[str, Callable[[Path], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        purge_of_one_image_leaves_the_others,
        purge_of_an_image_without_files_leaves_the_others,
        purge_without_any_room_leaves_nothing_of_it,
        purge_on_a_disk_that_was_full_at_the_start,
        what_has_expired_goes,
        quota_that_is_used_up_is_a_full_disk,
    )
}


def main() -> None:
    """Play all scenarios, each on a disk of its own."""
    told = {}
    for name, scenario in SCENARIOS.items():
        disk = Path(sys.argv[1]) / name
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)

        async def play(scenario: Callable[[Path], Awaitable[None]] = scenario, disk: Path = disk) -> None:
            async with asyncio.timeout(120):
                await scenario(disk)

        told[name] = ""
        try:
            asyncio.run(play())
        except Exception:  # noqa: BLE001 -- the test tells of it
            told[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
