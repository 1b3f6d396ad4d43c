"""Many replays side by side, and what they cost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeling_ground.errors import BadTrace
from labeling_ground.simulate.grid import Prices, Row, cheapest, peak_without_budget, read_trace, replay_all
from labeling_ground.simulate.replay import UNBOUNDED, Replay, Replayed, Setup
from labeling_ground.simulate.synth import Work, synthesise
from labeling_ground.trace.events import EVENT, KINDS, What
from labeling_ground.trace.files import write
from labeling_ground.types import Kind

GIB = 1 << 30
PRICES = Prices(memory=0.01, lower=0.001, encoder=2.0)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "t"
    write(path, synthesise(1, Work(annotators=4, hours=0.5, projects=2)))
    return path


def row(setup: Setup, money: float) -> Row:
    return Row(Replayed(setup), ratio=0.1, room=0.0, computing=money)


def test_processes_give_the_rows_that_one_alone_gives(recorded: Path) -> None:
    """In the order of the set-ups, with the same figures, the bound of each budget included."""
    setups = [Setup(policy, budget) for policy in ("gds", "lru", "s3fifo") for budget in (20 << 20, 200 << 20)]
    alone = replay_all([recorded], setups, PRICES, jobs=1)
    assert [found.replayed.setup for found in alone] == setups
    assert replay_all([recorded], setups, PRICES, jobs=2) == alone
    assert alone[0].bound == alone[2].bound == alone[4].bound
    assert alone[0].bound is not None
    assert all(found.bound is not None and found.bound <= found.ratio + 1e-9 for found in alone)


def test_a_row_is_the_replay_and_its_prices(recorded: Path) -> None:
    setup = Setup("gds", GIB // 8, GIB // 2)
    (found,) = replay_all([recorded], [setup], PRICES, bounds=False)
    trace = read_trace([recorded])
    expected = Replay(setup).run(trace)
    assert found.replayed == expected
    assert found.ratio == pytest.approx(expected.seconds_computed / sum(trace.without_cache.values()))
    assert found.room == pytest.approx(24 * (0.01 / 8 + 0.001 / 2))
    assert found.computing == pytest.approx(2.0 * expected.seconds_computed / 3600)
    assert found.money == found.room + found.computing
    assert found.bound is None


def test_without_a_budget_the_most_that_was_held_is_paid_for(recorded: Path) -> None:
    (found,) = replay_all([recorded], [Setup("idle", UNBOUNDED)], PRICES, bounds=False)
    peak = peak_without_budget(read_trace([recorded]), 1800.0)
    assert found.replayed.peak_bytes["memory"] == peak > 0
    assert found.room == pytest.approx(24 * 0.01 * peak / GIB)


@pytest.mark.parametrize(("hours", "days"), [(0.0, 1), (8.0, 1), (24.5, 2), (106.0, 5)])
def test_days_count_whole(tmp_path: Path, hours: float, days: int) -> None:
    """A recording of the hours in which people work is a day's work."""
    asked = np.zeros(2, EVENT)
    asked["time"] = 1e9, 1e9 + 3600 * hours
    asked["what"], asked["kind"], asked["bytes"], asked["cost"] = What.ASKED, KINDS.index(Kind.EMBEDDING), 1000, 900.0
    asked["key"] = asked["embedding"] = asked["image"] = 1, 2
    write(tmp_path / "t", asked)
    (found,) = replay_all([tmp_path / "t"], [Setup("lru", 1 << 20)], PRICES, bounds=False)
    assert found.computing == pytest.approx(2 * 900 / 3600 * 2.0 / days)


def test_the_cheapest_is_the_smallest_of_those_that_cost_about_the_same() -> None:
    rows = [row(Setup("gds", size * GIB), money) for size, money in ((1, 2.0), (2, 1.004), (4, 1.0), (8, 1.001))]
    assert cheapest(rows).replayed.setup.memory_bytes == 2 * GIB
    assert cheapest([replace(rows[0], computing=0.5), *rows]).money == 0.5


def test_a_trace_in_which_nothing_was_asked_for_is_said(tmp_path: Path) -> None:
    marked = np.zeros(3, EVENT)
    marked["what"] = What.DONE
    write(tmp_path / "t", marked)
    with pytest.raises(BadTrace, match="Nothing was asked for"):
        read_trace([tmp_path / "t"])
