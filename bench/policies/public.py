"""Traces in the style of those that caches are commonly judged by, where nothing is about labeling.

Sizes and costs are the same for everything, or drawn for each key; the same seed gives the same trace.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """One look-up, which is followed by a write if it misses."""

    key: int
    size: int
    cost: float


def uniform(keys: Iterator[int]) -> list[Access]:
    """All of one size and one cost."""
    return [Access(key, 1, 1.0) for key in keys]


def weighted(keys: Iterator[int], seed: int) -> list[Access]:
    """Each key with a size and a cost of its own: log-normal sizes of 4 to 400, costs of 0.1, 0.5 or 5."""
    rng = random.Random(seed)
    weights: dict[int, tuple[int, float]] = {}
    accesses = []
    for key in keys:
        if key not in weights:
            size = max(4, min(400, round(40 * rng.lognormvariate(0, 1))))
            weights[key] = size, rng.choice((0.1, 0.5, 5.0))
        accesses.append(Access(key, *weights[key]))
    return accesses


def zipf(count: int, seed: int, *, keys: int, skew: float = 0.9) -> Iterator[int]:
    """Independent draws, few keys taking most of them."""
    rng = random.Random(seed)
    weights = [1 / (rank + 1) ** skew for rank in range(keys)]
    yield from rng.choices(range(keys), weights, k=count)


def scanned(count: int, seed: int, *, keys: int) -> Iterator[int]:
    """The same, and every so often somebody reads a long run of keys that nobody wants again."""
    rng = random.Random(seed)
    fresh = keys
    draws = zipf(count, seed + 1, keys=keys)
    sent = 0
    while sent < count:
        for _ in range(min(2000, count - sent)):
            yield next(draws)
            sent += 1
        for _ in range(min(rng.randrange(200, 1500), count - sent)):
            yield fresh
            fresh += 1
            sent += 1


def blocks(count: int, seed: int, *, keys: int) -> Iterator[int]:
    """As a disk sees it: runs of neighbouring blocks, some read again shortly after, some in a loop, hot metadata."""
    rng = random.Random(seed)
    recent: list[int] = []
    sent = 0
    while sent < count:
        kind = rng.random()
        if kind < 0.3:
            run = [rng.randrange(keys // 50)]  # metadata
        else:
            start = rng.choice(recent) if recent and kind < 0.75 else rng.randrange(keys)
            run = [start + step for step in range(rng.randrange(1, 40))]
            recent = [*recent[-200:], start]
            if rng.random() < 0.1:
                run = run * 3
        for key in run[: count - sent]:
            yield key
            sent += 1


def public_style(count: int, keys: int) -> dict[str, list[Access]]:
    """Name → trace."""
    return {
        "Zipf, uniform": uniform(zipf(count, 1, keys=keys)),
        "Zipf and scans, uniform": uniform(scanned(count, 2, keys=keys)),
        "blocks, uniform": uniform(blocks(count, 3, keys=keys)),
        "Zipf, sizes and costs": weighted(zipf(count, 4, keys=keys), 40),
        "Zipf and scans, sizes and costs": weighted(scanned(count, 5, keys=keys), 50),
        "blocks, sizes and costs": weighted(blocks(count, 6, keys=keys), 60),
    }
