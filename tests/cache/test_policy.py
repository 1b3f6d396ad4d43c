"""Eviction order: by table, and against the plainest implementation there is."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling_ground.cache.choose import RANKINGS, choose_ranking
from labeling_ground.cache.policy.gds import GreedyDualSize
from labeling_ground.cache.policy.lru import LeastRecentlyUsed
from labeling_ground.cache.policy.port import Policy, Ranking
from labeling_ground.cache.policy.ranked import RankedPolicy
from labeling_ground.errors import BadSettings


@dataclass
class _Kept:
    size: int
    cost: float
    base: float
    done: bool
    use: int


class Naive:
    """Every rank computed anew, the smallest found by looking at all: what is meant."""

    def __init__(self, ranking: Ranking) -> None:
        self.ranking = ranking
        self.kept: dict[str, _Kept] = {}
        self.floor = 0.0
        self.latest = 0.0
        self.uses = 0

    def _base(self, now: float) -> float:
        self.latest = max(self.latest, now)
        self.uses += 1
        return self.ranking.base(self.floor, self.latest)

    def insert(self, key: str, size: int, cost: float, now: float) -> None:
        self.kept[key] = _Kept(size, cost, self._base(now), False, self.uses)

    def hit(self, key: str, now: float) -> None:
        if key in self.kept:
            kept = self.kept[key]
            self.kept[key] = _Kept(kept.size, kept.cost, self._base(now), False, self.uses)

    def mark(self, key: str, done: bool) -> None:
        if key in self.kept:
            self.kept[key].done = done

    def remove(self, key: str) -> None:
        self.kept.pop(key, None)

    def _rank(self, key: str) -> float:
        kept = self.kept[key]
        return self.ranking.rank(kept.base, kept.size, kept.cost, kept.done)

    def victim(self) -> str | None:
        return min(self.kept, key=lambda key: (self._rank(key), self.kept[key].use), default=None)

    def evict(self) -> str | None:
        key = self.victim()
        if key is not None:
            self.floor = max(self.floor, self._rank(key))
            del self.kept[key]
        return key


def drain(policy: Policy) -> list[str]:
    order = []
    while (key := policy.evict()) is not None:
        order.append(key)
    return order


KEYS = st.sampled_from([f"k{i}" for i in range(8)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), KEYS, st.integers(0, 50), st.sampled_from([0.0, 0.02, 0.4, 15.0])),
        st.tuples(st.just("hit"), KEYS),
        st.tuples(st.just("mark"), KEYS, st.booleans()),
        st.tuples(st.just("remove"), KEYS),
        st.tuples(st.just("evict")),
        st.tuples(st.just("tick"), st.integers(-2, 3)),
    ),
    max_size=120,
)


@pytest.mark.parametrize("ranking", [GreedyDualSize(0.1), LeastRecentlyUsed()], ids=["gds", "lru"])
@given(steps=STEPS)
def test_the_heap_gives_the_order_of_the_naive_policy(ranking: Ranking, steps: list[tuple[object, ...]]) -> None:
    """Whatever happens, victims and their order are those of an argmin over all entries."""
    ours, naive = RankedPolicy(ranking), Naive(ranking)
    now = 100.0
    policies: list[Policy] = [ours, naive]
    for verb, *rest in steps:
        match verb, rest:
            case "insert", [str(key), int(size), float(cost)]:
                if key not in naive.kept:
                    for policy in policies:
                        policy.insert(key, size, cost, now)
            case "hit", [str(key)]:
                for policy in policies:
                    policy.hit(key, now)
            case "mark", [str(key), bool(done)]:
                for policy in policies:
                    policy.mark(key, done)
            case "remove", [str(key)]:
                for policy in policies:
                    policy.remove(key)
            case "evict", []:
                assert naive.evict() == ours.evict()
            case "tick", [int(seconds)]:
                now += seconds
        assert naive.victim() == ours.victim()
        assert len(naive.kept) == len(ours)
    assert drain(naive) == drain(ours)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param({"cheap": (10, 1.0), "dear": (10, 2.0)}, ["cheap", "dear"], id="cost"),
        pytest.param({"small": (10, 1.0), "big": (20, 1.0)}, ["big", "small"], id="size"),
        pytest.param({"old": (10, 1.0), "new": (10, 1.0)}, ["old", "new"], id="recency"),
        pytest.param({"free": (10, 0.0), "empty": (0, 1.0)}, ["free", "empty"], id="zeros"),
        pytest.param({"nan": (10, float("nan")), "dear": (10, 1.0)}, ["nan", "dear"], id="nan"),
        pytest.param({"inf": (10, float("inf")), "dear": (10, 1.0)}, ["dear", "inf"], id="inf"),
    ],
)
def test_gds_keeps_what_costs_most_by_the_byte(entries: dict[str, tuple[int, float]], expected: list[str]) -> None:
    """Of two entries the one with less cost by the byte goes first; among equals the older."""
    policy = RankedPolicy(GreedyDualSize())
    for key, (size, cost) in entries.items():
        policy.insert(key, size, cost, 1.0)
    assert expected == drain(policy)


def test_gds_forgets_what_was_dear_long_ago() -> None:
    """A dear entry that nobody uses sinks below cheap ones that come in, since the floor rises."""
    policy = RankedPolicy(GreedyDualSize())
    policy.insert("dear", 1, 5.0, 1.0)
    gone = []
    for number in range(20):
        policy.insert(f"cheap {number}", 1, 1.0, 1.0)
        if number >= 2:
            gone.append(policy.evict())
    assert "dear" in gone
    assert gone.index("dear") > 3


def test_the_done_hint_puts_an_entry_first_and_a_hit_takes_it_back() -> None:
    """A finished image's entry goes before an equal one, until it is used again."""
    policy = RankedPolicy(GreedyDualSize(0.1))
    for key in ("a", "b", "c"):
        policy.insert(key, 10, 1.0, 1.0)
    policy.mark("c", True)
    assert policy.victim() == "c"
    policy.hit("c", 2.0)
    assert drain(policy) == ["a", "b", "c"]


