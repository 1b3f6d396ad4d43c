"""Replays go through the code that serves; the bound is below whatever any policy reaches."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling_ground.simulate.bound import bound
from labeling_ground.simulate.prepared import prepare
from labeling_ground.simulate.replay import UNBOUNDED, Replay, Replayed, Setup
from labeling_ground.simulate.synth import MIXES, Work, synthesise
from labeling_ground.trace.events import EVENT, KINDS, Events, What
from labeling_ground.types import Kind

EMBEDDING, MASK = KINDS.index(Kind.EMBEDDING), KINDS.index(Kind.MASK)
TRUNK, DETECTIONS = KINDS.index(Kind.TRUNK), KINDS.index(Kind.DETECTIONS)
SMALL = Work(annotators=6, hours=1.0, projects=3)


def event(time: float, **fields: object) -> tuple[object, ...]:
    row = dict.fromkeys(EVENT.names or (), 0) | {"time": time, "what": What.ASKED, "model": 1, "tenant": 1} | fields
    return tuple(row.values())


def image(time: float, name: int, *, cost: float = 1.0, size: int = 100, beside: int = 0) -> tuple[object, ...]:
    return event(time, key=name, image=name, embedding=name, kind=EMBEDDING, cost=cost, bytes=size, beside=beside)


def mask(time: float, name: int, prompt: int, *, parent: int = 0, beside: int = 0) -> tuple[object, ...]:
    key = name * 1000 + prompt
    above = name * 1000 + parent if parent else 0
    return event(time, key=key, image=name, embedding=name, kind=MASK, cost=0.1, bytes=1, parent=above, beside=beside)


def trunk(time: float, name: int, *, cost: float = 10.0, size: int = 400, beside: int = 20) -> tuple[object, ...]:
    facts = {"cost": cost, "bytes": size, "beside": beside, "kind": TRUNK, "what": What.COMPUTED}
    return event(time, key=name + 500, image=name, embedding=name + 500, **facts)


def phrase(time: float, name: int, number: int) -> tuple[object, ...]:
    """Detections, which are made from the image's trunk."""
    key = name * 10_000 + number
    return event(time, key=key, image=name, embedding=name + 500, kind=DETECTIONS, cost=1.0, bytes=2)


def tracked(time: float, name: int) -> tuple[object, ...]:
    """An embedding that is made from the image's trunk."""
    facts = {"cost": 0.5, "bytes": 100, "kind": EMBEDDING}
    return event(time, key=name, image=name, embedding=name, parent=name + 500, **facts)


def trace(*rows: tuple[object, ...]) -> Events:
    return np.array(list(rows), EVENT)


def replay(events: Events, policy: str = "lru", memory: int = UNBOUNDED, **more: object) -> Replayed:
    return Replay(Setup(policy, memory, **more)).run(prepare(events))  # type: ignore[arg-type]


def test_a_second_ask_is_a_hit_and_costs_nothing() -> None:
    found = replay(trace(image(0, 1, cost=2.0), image(1, 1, cost=2.0), mask(2, 1, 1), mask(3, 1, 1)))
    assert (found.lookups[Kind.EMBEDDING], found.hits[Kind.EMBEDDING]) == (3, 2)
    assert (found.lookups[Kind.MASK], found.hits[Kind.MASK]) == (2, 1)
    assert found.seconds_computed == pytest.approx(2.1)


def test_what_is_idle_is_computed_again() -> None:
    events = trace(image(0, 1), image(100, 1), image(2000, 1))
    assert replay(events).seconds[Kind.EMBEDDING] == 2
    assert replay(events, idle_s=None).seconds[Kind.EMBEDDING] == 1
    assert replay(events, idle_s=50.0).seconds[Kind.EMBEDDING] == 3


def test_a_cached_mask_keeps_its_embedding_in_use() -> None:
    """As the server slides it: the next new click shall need no encoder."""
    events = trace(mask(0, 1, 1), mask(1000, 1, 1), mask(2000, 1, 2), image(0, 1))
    assert replay(np.sort(events, order="time")).seconds[Kind.EMBEDDING] == 1


def test_an_age_counts_from_the_last_computation() -> None:
    events = trace(*(image(time, 1) for time in (0, 90, 110, 190, 215)))
    assert replay(events, max_age_s=100.0).seconds[Kind.EMBEDDING] == 3


def test_a_hit_that_did_not_know_takes_the_models_average() -> None:
    """A recording may begin with a warm cache."""
    events = trace(image(0, 1, cost=4.0, size=300), image(1, 2, cost=0.0, size=0))
    assert replay(events).seconds[Kind.EMBEDDING] == pytest.approx(8.0)


def test_lost_logits_are_computed_again_from_their_own_prompt() -> None:
    events = trace(mask(0, 1, 1, beside=500), image(0, 1, size=10), mask(1, 1, 2, parent=1, beside=500))
    assert replay(events).seconds[Kind.MASK] == pytest.approx(0.2)
    # Logits of 500 bytes are not admitted to 1,000: the second click computes the first one's anew.
    assert replay(events, memory=1000).seconds[Kind.MASK] == pytest.approx(0.3)


