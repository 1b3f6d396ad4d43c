"""What several workers count is added up once, and what a dead one has done is not forgotten."""

from collections import Counter
from dataclasses import replace

from labeling_ground.inference.remote_status import EngineCounts
from labeling_ground.service.counters import (
    CountersSnapshot,
    KindCounts,
    QueueCounts,
    RecomputedCounts,
    ShadowCacheCounts,
    Spread,
    TierCounts,
)
from labeling_ground.service.once import HedgeOutcome
from labeling_ground.service.queues import ClassCounters
from labeling_ground.service.sums import add_up, go_on
from labeling_ground.types import Kind, Outcome, Priority, StoreStats

ENGINE = EngineCounts("encoder", "http://a:1", "m@1", "closed", "", 1, 0, 2, 0.5, 0.6, 100, 200, 3, 4)


def tier(name: str, entries: int, **given: object) -> TierCounts:
    evictions = {"idle": 2, "purge": 1} if name == "redis" else {"idle": 2}
    stats = StoreStats(name, entries, 10 * entries, 1000, 5.0 + entries, evictions, {"mask": entries}, {"mask": 1})
    counts = TierCounts(replace(stats, refused=1), "closed", {"late": 1}, skipped=2, pending=3, demoted=4)
    return replace(counts, **given)  # type: ignore[arg-type]


def snapshot(scale: int, *tiers: TierCounts) -> CountersSnapshot:
    """One worker's figures, those of its own ``scale`` times as many as those of another."""
    asked = Counter({Outcome.HIT: scale})
    kind = KindCounts(hits=scale, misses=2 * scale, joined=1, seconds_saved=0.5 * scale, asked=asked)
    classes = {Priority.INTERACTIVE: (scale, ClassCounters(scale, 1, 2.0, 0.5))}
    return CountersSnapshot(
        at=100.0,
        models={("toy", Kind.MASK): kind},
        hedges={(Kind.MASK, HedgeOutcome.USED): scale},
        tiers=tiers,
        queues={
            ("toy", "encoder"): QueueCounts(0.5 * scale, classes),
            (f"only-{scale}", "encoder"): QueueCounts(0.5, {Priority.INTERACTIVE: (2, ClassCounters(1, 3))}),
        },
        flights={"toy": scale, f"only-{scale}": 1},
        sessions=scale,
        sessions_unkept=scale,
        background_errors={"sweep": scale},
        engines=(replace(ENGINE, asks=scale), replace(ENGINE, address=f"http://{scale}:1")),
        recomputed_after_eviction={Kind.MASK: RecomputedCounts(scale, 0.5)},
        shadow_caches=(ShadowCacheCounts(0.25, float(scale), 1.0),),
        sampled=0.125,
        ages=Spread((scale, 2 * scale), 3 * scale, 1.5),
        idle=Spread((0, scale), scale, 0.5),
    )


def test_each_workers_own_is_added_and_what_they_share_is_told_once() -> None:
    found = add_up(
        [
            snapshot(1, tier("memory", 3), tier("disk", 7), tier("redis", 9)),
            snapshot(10, tier("memory", 4), tier("disk", 7, breaker="open"), tier("redis", 9)),
        ]
    )
    mask = found.kinds[Kind.MASK]
    assert found.models["toy", Kind.MASK] == mask
    assert (mask.hits, mask.misses, mask.joined, mask.seconds_saved) == (11, 22, 2, 5.5)
    assert mask.asked == {Outcome.HIT: 11}
    assert found.total == mask
    memory, disk, redis = found.tiers
    assert (memory.stats.entries, memory.stats.bytes, memory.stats.budget) == (7, 70, 2000)
    assert memory.stats.oldest_created == 8.0
    assert memory.stats.entries_by_kind == {"mask": 7}
    assert (disk.stats.entries, disk.stats.bytes, disk.stats.budget) == (7, 70, 1000)
    assert disk.stats.evictions == {"idle": 4}, "each has counted what it evicted itself"
    assert redis.stats.evictions == {"idle": 2, "purge": 2}, "what expired is the server's own figure"
    assert (disk.breaker, disk.errors, disk.skipped, disk.pending, disk.demoted) == ("open", {"late": 2}, 4, 6, 8)
    queue = found.queues["toy", "encoder"]
    assert queue.typical_s == 5.0
    assert queue.classes == {Priority.INTERACTIVE: (11, ClassCounters(11, 2, 4.0, 1.0))}
    engines = {engine.address: (engine.asks, engine.workers, engine.running) for engine in found.engines}
    assert engines == {"http://a:1": (11, 1, 4), "http://1:1": (3, 1, 2), "http://10:1": (3, 1, 2)}
    assert found.hedges == {(Kind.MASK, HedgeOutcome.USED): 11}
    for scale in (1, 10):  # a model that one worker has loaded
        assert found.queues[f"only-{scale}", "encoder"] == snapshot(scale).queues[f"only-{scale}", "encoder"]
    assert found.flights == {"toy": 11, "only-1": 1, "only-10": 1}
    assert (found.sessions_unkept, found.background_errors) == (11, {"sweep": 11})
    assert found.recomputed_after_eviction == {Kind.MASK: RecomputedCounts(11, 1.0)}
    assert found.shadow_caches == (ShadowCacheCounts(0.25, 11.0, 2.0),)
    assert (found.ages, found.idle) == (Spread((11, 22), 33, 3.0), Spread((0, 11), 11, 1.0))


def test_the_sum_of_one_is_itself() -> None:
    one = snapshot(3, tier("memory", 3), tier("disk", 7))
    assert add_up([one]) == one


def test_a_successor_has_what_its_predecessor_did_and_not_what_it_held() -> None:
    both = tier("disk", 7), tier("redis", 7)
    before, after = snapshot(5, tier("memory", 3), *both), snapshot(1, tier("memory", 1), *both)
    found = go_on(after, before)
    assert (found.kinds[Kind.MASK].hits, found.hedges) == (6, {(Kind.MASK, HedgeOutcome.USED): 6})
    memory, disk, redis = found.tiers
    assert redis.stats.evictions == {"idle": 4, "purge": 2}, "one after the other"
    assert (memory.stats.entries, memory.stats.budget, memory.pending) == (1, 1000, 3)
    assert (memory.stats.evictions, memory.stats.refused, memory.demoted) == ({"idle": 4}, 2, 8)
    assert (disk.stats.entries, disk.stats.budget) == (7, 1000)
    [queues] = {tuple(queue.classes) for queue in found.queues.values()}
    assert queues == (Priority.INTERACTIVE,)
    classes = {name: queue.classes[Priority.INTERACTIVE] for name, queue in found.queues.items()}
    assert classes == {
        ("toy", "encoder"): (1, ClassCounters(1, 2, 4.0, 1.0)),
        ("only-1", "encoder"): (2, ClassCounters(1, 3)),
        ("only-5", "encoder"): (0, ClassCounters(0, 3)),
    }
    assert found.flights == {"toy": 1, "only-1": 1}
    assert found.ages == after.ages
    assert found.shadow_caches[0].hits == 6.0
