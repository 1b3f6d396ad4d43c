"""Engines behind one queue."""

import random

import pytest

from labeling_ground.simulate.queueing import Engines, Need
from labeling_ground.types import Priority

PERSON, PREFETCH, JOB = Priority


def test_people_go_first_and_nothing_that_runs_is_stopped() -> None:
    done = Engines(1, 10.0).run(
        [Need(0.0, 1, JOB), Need(0.0, 2, JOB), Need(1.0, 3, PREFETCH), Need(2.0, 4, PERSON), Need(3.0, 5, PERSON)]
    )
    assert done.waited == {JOB: [10.0, 50.0], PREFETCH: [39.0], PERSON: [18.0, 27.0]}
    assert done.busy_s == 50.0


def test_who_needs_the_same_joins_and_lifts_it() -> None:
    needs = [Need(0.0, 1, JOB), Need(0.0, 2, JOB), Need(0.0, 3, JOB), Need(1.0, 3, PERSON), Need(12.0, 3, PERSON)]
    done = Engines(1, 10.0).run(needs)
    assert done.waited[PERSON] == [19.0, 8.0]  # the second while it is computed
    assert done.waited[JOB] == [10.0, 20.0, 30.0]
    assert done.busy_s == 30.0


def test_what_the_cache_has_is_not_computed_unless_it_is_on_its_way() -> None:
    needs = [Need(0.0, 1, PERSON), Need(5.0, 1, PERSON, is_missing=False), Need(15.0, 1, PERSON, is_missing=False)]
    assert Engines(1, 10.0).run(needs).waited[PERSON] == [10.0, 5.0]
    assert Engines(1, 10.0).run([Need(0.0, 1, PERSON, is_missing=False)]).busy_s == 0.0


def test_engines_come_and_go() -> None:
    engines = Engines(1, 10.0)
    for key in range(4):
        engines.need(Need(0.0, key, JOB))
    engines.add(5.0)
    engines.advance(9.0)
    assert (engines.count, engines.waiting) == (2, 2)
    engines.remove()  # the one that is free first, at 10
    engines.advance(float("inf"))
    assert sorted(engines.waited[JOB]) == [10.0, 15.0, 25.0, 35.0]


@pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
def test_the_mean_wait_is_that_of_the_formula(load: float) -> None:
    """Pollaczek and Khinchine, for calls at random and one server with a fixed time (M/D/1)."""
    rng, now, needs = random.Random(3), 0.0, []
    for key in range(200_000):
        now += rng.expovariate(load)
        needs.append(Need(now, key, PERSON))
    waited = Engines(1, 1.0).run(needs).waited[PERSON]
    assert sum(waited) / len(waited) == pytest.approx(1 + load / (2 * (1 - load)), rel=0.05)