def test_a_purge_and_the_done_hint_reach_the_store() -> None:
    purged = trace(image(0, 1), event(1, what=What.PURGED, image=1), image(2, 1))
    assert replay(purged).seconds[Kind.EMBEDDING] == 2
    assert replay(purged).evictions["memory"]["purge"] == 2  # the file, too
    everything = trace(image(0, 1), image(0, 2), event(1, what=What.PURGED), image(2, 1), image(2, 2))
    assert replay(everything).seconds[Kind.EMBEDDING] == 4
    # Nine fit into the budget: the tenth puts out the one that is done, though it was used last.
    images = [image(i, i) for i in range(1, 10)]
    done = [event(20, what=What.DONE, image=9)]
    after = [image(30, 10), image(31, 9)]
    assert replay(trace(*images, *after), "gds", 990).evictions["memory"]["budget"] > 0
    assert replay(trace(*images, *after), "gds", 990).seconds[Kind.EMBEDDING] == 10
    assert replay(trace(*images, *done, *after), "gds", 990).seconds[Kind.EMBEDDING] == 11


def test_a_lower_tier_keeps_what_memory_gave_up() -> None:
    rows = [image(i, i % 20 + 1, cost=1.0) for i in range(60)]
    alone = replay(trace(*rows), memory=900)
    tiered = replay(trace(*rows), memory=900, lower_bytes=1 << 20)
    assert alone.seconds[Kind.EMBEDDING] == 60
    assert tiered.seconds[Kind.EMBEDDING] == 20
    assert tiered.peak_bytes["memory"] <= 900


def test_what_memory_has_no_room_for_goes_down_again() -> None:
    """The lower tier is the smaller one here: it has lost the first image by the time that memory must let it go."""
    rows = [*(image(i, i + 1) for i in range(21)), image(21, 1), image(22, 2)]
    found = replay(trace(*rows), memory=2000, lower_bytes=1000)
    assert found.seconds[Kind.EMBEDDING] == 21


def test_an_embedding_in_int8_serves_clicks_and_not_what_is_made_of_the_full_one() -> None:
    rows = [image(i, i) for i in range(1, 13)]  # nine have room, and twice as many in int8
    clicks = [mask(20 + i, i, 1) for i in range(1, 13)]
    full = replay(trace(*rows, *clicks), "gds", 960)
    rounded = replay(trace(*rows, *clicks), "gds", 960, int8=True)
    assert full.seconds[Kind.EMBEDDING] > rounded.seconds[Kind.EMBEDDING] == 12
    assert rounded.peak_bytes["memory"] <= 960
    grid = KINDS.index(Kind.EVERYTHING)
    everything = [event(40 + i, key=i, image=i, embedding=i, kind=grid, cost=1.0, bytes=1) for i in range(1, 13)]
    assert replay(trace(*rows, *everything), "gds", 960, int8=True).seconds[Kind.EMBEDDING] > 12
    below = replay(trace(*rows, *clicks), "gds", 960, int8=True, lower_bytes=10_000)
    assert below.seconds == replay(trace(*rows, *clicks), "gds", 960, lower_bytes=10_000).seconds


def test_phrases_and_clicks_on_an_image_share_its_trunk() -> None:
    events = trace(trunk(0, 1), phrase(1, 1, 1), phrase(2, 1, 2), phrase(3, 1, 1), tracked(4, 1), mask(5, 1, 1))
    found = replay(events)
    assert (found.lookups[Kind.DETECTIONS], found.hits[Kind.DETECTIONS]) == (3, 1)
    assert (found.lookups[Kind.TRUNK], found.hits[Kind.TRUNK]) == (3, 2)
    assert (found.lookups[Kind.EMBEDDING], found.hits[Kind.EMBEDDING]) == (2, 1)
    some = {Kind.MASK: pytest.approx(0.1), Kind.EVERYTHING: 0.0}
    assert found.seconds == {Kind.TRUNK: 10.0, Kind.DETECTIONS: 2.0, Kind.EMBEDDING: 0.5} | some
    assert found.peak_bytes["memory"] == 400 + 20 + 2 * 2 + 100 + 1
    without = prepare(events).without_cache
    assert without == {Kind.TRUNK: 50.0, Kind.DETECTIONS: 3.0, Kind.EMBEDDING: 1.0} | some


def test_a_trunk_that_went_is_computed_again_for_whatever_needs_it_first() -> None:
    """An embedding that is still there needs none."""
    idle = trace(trunk(0, 1), tracked(1, 1), mask(1000, 1, 1), mask(2500, 1, 2), phrase(2600, 1, 1), mask(2700, 1, 3))
    found = replay(idle)
    assert (found.seconds[Kind.TRUNK], found.seconds[Kind.EMBEDDING]) == (20.0, 0.5)
    purged = trace(trunk(0, 1), tracked(1, 1), event(2, what=What.PURGED, image=1), tracked(3, 1), phrase(4, 1, 1))
    assert replay(purged).seconds[Kind.TRUNK] == 20.0


