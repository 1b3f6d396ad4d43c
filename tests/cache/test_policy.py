"""Eviction order: by table, and against the plainest implementation there is."""

import math
import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles import patient

from labeling_ground.cache.choose import POLICIES, choose_policy, choose_ranking
from labeling_ground.cache.policy.gds import GreedyDualSize
from labeling_ground.cache.policy.handover import Handover
from labeling_ground.cache.policy.lfu import LeastFrequentlyUsed
from labeling_ground.cache.policy.lru import LeastRecentlyUsed
from labeling_ground.cache.policy.port import Item, Policy, Ranking
from labeling_ground.cache.policy.ranked import RankedPolicy
from labeling_ground.cache.policy.s3fifo import SmallMainGhost
from labeling_ground.errors import BadSettings


@dataclass
class _Kept:
    item: Item
    base: float
    use: int


class Naive:
    """Every rank computed anew, the smallest found by looking at all: what is meant."""

    makes_room = True

    def __init__(self, ranking: Ranking) -> None:
        self.ranking = ranking
        self.kept: dict[str, _Kept] = {}
        self.floor = 0.0
        self.latest = 0.0
        self.uses = 0

    def insert(self, item: Item) -> None:
        self.kept[item.key] = _Kept(item, 0.0, 0)
        self.hit(item)

    def hit(self, item: Item) -> None:
        self.latest = max(self.latest, item.used)
        self.uses += 1
        self.kept[item.key] = _Kept(item, self.ranking.base(self.floor, self.latest), self.uses)

    def mark(self, item: Item) -> None:
        """The hint is read where it counts."""

    def remove(self, item: Item) -> None:
        del self.kept[item.key]

    def _rank(self, key: str) -> float:
        kept = self.kept[key]
        item = kept.item
        return self.ranking.rank(kept.base, item.size, item.cost, item.done, item.uses)

    def victim(self) -> Item | None:
        found = min(self.kept, key=lambda key: (self._rank(key), self.kept[key].use), default=None)
        return None if found is None else self.kept[found].item

    def evict(self) -> Item | None:
        item = self.victim()
        if item is not None:
            self.floor = max(self.floor, self._rank(item.key))
            del self.kept[item.key]
        return item


class StateStore:
    """Keeps the facts up to date, as a store does, and tells the policies."""

    def __init__(self, *policies: Policy) -> None:
        self.policies = policies
        self.items: dict[str, list[Item]] = {}

    def insert(self, key: str, size: int = 10, cost: float = 1.0, now: float = 1.0) -> None:
        if key not in self.items:
            self.items[key] = [Item(key, size, cost, now) for _ in self.policies]
            for policy, item in zip(self.policies, self.items[key], strict=True):
                policy.insert(item)

    def hit(self, key: str, now: float = 1.0) -> None:
        for policy, item in zip(self.policies, self.items.get(key, ()), strict=False):
            item.used, item.uses, item.done = now, item.uses + 1, False
            policy.hit(item)

    def mark(self, key: str, done: bool) -> None:
        for policy, item in zip(self.policies, self.items.get(key, ()), strict=False):
            if item.done != done:
                item.done = done
                policy.mark(item)

    def remove(self, key: str) -> None:
        for policy, item in zip(self.policies, self.items.pop(key, ()), strict=False):
            policy.remove(item)

    def take(self, verb: object, rest: list[object], now: float) -> None:
        """One of the ``STEPS`` in which nobody goes for room."""
        match verb, rest:
            case "insert", [str(key), int(size), float(cost)]:
                self.insert(key, size, cost, now)
            case "hit", [str(key)]:
                self.hit(key, now)
            case "mark", [str(key), bool(done)]:
                self.mark(key, done)
            case "remove", [str(key)]:
                self.remove(key)
            case _:
                raise AssertionError((verb, rest))

    def evict(self) -> str | None:
        gone = {None if item is None else item.key for item in [policy.evict() for policy in self.policies]}
        assert len(gone) == 1, gone
        key = gone.pop()
        if key is not None:
            del self.items[key]
        return key

    def drain(self) -> list[str]:
        order = []
        while (key := self.evict()) is not None:
            order.append(key)
        assert self.items == {}
        return order


