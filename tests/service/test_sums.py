"""How several workers stand is added up once, and what a dead one has evicted and sent is not forgotten."""

from dataclasses import replace

from labeling_ground.inference.remote_status import EngineCounts
from labeling_ground.service.counters import QueueState, ShadowCacheCounts, Spread, StateSnapshot, TierState
from labeling_ground.service.sums import add_up, go_on
from labeling_ground.types import Priority, StoreStats

ENGINE = EngineCounts("encoder", "http://a:1", "m@1", "closed", "", 1, 0, 2, 0.5, 0.6, 100, 200, 3, 4)


def tier(name: str, entries: int, **given: object) -> TierState:
    evictions = {"idle": 2, "purge": 1} if name == "redis" else {"idle": 2}
    stats = StoreStats(name, entries, 10 * entries, 1000, 5.0 + entries, evictions, {"mask": entries}, {"mask": 1})
    return replace(TierState(replace(stats, refused=1), "closed", pending=3), **given)  # type: ignore[arg-type]


def snapshot(scale: int, *tiers: TierState) -> StateSnapshot:
    """One worker's state, the numbers of its own ``scale`` times as many as those of another."""
    classes = {Priority.INTERACTIVE: (scale, 2 * scale)}
    return StateSnapshot(
        at=100.0,
        tiers=tiers,
        queues={
            ("toy", "encoder"): QueueState(0.5 * scale, classes),
            (f"only-{scale}", "encoder"): QueueState(0.5, {Priority.INTERACTIVE: (2, 1)}),
        },
        flights={"toy": scale, f"only-{scale}": 1},
        sessions=scale,
        engines=(replace(ENGINE, asks=scale), replace(ENGINE, address=f"http://{scale}:1")),
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
    memory, disk, redis = found.tiers
    assert (memory.stats.entries, memory.stats.bytes, memory.stats.budget) == (7, 70, 2000)
    assert memory.stats.oldest_created == 8.0
    assert memory.stats.entries_by_kind == {"mask": 7}
    assert (disk.stats.entries, disk.stats.bytes, disk.stats.budget) == (7, 70, 1000)
    assert disk.stats.evictions == {"idle": 4}, "each has counted what it evicted itself"
    assert redis.stats.evictions == {"idle": 2, "purge": 2}, "what expired is the server's own figure"
    assert (disk.breaker, disk.pending) == ("open", 6)
    queue = found.queues["toy", "encoder"]
    assert queue.typical_s == 5.0
    assert queue.classes == {Priority.INTERACTIVE: (11, 22)}
    engines = {engine.address: (engine.asks, engine.workers, engine.running) for engine in found.engines}
    assert engines == {"http://a:1": (11, 1, 4), "http://1:1": (3, 1, 2), "http://10:1": (3, 1, 2)}
    for scale in (1, 10):  # a model that one worker has loaded
        assert found.queues[f"only-{scale}", "encoder"] == snapshot(scale).queues[f"only-{scale}", "encoder"]
    assert found.flights == {"toy": 11, "only-1": 1, "only-10": 1}
    assert found.shadow_caches == (ShadowCacheCounts(0.25, 11.0, 2.0),)
    assert (found.ages, found.idle) == (Spread((11, 22), 33, 3.0), Spread((0, 11), 11, 1.0))


def test_the_sum_of_one_is_itself() -> None:
    one = snapshot(3, tier("memory", 3), tier("disk", 7))
    assert add_up([one]) == one


def test_a_successor_has_what_its_predecessor_did_and_not_what_it_held() -> None:
    both = tier("disk", 7), tier("redis", 7)
    before, after = snapshot(5, tier("memory", 3), *both), snapshot(1, tier("memory", 1), *both)
    found = go_on(after, before)
    memory, disk, redis = found.tiers
    assert redis.stats.evictions == {"idle": 4, "purge": 2}, "one after the other"
    assert (memory.stats.entries, memory.stats.budget, memory.pending) == (1, 1000, 3)
    assert (memory.stats.evictions, memory.stats.refused) == ({"idle": 4}, 2)
    assert (disk.stats.entries, disk.stats.budget) == (7, 1000)
    assert found.queues == after.queues
    assert [(engine.address, engine.asks, engine.running) for engine in found.engines] == [
        ("http://a:1", 6, 2),
        ("http://1:1", 3, 2),
        ("http://5:1", 3, 0),
    ]
    assert found.flights == {"toy": 1, "only-1": 1}
    assert found.ages == after.ages
    assert found.shadow_caches[0].hits == 6.0