def test_trunks_take_room_and_an_earlier_trace_without_them_is_replayed_as_ever() -> None:
    rows = [row for i in range(1, 13) for row in (trunk(i, i), phrase(i, i, 1))]
    again = [phrase(20 + i, i, 2) for i in range(1, 13)]
    assert replay(trace(*rows, *again), memory=100_000).seconds[Kind.TRUNK] == 120.0
    crowded = replay(trace(*rows, *again), memory=4_000)
    assert crowded.seconds[Kind.TRUNK] > 120.0
    assert crowded.evictions["memory"]["budget"] > 0
    assert Kind.TRUNK not in replay(trace(image(0, 1), mask(1, 1, 1))).lookups


@pytest.mark.parametrize("seed", range(8))
def test_no_policy_is_below_the_bound_where_there_are_trunks(seed: int) -> None:
    rng = random.Random(seed)
    rows = [trunk(0, name) for name in range(1, 7)]
    for number in range(150):
        time, name = 30.0 * number, rng.randint(1, 6)
        rows.append(rng.choice([phrase(time, name, rng.randint(1, 9)), tracked(time, name), mask(time, name, number)]))
    prepared = prepare(trace(*rows))
    for budget, idle_s, max_age_s in itertools.product((1000, 3400, 9000), (200.0, 1800.0), (None, 700.0)):
        lowest = bound(prepared, budget, idle_s=idle_s, max_age_s=max_age_s).seconds
        for policy in ("gds", "lru"):
            setup = Setup(policy, budget, idle_s=idle_s, max_age_s=max_age_s)
            assert lowest <= Replay(setup).run(prepared).seconds_computed * (1 + 1e-6)
    assert lowest > 60


def test_the_same_seed_gives_the_same_trace() -> None:
    assert np.array_equal(synthesise(1, SMALL), synthesise(1, SMALL))
    assert not np.array_equal(synthesise(1, SMALL)["key"][:50], synthesise(2, SMALL)["key"][:50])


@pytest.mark.parametrize("mix", list(MIXES))
def test_synthetic_work_looks_like_work(mix: str) -> None:
    """Most clicks are new, most embeddings are there; images are done after they were worked on."""
    events = synthesise(5, Work(mix=mix, annotators=6, hours=1.0, projects=3, bulk=20, swap=True))
    assert np.all(np.diff(events["time"]) >= 0)
    found = replay(events)
    assert found.hits[Kind.EMBEDDING] / found.lookups[Kind.EMBEDDING] > 0.7
    assert found.hits[Kind.MASK] / found.lookups[Kind.MASK] < 0.4
    assert np.count_nonzero(events["what"] == What.DONE) > 50
    assert np.count_nonzero(events["what"] == What.PREFETCHED) > 50


@pytest.mark.parametrize("seed", [1, 2])
def test_no_policy_is_below_the_bound(seed: int) -> None:
    prepared = prepare(synthesise(seed, SMALL))
    peak = Replay(Setup("lru", UNBOUNDED)).run(prepared).peak_bytes["memory"]
    for share, policy in itertools.product((0.1, 0.3, 1.0), ("gds", "lru")):
        budget = int(peak * share)
        lowest = bound(prepared, budget, idle_s=1800.0).seconds
        assert lowest <= Replay(Setup(policy, budget)).run(prepared).seconds_computed * (1 + 1e-6)
    assert lowest > 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=9),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=4, max_size=4),
    st.integers(1, 8),
)
def test_the_bound_is_below_the_best_there_is(asks: list[int], weights: list[tuple[int, int]], budget: int) -> None:
    """Against every choice of what to keep when, tried out."""
    rows = [image(100.0 * i, n, cost=float(weights[n - 1][0]), size=weights[n - 1][1]) for i, n in enumerate(asks)]
    found = bound(prepare(trace(*rows)), budget, idle_s=None).seconds
    assert found <= _best(asks, weights, budget) + 1e-6


def _best(asks: list[int], weights: list[tuple[int, int]], budget: int) -> float:
    states: dict[frozenset[int], float] = {frozenset(): 0.0}
    for name in asks:
        after: dict[frozenset[int], float] = {}
        for kept, paid in states.items():
            total = paid + (0.0 if name in kept else float(weights[name - 1][0]))
            may_keep = kept | {name}
            for size in range(len(may_keep) + 1):
                for choice in itertools.combinations(sorted(may_keep), size):
                    if sum(weights[n - 1][1] for n in choice) <= budget:
                        chosen = frozenset(choice)
                        after[chosen] = min(after.get(chosen, 1e9), total)
        states = after
    return min(states.values())
