"""What is counted is true, and the snapshot of it."""

import math
from hashlib import sha256

import pytest
from tests.doubles import Clock, ToyBackend, memory_store, sealed, serving

from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.shadow import ShadowCaches
from labeling_ground.key import ImageKeys
from labeling_ground.metrics import Metrics
from labeling_ground.service.counters import SPREAD_S, Counters, lookups_of, take_snapshot
from labeling_ground.service.queues import FairQueue
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
    found = lookups_of(counters.metrics.figures(), kind="embedding")
    assert [found[name] for name in ("hits", "misses", "joined", "recomputed", "lookups")] == [2, 2, 1, 1, 5]
    assert (found["seconds_saved"], found["seconds_computed"]) == (4.5, 5.0)
    total = lookups_of(counters.metrics.figures())
    assert [total[name] for name in ("lookups", "hits", "failed", "seconds_saved")] == [6, 3, 1, 4.75]


@pytest.mark.parametrize("cost", [-1.0, math.nan])
def test_an_entry_of_another_server_whose_cost_makes_no_sense_spares_nothing_and_fails_no_ask(cost: float) -> None:
    counters = Counters()
    for each in (cost, 2.0):
        counters.outcome(Kind.MASK, Outcome.HIT, each)
    found = lookups_of(counters.metrics.figures(), kind="mask")
    assert (found["hits"], found["seconds_saved"]) == (2, 2.0)


def test_the_hit_ratio_is_that_of_what_somebody_waited_for() -> None:
    """Ten clicks, of which three were hits; the seven others found their embedding, which nobody asked for."""
    counters = Counters()
    assert lookups_of(counters.metrics.figures())["hit_ratio"] is None
    for outcome in [Outcome.HIT] * 3 + [Outcome.MISS] * 7:
        counters.outcome(Kind.MASK, outcome, 0.1)
        counters.kinds[Kind.MASK].asked[outcome].inc()
        if outcome is Outcome.MISS:
            counters.outcome(Kind.EMBEDDING, Outcome.HIT, 1.0)
    total = lookups_of(counters.metrics.figures())
    assert (total["hit_ratio"], total["lookups"]) == (0.3, 17)
    assert lookups_of(counters.metrics.figures(), kind="embedding")["hit_ratio"] is None


def test_models_of_one_server_count_under_their_own_ids_and_go_on_when_one_is_loaded_anew() -> None:
    metrics = Metrics()
    one, other = Counters(metrics, "one"), Counters(metrics, "other")
    one.outcome(Kind.MASK, Outcome.HIT, 1.0)
    other.outcome(Kind.MASK, Outcome.MISS, 2.0)
    Counters(metrics, "one").outcome(Kind.MASK, Outcome.HIT, 1.0)
    assert [lookups_of(metrics.figures(), model=model)["hits"] for model in ("one", "other")] == [2, 0]
    assert lookups_of(metrics.figures())["lookups"] == 3


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
            make, budget_bytes=1 << 20, idle_s=None, purges=store.purges, metrics=Metrics(), share=share, clock=clock
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
            store=store,
            backends=[predictor.backend],
            queues=[FairQueue("grids", 1, 1)],
            flights={"toy": 0},
            sessions=0,
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
