"""What is counted is true, and the snapshot of it."""

from hashlib import sha256

import pytest
from tests.doubles import Clock, ToyBackend, memory_store, sealed, serving

from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.shadow import ShadowCaches
from labeling_ground.key import ImageKeys
from labeling_ground.service.counters import SPREAD_S, Counters, take_snapshot, together
from labeling_ground.service.queues import FairQueue
from labeling_ground.service.sessions import Sessions
from labeling_ground.types import Kind, ModelVersion, Outcome


def test_look_ups_are_hits_and_misses_and_joined_and_seconds_are_the_entries_own() -> None:
    counters = Counters()
    for outcome, cost in (
        (Outcome.MISS, 2.0),
        (Outcome.JOINED, 2.0),
        (Outcome.HIT, 2.0),
        (Outcome.HIT, 0.5),
        (Outcome.RECOMPUTED, 3.0),
    ):
        counters.outcome(Kind.EMBEDDING, outcome, cost)
    counters.outcome(Kind.MASK, Outcome.HIT, 0.25)
    counters.failure(Kind.MASK)
    figures = counters.kinds[Kind.EMBEDDING]
    assert (figures.hits, figures.misses, figures.joined, figures.recomputed, figures.lookups) == (2, 2, 1, 1, 5)
    assert (figures.seconds_saved, figures.seconds_computed) == (4.5, 5.0)
    total = together(counters.kinds.values())
    assert (total.lookups, total.hits, total.failed, total.seconds_saved) == (6, 3, 1, 4.75)


def test_the_hit_ratio_is_that_of_what_somebody_waited_for() -> None:
    """Ten clicks, of which three were hits; the seven others found their embedding, which nobody asked for."""
    counters = Counters()
    assert together(counters.kinds.values()).hit_ratio is None
    for outcome in [Outcome.HIT] * 3 + [Outcome.MISS] * 7:
        counters.outcome(Kind.MASK, outcome, 0.1)
        counters.kinds[Kind.MASK].asked[outcome] += 1
        if outcome is Outcome.MISS:
            counters.outcome(Kind.EMBEDDING, Outcome.HIT, 1.0)
    assert (together(counters.kinds.values()).hit_ratio, together(counters.kinds.values()).lookups) == (0.3, 17)
    assert counters.kinds[Kind.EMBEDDING].hit_ratio is None


@pytest.mark.anyio
@pytest.mark.parametrize("sampled", [True, False])
async def test_ages_and_idle_times_are_spread_over_the_seconds(sampled: bool) -> None:
    """Also by a sample of what is held, whose counts stand for all."""
    clock = Clock(1e9)

    def make(budget_bytes: int) -> MemoryStore:
        return memory_store(budget_bytes, idle_s=None, clock=clock)

    async with serving(ToyBackend(), memory=make(1 << 20)) as predictor:
        store = predictor.store
        share = 0.01 if sampled else 20.0
        store.shadows = store.memory.observer = ShadowCaches(
            make, budget_bytes=1 << 20, idle_s=None, purges=store.purges, share=share, clock=clock
        )
        for hour in range(4):
            for number in range(250):
                keys = ImageKeys("public", sha256(f"{hour} {number}".encode()).hexdigest())
                key = keys.embedding(ModelVersion("toy", "0" * 64))
                store.put(key, sealed(keys.image, 8, created=clock.now))
                if hour == 0:
                    first = key
            clock.now += 3600.0
        store.put(first + "-too-large", sealed(key, 1 << 19, created=clock.now))
        store.peek(first)
        now = await take_snapshot(
            {"toy": predictor.counters},
            store=store,
            backends=[predictor.backend],
            queues={("", "grids"): FairQueue("grids", 1, 1)},
            flights={"toy": 0},
            sessions=Sessions(most=1, idle_s=1.0, most_clicks=1),
            supervisor=predictor.supervisor,
        )
    assert (now.sampled < 0.5) is sampled
    by = dict(zip(SPREAD_S, now.ages.counts, strict=True))
    assert by[1800.0] == 0
    assert by[3600.0] == pytest.approx(250, abs=80 if sampled else 0)
    assert by[14_400.0] == by[86_400.0] == now.ages.total == 1000
    assert now.ages.seconds == pytest.approx(1000 * 9000.0, rel=0.2 if sampled else 1e-6)
    used = now.idle.counts[0]
    assert sampled or used == 1
    assert now.idle.counts[-1] == 1000