RANKINGS = {
    "gds": GreedyDualSize(0.1),
    "gdsf": GreedyDualSize(0.1, 1.0),
    "gdsf half": GreedyDualSize(0.1, 0.5),
    "lru": LeastRecentlyUsed(),
    "lfu": LeastFrequentlyUsed(),
}
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


@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=list(RANKINGS))
@given(steps=STEPS)
def test_the_heap_gives_the_order_of_the_naive_policy(ranking: Ranking, steps: list[tuple[object, ...]]) -> None:
    """Whatever happens, victims and their order are those of an argmin over all entries."""
    ours, naive = RankedPolicy(ranking, near=3), Naive(ranking)  # so that there are stacks of what is not near
    state_store = StateStore(naive, ours)
    now = 100.0
    for verb, *rest in steps:
        match verb, rest:
            case "evict", []:
                state_store.evict()
            case "tick", [int(seconds)]:
                now += seconds
            case _:
                state_store.take(verb, rest, now)
        expected, found = naive.victim(), ours.victim()
        assert (expected and expected.key) == (found and found.key)
        assert len(naive.kept) == len(ours)
    state_store.drain()


@pytest.mark.parametrize("near", [7, 100, 4096])
@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=list(RANKINGS))
def test_the_order_is_the_same_when_nobody_looks_in_between(ranking: Ranking, near: int) -> None:
    """Places are given late, and in bulk: more come in and are marked than may wait."""
    dice = random.Random(5)
    state_store = StateStore(Naive(ranking), RankedPolicy(ranking, near=near))
    for number in range(2500):
        key = f"k{dice.randrange(1500)}"
        state_store.insert(key, dice.randint(1, 9), dice.random(), number / 7)
        state_store.hit(f"k{dice.randrange(1500)}", number / 7)
        state_store.mark(f"k{dice.randrange(1500)}", dice.random() < 0.6)
        if dice.random() < 0.2:
            state_store.remove(f"k{dice.randrange(1500)}")
    for _ in range(40):
        state_store.evict()
        state_store.mark(f"k{dice.randrange(1500)}", True)


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
    state_store = StateStore(RankedPolicy(GreedyDualSize()))
    for key, (size, cost) in entries.items():
        state_store.insert(key, size, cost)
    assert expected == state_store.drain()


def test_gds_forgets_what_was_dear_long_ago() -> None:
    """A dear entry that nobody uses sinks below cheap ones that come in, since the floor rises."""
    state_store = StateStore(RankedPolicy(GreedyDualSize()))
    state_store.insert("dear", 1, 5.0)
    gone = []
    for number in range(20):
        state_store.insert(f"cheap {number}", 1)
        if number >= 2:
            gone.append(state_store.evict())
    assert "dear" in gone
    assert gone.index("dear") > 3


def test_the_done_hint_puts_an_entry_first_and_a_hit_takes_it_back() -> None:
    """A finished image's entry goes before an equal one, until it is used again."""
    policy = RankedPolicy(GreedyDualSize(0.1))
    state_store = StateStore(policy)
    for key in ("a", "b", "c"):
        state_store.insert(key)
    state_store.mark("c", True)
    first = policy.victim()
    assert first is not None
    assert first.key == "c"
    state_store.hit("c", 2.0)
    assert state_store.drain() == ["a", "b", "c"]


def test_taking_the_hint_back_restores_the_rank() -> None:
    """Marking and unmarking is no use: the order is what it was, even if a place was given in between."""
    policy = RankedPolicy(GreedyDualSize(0.1))
    state_store = StateStore(policy)
    for key in ("a", "b"):
        state_store.insert(key)
    for done in (True, False, True, False):
        state_store.mark("b", done)
        assert policy.victim() is state_store.items["b" if done else "a"][0]
    assert state_store.drain() == ["a", "b"]


def test_uses_count_as_much_as_the_exponent_says() -> None:
    """Four uses are worth twice as much under 0.5, four times under 1, nothing under 0."""
    for exponent, first in ((0.0, "used"), (0.5, "used"), (1.0, "dear")):
        state_store = StateStore(RankedPolicy(GreedyDualSize(0.1, exponent)))
        state_store.insert("used", 10, 1.0)
        for _ in range(3):
            state_store.hit("used")
        state_store.insert("dear", 10, 3.0)
        assert state_store.evict() == first


