"""A process that fills a disk store, to be killed or run beside others: directory, seed, count."""

import asyncio
import hashlib
import random
import sys
from pathlib import Path

from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.policy.gds import GreedyDualSize
from labeling_ground.types import Entry, Kind

BUDGET = 4_000_000
KEYS = 400


def value_of(key: str) -> bytes:
    """What belongs under a key: from 1 byte to 120 kB, so in SQLite and in files."""
    seed = hashlib.sha256(key.encode()).digest()
    return random.Random(seed).randbytes(1 + int.from_bytes(seed[:3]) % 120_000)


def key_of(number: int) -> str:
    return f"v1/public/{number:064x}/embedding/m@1"


def open_store(folder: Path) -> DiskStore:
    return DiskStore(
        folder,
        budget_bytes=BUDGET,
        idle_s=1800.0,
        max_age_s=None,
        ranking=GreedyDualSize(),
    )


async def fill(folder: Path, seed: int, count: int) -> None:
    dice = random.Random(seed)
    store = open_store(folder)
    print("begun", flush=True)
    for _ in range(count):
        key = key_of(dice.randrange(KEYS))
        found = await store.get(key)
        if found is None:
            await store.put(key, Entry(Kind.EMBEDDING, value_of(key), 1.0, 1.0))
        elif found.value != value_of(key):
            sys.exit(f"wrong value for {key}")
        if (await store.stats()).bytes > BUDGET:
            sys.exit("over budget")
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