def test_taking_the_hint_back_restores_the_rank() -> None:
    """Marking and unmarking is no use: the order is what it was."""
    policy = RankedPolicy(GreedyDualSize(0.1))
    for key in ("a", "b"):
        policy.insert(key, 10, 1.0, 1.0)
    policy.mark("b", True)
    policy.mark("b", False)
    assert drain(policy) == ["a", "b"]


def test_lru_keeps_the_order_of_use_while_the_clock_stands_still() -> None:
    """Uses within one reading of the clock, or after it was set back, keep their order."""
    policy = RankedPolicy(LeastRecentlyUsed())
    for key in ("a", "b", "c"):
        policy.insert(key, 1, 1.0, 50.0)
    policy.hit("a", 50.0)
    policy.hit("b", 10.0)
    policy.mark("b", True)
    assert drain(policy) == ["c", "a", "b"]


def test_the_heap_stays_small() -> None:
    """Hints back and forth do not let dead items pile up."""
    policy = RankedPolicy(GreedyDualSize())
    for number in range(100):
        policy.insert(str(number), 1 + number, 1.0, 1.0)
    dice = random.Random(4)
    for _ in range(5000):
        key = str(dice.randrange(100))
        policy.hit(key, 1.0)
        policy.mark(key, True)
        if dice.random() < 0.2:
            policy.remove(key)
            policy.insert(key, 1 + int(key), 1.0, 1.0)
    assert len(policy._heap) <= 2 * len(policy) + 64
    assert len(drain(policy)) == 100


@pytest.mark.parametrize("name", sorted(RANKINGS))
def test_every_shipped_name_makes_a_ranking(name: str) -> None:
    """The table of names leads to rankings."""
    assert isinstance(choose_ranking(name), Ranking)


def test_a_user_may_bring_a_ranking() -> None:
    """A module:attribute of the user's own is taken, with the done weight handed over."""
    ranking = choose_ranking("labeling_ground.cache.policy.gds:GreedyDualSize", done_weight=0.5)
    assert ranking == GreedyDualSize(0.5)


@pytest.mark.parametrize(
    "name",
    [
        "gdsx",
        "",
        "no.such.module:x",
        "labeling_ground.cache.policy.gds:nothing",
        "math:pi",
        "math:",
    ],
)
def test_a_wrong_name_is_said_at_once(name: str) -> None:
    """What cannot be resolved raises with the names that can be."""
    with pytest.raises(BadSettings):
        choose_ranking(name)


def test_a_wrong_name_lists_the_right_ones() -> None:
    """The sentence names what is shipped."""
    with pytest.raises(BadSettings, match="gds, lru"):
        choose_ranking("gdsx")


def test_what_makes_no_ranking_is_refused() -> None:
    """A callable of another kind is found out at start."""
    with pytest.raises(BadSettings, match="no ranking"):
        choose_ranking("builtins:dict")


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_done_weight_lies_between_0_and_1(weight: float) -> None:
    """Anything else would turn the hint round."""
    with pytest.raises(BadSettings, match="between 0 and 1"):
        choose_ranking("gds", done_weight=weight)