def test_lfu_goes_by_uses_and_then_by_last_use() -> None:
    state_store = StateStore(RankedPolicy(LeastFrequentlyUsed()))
    for key in ("a", "b", "c", "d"):
        state_store.insert(key)
    for key in ("a", "a", "c", "b"):
        state_store.hit(key)
    assert state_store.drain() == ["d", "c", "b", "a"]


def test_lru_keeps_the_order_of_use_while_the_clock_stands_still() -> None:
    """Uses within one reading of the clock, or after it was set back, keep their order."""
    state_store = StateStore(RankedPolicy(LeastRecentlyUsed()))
    for key in ("a", "b", "c"):
        state_store.insert(key, now=50.0)
    state_store.hit("a", 50.0)
    state_store.hit("b", 10.0)
    state_store.mark("b", True)
    assert state_store.drain() == ["c", "a", "b"]


def notes(policy: RankedPolicy) -> int:
    """Dead or alive."""
    return len(policy._near) + sum(map(len, policy._stacks))


@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=list(RANKINGS))
def test_many_entries_go_in_the_order_of_their_ranks(ranking: Ranking) -> None:
    """More than are kept in order, used and marked between evictions; against all of them, sorted."""
    dice = random.Random(7)
    policy = RankedPolicy(ranking, near=256)
    state_store = StateStore(policy)
    for now in range(6):
        for number in range(2000):
            state_store.insert(f"{now} {number}", dice.randint(1, 99), dice.random(), now)
        for _ in range(1500):
            key = f"{dice.randrange(now + 1)} {dice.randrange(2000)}"
            state_store.hit(key, now)
            state_store.mark(f"{dice.randrange(now + 1)} {dice.randrange(2000)}", dice.random() < 0.8)
        for _ in range(200):
            state_store.remove(f"{dice.randrange(now + 1)} {dice.randrange(2000)}")
        alive = [items[0] for items in state_store.items.values()]

        def order(item: Item) -> tuple[float, int]:
            base = ranking.base(item.floor, item.latest)
            return ranking.rank(base, item.size, item.cost, item.done, item.uses), item.turn

        expected = sorted(alive, key=order)[:1200]
        assert [state_store.evict() for _ in range(1200)] == [item.key for item in expected]
        assert len(policy) == len(state_store.items)
        assert policy._stacks


def test_the_stacks_are_in_order_and_of_bounded_size() -> None:
    policy = RankedPolicy(GreedyDualSize(), near=100)
    state_store = StateStore(policy)
    dice = random.Random(8)
    for number in range(6000):
        state_store.insert(str(number), dice.randint(1, 99), dice.random())
    state_store.evict()
    assert len(policy._stacks) > 20
    assert all(len(stack) < 1024 for stack in policy._stacks)
    edges = [(-math.inf, 0), *policy._bounds, (math.inf, 0)]
    for (low, high), held in zip(pairwise(edges), [policy._near, *policy._stacks], strict=True):
        assert all(low <= note[:2] < high for note in held)
    for number in range(6000):
        state_store.remove(str(number))
    assert notes(policy) <= 64


def test_what_comes_from_a_tier_above_is_ranked_by_its_last_use() -> None:
    """Not as one that was just used: it goes before what was used since."""
    for ranking in (LeastRecentlyUsed(), GreedyDualSize()):
        policy = RankedPolicy(ranking)
        state_store = StateStore(policy)
        for number in range(4):
            state_store.insert(f"gone {number}", 10, 1.0 + number, now=100.0 * number)
        for number in range(4):  # each eviction raises the floor
            if number == 1:
                state_store.insert("before", 4, 9.0, now=1100.0)
            state_store.insert(f"tick {number}", 1, 9.0, now=1000.0 + 100.0 * number)
            assert state_store.evict() == f"gone {number}"
        state_store.insert("since", 4, 9.0, now=2000.0)
        came = Item("from above", 4, 9.0, 1150.0)
        came.uses = 0
        state_store.items["from above"] = [came]
        policy.insert(came)
        assert [key for key in state_store.drain() if "tick" not in str(key)] == ["before", "from above", "since"]


def test_dead_notes_do_not_pile_up() -> None:
    """Hints back and forth leave nothing behind for long."""
    policy = RankedPolicy(GreedyDualSize())
    state_store = StateStore(policy)
    for number in range(100):
        state_store.insert(str(number), 1 + number)
    dice = random.Random(4)
    for _ in range(5000):
        key = str(dice.randrange(100))
        state_store.hit(key)
        state_store.mark(key, True)
        if dice.random() < 0.2:
            state_store.remove(key)
            state_store.insert(key, 1 + int(key))
        policy.victim()
    assert notes(policy) <= 2 * len(policy) + 64
    assert len(state_store.drain()) == 100


