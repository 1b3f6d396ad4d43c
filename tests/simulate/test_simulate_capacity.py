"""From a team to engines."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from labeling_ground.errors import BadSettings
from labeling_ground.simulate.capacity import (
    PATIENCE_S,
    Costs,
    DayLoad,
    Team,
    _most_at_once,
    day,
    decoders,
    encoders,
    fewest_decoders,
    fewest_encoders,
    resent,
)
from labeling_ground.simulate.prepared import prepare
from labeling_ground.simulate.queueing import Need
from labeling_ground.simulate.replay import UNBOUNDED, Replay, Setup
from labeling_ground.simulate.synth import Work, synthesise
from labeling_ground.types import Kind, Priority

TEAM = Team(12, hours=4.0)
COSTS = Costs(0.5, 0.05, 2 << 20)


@pytest.fixture(scope="module")
def load() -> DayLoad:
    return day(TEAM)


def test_what_is_computed_is_what_the_replay_of_the_servers_own_tiers_computes(load: DayLoad) -> None:
    events = synthesise(0, Work(mix="one", annotators=TEAM.annotators, hours=TEAM.hours))
    replayed = Replay(Setup("lru", UNBOUNDED, idle_s=TEAM.idle_s)).run(prepare(events))
    missed = Counter({kind: replayed.lookups[kind] - replayed.hits[kind] for kind in replayed.lookups})
    assert load.encodes == missed[Kind.EMBEDDING]
    # A refined mask whose parent has gone is decoded with its parents there.
    assert len(load.decodes) <= missed[Kind.MASK] <= 1.05 * len(load.decodes)


def test_the_most_that_is_in_use_is_counted() -> None:
    rng = np.random.default_rng(1)
    times, keys = np.sort(rng.uniform(0, 100, 300)), rng.integers(1, 60, 300).astype(np.uint64)
    counted = max(len(set(keys[(times > now - 5) & (times <= now)])) for now in times)
    assert _most_at_once(times, keys, 5.0) == counted


def test_enough_engines_are_the_fewest_that_keep_the_promise(load: DayLoad) -> None:
    slow = replace(COSTS, encode_s=15.0)
    enough = fewest_encoders(load, TEAM, slow)
    assert enough.engines > 1
    assert enough.p99_s <= slow.encode_s + PATIENCE_S < encoders(load, TEAM, slow, enough.engines - 1).p99_s
    assert enough.utilisation == pytest.approx(load.encodes * 15.0 / (enough.engines * 4 * 3600))
    clicks = fewest_decoders(load, replace(COSTS, decode_s=1.0))
    assert clicks.p99_s <= 1.1 < decoders(load, replace(COSTS, decode_s=1.0), clicks.engines - 1).p99_s


def test_a_job_keeps_no_person_waiting_for_more_than_what_runs(load: DayLoad) -> None:
    alone = encoders(load, TEAM, COSTS, 1)
    beside = encoders(load, replace(TEAM, job_images=5000), COSTS, 1)
    assert beside.max_s <= alone.max_s + 2 * COSTS.encode_s
    assert beside.job_hours >= 5000 * 0.5 / 3600
    assert (alone.job_hours, beside.utilisation) == (0.0, alone.utilisation)


def test_a_model_that_no_number_of_engines_serves_is_said(load: DayLoad) -> None:
    crowd = [Need(0.0, key, Priority.INTERACTIVE) for key in range(600)]
    with pytest.raises(BadSettings, match="More than 256 encoders"):
        fewest_encoders(replace(load, needs=crowd), TEAM, replace(COSTS, encode_s=10.0))


def test_an_embedding_is_sent_once_while_its_decoder_keeps_it(load: DayLoad) -> None:
    images = len({embedding for _, embedding in load.decodes})
    assert resent(load, replace(COSTS, stored_embeddings=100_000), 6) == images
    assert resent(load, replace(COSTS, stored_embeddings=1), 6) > 2 * images
    some = replace(load, decodes=[(0.0, 1), (1.0, 3), (2.0, 1), (3.0, 2), (4.0, 2)])
    assert resent(some, replace(COSTS, stored_embeddings=1), 2) == 4  # 1 and 3 share a decoder