def test_who_waits_is_bounded_too() -> None:
    """What comes and goes while nothing is ever evicted leaves nothing behind."""
    policy = RankedPolicy(GreedyDualSize())
    state_store = StateStore(policy)
    for number in range(5000):
        state_store.insert(str(number))
        state_store.remove(str(number))
    assert notes(policy) + len(policy._waiting) < 100
    assert len(policy) == 0


def s3fifo(*keys: str) -> tuple[SmallMainGhost, StateStore]:
    policy = SmallMainGhost()
    state_store = StateStore(policy)
    for key in keys:
        state_store.insert(key)
    return policy, state_store


def test_s3fifo_lets_what_was_used_once_go_first() -> None:
    """A scan goes through the small queue; what was used twice goes on to the main queue."""
    _, state_store = s3fifo("a", "b", "c", "d")
    for key in ("b", "b", "c"):
        state_store.hit(key)
    assert state_store.evict() == "a"
    assert state_store.evict() == "c"
    state_store.insert("e")
    assert state_store.drain() == ["d", "e", "b"]


def test_s3fifo_knows_who_comes_back() -> None:
    """What went a short while ago enters the main queue, and there it outlives what is new."""
    _, state_store = s3fifo("a", "b", "c")
    assert state_store.evict() == "a"
    state_store.insert("a")
    state_store.insert("d")
    assert state_store.drain() == ["b", "c", "d", "a"]


def test_s3fifo_gives_a_lap_for_each_use() -> None:
    policy, state_store = s3fifo("a", "b")
    for key in ("a", "b"):
        state_store.evict()
        state_store.insert(key)  # both are in the main queue now
    assert len(policy) == 2
    for _ in range(9):
        state_store.hit("a")
    state_store.hit("b")
    assert state_store.drain() == ["b", "a"]


@given(steps=STEPS)
def test_s3fifo_counts_its_bytes(steps: list[tuple[object, ...]]) -> None:
    """Whatever happens, each queue knows what it holds, and every item comes out once."""
    policy, state_store = s3fifo()
    for verb, *rest in steps:
        match verb, rest:
            case "insert", [str(key), int(size), float(cost)]:
                state_store.insert(key, size, cost)
            case "hit", [str(key)]:
                state_store.hit(key)
            case "remove", [str(key)]:
                state_store.remove(key)
            case "evict", []:
                state_store.evict()
        held = sum(items[0].size for items in state_store.items.values())
        assert policy._small_bytes + policy._main_bytes == held
        assert sum(policy._ghost.values()) == policy._ghost_bytes
        assert len(policy) == len(state_store.items)
    state_store.drain()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_shipped_name_makes_a_policy(name: str) -> None:
    """The table of names leads to policies, and to something that can be kept in SQL."""
    assert isinstance(choose_policy(name), Policy)
    assert isinstance(choose_ranking(name), Ranking)


def test_the_exponent_is_gdsfs_alone() -> None:
    """``gds`` is without frequency, whatever the setting."""
    assert choose_ranking("gdsf", frequency_exponent=0.5) == GreedyDualSize(0.1, 0.5)
    assert choose_ranking("gds", frequency_exponent=0.5) == GreedyDualSize(0.1)
    assert choose_ranking("gdsf").name == choose_ranking("gds").name
    assert choose_ranking("gdsf", frequency_exponent=0.5).name != choose_ranking("gds").name


@pytest.mark.parametrize("name", ["idle", "s3fifo"])
def test_what_sql_cannot_keep_goes_by_last_use(name: str) -> None:
    assert choose_ranking(name) == LeastRecentlyUsed()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_only_idle_makes_no_room(name: str) -> None:
    assert choose_policy(name).makes_room is (name != "idle")


def test_a_user_may_bring_a_ranking() -> None:
    """A module:attribute of the user's own is taken, with the done weight handed over."""
    ranking = choose_ranking("labeling_ground.cache.policy.gds:GreedyDualSize", done_weight=0.5)
    assert ranking == GreedyDualSize(0.5)


def test_a_user_may_bring_a_policy() -> None:
    """As well as a ranking; on disk its place is taken by last use."""
    name = "labeling_ground.cache.policy.s3fifo:make"
    assert isinstance(choose_policy(name), SmallMainGhost)
    assert choose_ranking(name) == LeastRecentlyUsed()


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
    with pytest.raises(BadSettings, match="gds, gdsf, idle, lfu, lru, s3fifo"):
        choose_ranking("gdsx")


def test_what_makes_no_ranking_is_refused() -> None:
    """A callable of another kind is found out at start."""
    with pytest.raises(BadSettings, match="no ranking and no policy"):
        choose_ranking("builtins:dict")


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_done_weight_lies_between_0_and_1(weight: float) -> None:
    """Anything else would turn the hint round."""
    with pytest.raises(BadSettings, match="between 0 and 1"):
        choose_ranking("gds", done_weight=weight)


@pytest.mark.parametrize("exponent", [-0.1, 4.5, float("nan")])
def test_a_frequency_exponent_is_no_penalty_and_no_overflow(exponent: float) -> None:
    with pytest.raises(BadSettings, match="exponent"):
        choose_policy("gdsf", frequency_exponent=exponent)


# --- from one policy to another ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", ["gds", "gdsf", "lru", "lfu", "s3fifo", "idle"])
@pytest.mark.parametrize("slices", [1, 7, 1000])
def test_a_new_policy_that_was_told_in_parts_goes_on_as_if_told_at_once(new: str, slices: int) -> None:
    """Nothing happened in between: the same order as when all had come in by their last use."""
    dice = random.Random(2)
    straight, told = choose_policy(new), choose_policy(new)
    items = [Item(f"k{number}", dice.randint(1, 9), dice.random(), dice.random()) for number in range(200)]
    old = choose_policy("gds")
    for item in items:
        item.done = dice.random() < 0.3
        old.insert(item)
    facts = [Item(item.key, item.size, item.cost, item.used) for item in sorted(items, key=lambda item: item.used)]
    done = {item.key for item in items if item.done}
    for item in facts:
        straight.insert(item)
        if item.key in done:
            item.done = True
            straight.mark(item)
    handover = Handover(old, told, list(items))
    while handover.tell(slices):
        pass
    assert drained(told) == drained(straight)


def drained(policy: Policy) -> list[str]:
    keys = []
    while (item := policy.evict()) is not None:
        keys.append(item.key)
    return keys


@pytest.mark.parametrize("new", ["gds", "lru", "lfu", "s3fifo"])
@given(steps=STEPS, slices=st.integers(1, 5))
@patient
def test_whatever_happens_during_a_handover_every_item_goes_once(
    new: str, steps: list[tuple[object, ...]], slices: int
) -> None:
    """Told in parts while entries come, are used, are marked and go: none is lost and none comes back."""
    old = RankedPolicy(GreedyDualSize(), near=3)
    state_store = StateStore(old)
    for number in range(5):
        state_store.insert(f"k{number}", 10 + number, 1.0, float(number))
    handover = Handover(old, choose_policy(new), [items[0] for items in state_store.items.values()])
    state_store.policies = (handover,)
    for step, (verb, *rest) in enumerate(steps):
        now = 100.0 + step
        match verb, rest:
            case "evict", []:
                expected = bool(state_store.items)
                assert (state_store.evict() is not None) is expected
            case "tick", _:
                handover.tell(slices)
            case _:
                state_store.take(verb, rest, now)
    while handover.tell(slices):
        pass
    held = set(state_store.items)
    state_store.policies = (handover.new,)
    assert set(state_store.drain()) == held


def test_lru_is_lru_again_after_a_handover() -> None:
    """What was used in the middle of it is the last to go."""
    old = choose_policy("gds")
    state_store = StateStore(old)
    for number, key in enumerate("abcdef"):
        state_store.insert(key, 10, 6.0 - number, float(number))
    handover = Handover(old, choose_policy("lru"), [items[0] for items in state_store.items.values()])
    state_store.policies = (handover,)
    for _ in range(4):  # two to sort, two that tell
        handover.tell(3)
    state_store.hit("a", 10.0)
    state_store.insert("g", now=11.0)
    while handover.tell(2):
        pass
    state_store.policies = (handover.new,)
    assert state_store.drain() == list("bcdefag")
