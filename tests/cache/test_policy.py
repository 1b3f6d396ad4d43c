"""Eviction order: by table, and against the plainest implementation there is."""

import math
import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles import patient
from tests.policy_driver import STEPS, PolicyDriver

from labeling_ground.cache.choose import POLICIES, choose
from labeling_ground.cache.policies import lru
from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cache.policies.lfu import LeastFrequentlyUsed
from labeling_ground.cache.policies.lru import LeastRecentlyUsed
from labeling_ground.cache.policies.migration import PolicyMigration
from labeling_ground.cache.policies.port import Item, Policy, Ranking
from labeling_ground.cache.policies.ranked import RankedPolicy
from labeling_ground.errors import BadSettings
from labeling_ground.simulate.policies import choose as simulated
from labeling_ground.simulate.s3fifo import SmallMainGhost


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


RANKINGS = {
    "gds": GreedyDualSize(0.1),
    "gdsf": GreedyDualSize(0.1, 1.0),
    "gdsf half": GreedyDualSize(0.1, 0.5),
    "lru": LeastRecentlyUsed(),
    "lfu": LeastFrequentlyUsed(),
}


@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=list(RANKINGS))
@given(steps=STEPS)
def test_the_heap_gives_the_order_of_the_naive_policy(ranking: Ranking, steps: list[tuple[object, ...]]) -> None:
    """Whatever happens, victims and their order are those of an argmin over all entries."""
    ours, naive = RankedPolicy(ranking, near=3), Naive(ranking)  # so that there are stacks of what is not near
    driver = PolicyDriver(naive, ours)
    now = 100.0
    for verb, *rest in steps:
        match verb, rest:
            case "evict", []:
                driver.evict()
            case "tick", [int(seconds)]:
                now += seconds
            case _:
                driver.take(verb, rest, now)
        expected, found = naive.victim(), ours.victim()
        assert (expected and expected.key) == (found and found.key)
        assert len(naive.kept) == len(ours)
    driver.drain()


@pytest.mark.parametrize("near", [7, 100, 4096])
@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=list(RANKINGS))
def test_the_order_is_the_same_when_nobody_looks_in_between(ranking: Ranking, near: int) -> None:
    """Places are given late, and in bulk: more come in and are marked than may wait."""
    dice = random.Random(5)
    driver = PolicyDriver(Naive(ranking), RankedPolicy(ranking, near=near))
    for number in range(2500):
        key = f"k{dice.randrange(1500)}"
        driver.insert(key, dice.randint(1, 9), dice.random(), number / 7)
        driver.hit(f"k{dice.randrange(1500)}", number / 7)
        driver.mark(f"k{dice.randrange(1500)}", dice.random() < 0.6)
        if dice.random() < 0.2:
            driver.remove(f"k{dice.randrange(1500)}")
    for _ in range(40):
        driver.evict()
        driver.mark(f"k{dice.randrange(1500)}", True)


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
    driver = PolicyDriver(RankedPolicy(GreedyDualSize()))
    for key, (size, cost) in entries.items():
        driver.insert(key, size, cost)
    assert expected == driver.drain()


def test_gds_forgets_what_was_dear_long_ago() -> None:
    """A dear entry that nobody uses sinks below cheap ones that come in, since the floor rises."""
    driver = PolicyDriver(RankedPolicy(GreedyDualSize()))
    driver.insert("dear", 1, 5.0)
    gone = []
    for number in range(20):
        driver.insert(f"cheap {number}", 1)
        if number >= 2:
            gone.append(driver.evict())
    assert "dear" in gone
    assert gone.index("dear") > 3


def test_the_done_hint_puts_an_entry_first_and_a_hit_takes_it_back() -> None:
    """A finished image's entry goes before an equal one, until it is used again."""
    policy = RankedPolicy(GreedyDualSize(0.1))
    driver = PolicyDriver(policy)
    for key in ("a", "b", "c"):
        driver.insert(key)
    driver.mark("c", True)
    first = policy.victim()
    assert first is not None
    assert first.key == "c"
    driver.hit("c", 2.0)
    assert driver.drain() == ["a", "b", "c"]


def test_taking_the_hint_back_restores_the_rank() -> None:
    """Marking and unmarking is no use: the order is what it was, even if a place was given in between."""
    policy = RankedPolicy(GreedyDualSize(0.1))
    driver = PolicyDriver(policy)
    for key in ("a", "b"):
        driver.insert(key)
    for done in (True, False, True, False):
        driver.mark("b", done)
        assert policy.victim() is driver.items["b" if done else "a"][0]
    assert driver.drain() == ["a", "b"]


def test_uses_count_as_much_as_the_exponent_says() -> None:
    """Four uses are worth twice as much under 0.5, four times under 1, nothing under 0."""
    for exponent, first in ((0.0, "used"), (0.5, "used"), (1.0, "dear")):
        driver = PolicyDriver(RankedPolicy(GreedyDualSize(0.1, exponent)))
        driver.insert("used", 10, 1.0)
        for _ in range(3):
            driver.hit("used")
        driver.insert("dear", 10, 3.0)
        assert driver.evict() == first


def test_lfu_goes_by_uses_and_then_by_last_use() -> None:
    driver = PolicyDriver(RankedPolicy(LeastFrequentlyUsed()))
    for key in ("a", "b", "c", "d"):
        driver.insert(key)
    for key in ("a", "a", "c", "b"):
        driver.hit(key)
    assert driver.drain() == ["d", "c", "b", "a"]


def test_lru_keeps_the_order_of_use_while_the_clock_stands_still() -> None:
    """Uses within one reading of the clock, or after it was set back, keep their order."""
    driver = PolicyDriver(RankedPolicy(LeastRecentlyUsed()))
    for key in ("a", "b", "c"):
        driver.insert(key, now=50.0)
    driver.hit("a", 50.0)
    driver.hit("b", 10.0)
    driver.mark("b", True)
    assert driver.drain() == ["c", "a", "b"]


def notes(policy: RankedPolicy) -> int:
    """Dead or alive."""
    return len(policy._near) + sum(map(len, policy._stacks))


@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=list(RANKINGS))
def test_many_entries_go_in_the_order_of_their_ranks(ranking: Ranking) -> None:
    """More than are kept in order, used and marked between evictions; against all of them, sorted."""
    dice = random.Random(7)
    policy = RankedPolicy(ranking, near=256)
    driver = PolicyDriver(policy)
    for now in range(6):
        for number in range(2000):
            driver.insert(f"{now} {number}", dice.randint(1, 99), dice.random(), now)
        for _ in range(1500):
            key = f"{dice.randrange(now + 1)} {dice.randrange(2000)}"
            driver.hit(key, now)
            driver.mark(f"{dice.randrange(now + 1)} {dice.randrange(2000)}", dice.random() < 0.8)
        for _ in range(200):
            driver.remove(f"{dice.randrange(now + 1)} {dice.randrange(2000)}")
        alive = [items[0] for items in driver.items.values()]

        def order(item: Item) -> tuple[float, int]:
            base = ranking.base(item.floor, item.latest)
            return ranking.rank(base, item.size, item.cost, item.done, item.uses), item.turn

        expected = sorted(alive, key=order)[:1200]
        assert [driver.evict() for _ in range(1200)] == [item.key for item in expected]
        assert len(policy) == len(driver.items)
        assert policy._stacks


def test_the_stacks_are_in_order_and_of_bounded_size() -> None:
    policy = RankedPolicy(GreedyDualSize(), near=100)
    driver = PolicyDriver(policy)
    dice = random.Random(8)
    for number in range(6000):
        driver.insert(str(number), dice.randint(1, 99), dice.random())
    driver.evict()
    assert len(policy._stacks) > 20
    assert all(len(stack) < 1024 for stack in policy._stacks)
    edges = [(-math.inf, 0), *policy._bounds, (math.inf, 0)]
    for (low, high), held in zip(pairwise(edges), [policy._near, *policy._stacks], strict=True):
        assert all(low <= note[:2] < high for note in held)
    for number in range(6000):
        driver.remove(str(number))
    assert notes(policy) <= 64


def test_what_comes_from_a_tier_above_is_ranked_by_its_last_use() -> None:
    """Not as one that was just used: it goes before what was used since."""
    for ranking in (LeastRecentlyUsed(), GreedyDualSize()):
        policy = RankedPolicy(ranking)
        driver = PolicyDriver(policy)
        for number in range(4):
            driver.insert(f"gone {number}", 10, 1.0 + number, now=100.0 * number)
        for number in range(4):  # each eviction raises the floor
            if number == 1:
                driver.insert("before", 4, 9.0, now=1100.0)
            driver.insert(f"tick {number}", 1, 9.0, now=1000.0 + 100.0 * number)
            assert driver.evict() == f"gone {number}"
        driver.insert("since", 4, 9.0, now=2000.0)
        came = Item("from above", 4, 9.0, 1150.0)
        came.uses = 0
        driver.items["from above"] = [came]
        policy.insert(came)
        assert [key for key in driver.drain() if "tick" not in str(key)] == ["before", "from above", "since"]


def test_dead_notes_do_not_pile_up() -> None:
    """Hints back and forth leave nothing behind for long."""
    policy = RankedPolicy(GreedyDualSize())
    driver = PolicyDriver(policy)
    for number in range(100):
        driver.insert(str(number), 1 + number)
    dice = random.Random(4)
    for _ in range(5000):
        key = str(dice.randrange(100))
        driver.hit(key)
        driver.mark(key, True)
        if dice.random() < 0.2:
            driver.remove(key)
            driver.insert(key, 1 + int(key))
        policy.victim()
    assert notes(policy) <= 2 * len(policy) + 64
    assert len(driver.drain()) == 100


def test_who_waits_is_bounded_too() -> None:
    """What comes and goes while nothing is ever evicted leaves nothing behind."""
    policy = RankedPolicy(GreedyDualSize())
    driver = PolicyDriver(policy)
    for number in range(5000):
        driver.insert(str(number))
        driver.remove(str(number))
    assert notes(policy) + len(policy._waiting) < 100
    assert len(policy) == 0


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_shipped_name_makes_a_policy(name: str) -> None:
    """The table of names leads to policies, and to something that can be kept in SQL."""
    assert isinstance(choose(name).make(), Policy)
    assert isinstance(choose(name).ranking, Ranking)


def test_the_exponent_is_gdsfs_alone_and_memorys() -> None:
    """``gds`` is without frequency, whatever the setting, and so is either on disk, which counts no uses."""
    assert [choose(name, frequency_exponent=0.5).ranking for name in ("gdsf", "gds")] == [GreedyDualSize(0.1)] * 2
    made = [choose(name, frequency_exponent=0.5).make() for name in ("gdsf", "gds")]
    assert [policy.ranking for policy in made if isinstance(policy, RankedPolicy)] == [
        GreedyDualSize(0.1, 0.5),
        GreedyDualSize(0.1),
    ]
    assert GreedyDualSize(0.1, 0.5).name != GreedyDualSize(0.1).name


def test_on_disk_idle_goes_by_last_use() -> None:
    assert choose("idle").ranking.name == LeastRecentlyUsed().name


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_only_idle_makes_no_room(name: str) -> None:
    assert choose(name).make().makes_room is (name != "idle")


def test_a_user_may_bring_a_ranking() -> None:
    """A module:attribute of the user's own is taken, with the done weight handed over."""
    ranking = choose("labeling_ground.cache.policies.gds:GreedyDualSize", done_weight=0.5).ranking
    assert ranking == GreedyDualSize(0.5)


def test_a_user_may_bring_a_policy() -> None:
    """As well as a ranking; on disk its place is taken by last use."""
    name = "labeling_ground.simulate.s3fifo:make"
    assert isinstance(choose(name).make(), SmallMainGhost)
    assert choose(name).ranking == LeastRecentlyUsed()


@pytest.mark.parametrize(
    "name",
    [
        "gdsx",
        "",
        "no.such.module:x",
        "labeling_ground.cache.policies.gds:nothing",
        "math:pi",
        "math:",
    ],
)
def test_a_wrong_name_is_said_at_once(name: str) -> None:
    """What cannot be resolved raises with the names that can be."""
    with pytest.raises(BadSettings):
        choose(name)


def test_a_wrong_name_lists_the_right_ones() -> None:
    """The sentence names what is shipped."""
    with pytest.raises(BadSettings, match="gds, gdsf, idle, lfu, lru"):
        choose("gdsx")


def test_what_only_compares_does_not_serve() -> None:
    """``s3fifo`` is known to the simulator alone; the sentence says so."""
    with pytest.raises(BadSettings, match=r"only for the simulator .* Choose one of gds, gdsf, idle, lfu, lru"):
        choose("s3fifo")
    assert isinstance(simulated("s3fifo").make(), SmallMainGhost)


def test_of_a_formula_there_is_one_however_many_tiers_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves in memory, in its shadow caches and on disk is chosen, imported and made once."""
    made: list[Ranking] = []

    def make(**options: float) -> Ranking:
        made.append(LeastRecentlyUsed())
        return made[-1]

    monkeypatch.setattr(lru, "make", make)
    choice = choose("lru", tenant_share=0.5)
    for _ in range(3):
        choice.make().insert(Item("v1/public/a/image", 1, 1.0, 1.0))
    assert made == [choice.ranking]


def test_what_makes_no_ranking_is_refused() -> None:
    """A callable of another kind is found out at start."""
    with pytest.raises(BadSettings, match="no ranking and no policy"):
        choose("builtins:dict")


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_done_weight_lies_between_0_and_1(weight: float) -> None:
    """Anything else would turn the hint round."""
    with pytest.raises(BadSettings, match="between 0 and 1"):
        choose("gds", done_weight=weight)


@pytest.mark.parametrize("exponent", [-0.1, 4.5, float("nan")])
def test_a_frequency_exponent_is_no_penalty_and_no_overflow(exponent: float) -> None:
    with pytest.raises(BadSettings, match="exponent"):
        choose("gdsf", frequency_exponent=exponent)


# --- from one policy to another ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", ["gds", "gdsf", "lru", "lfu", "idle", "labeling_ground.simulate.s3fifo:make"])
@pytest.mark.parametrize("slices", [1, 7, 1000])
def test_a_new_policy_that_was_told_in_parts_goes_on_as_if_told_at_once(new: str, slices: int) -> None:
    """Nothing happened in between: the same order as when all had come in by their last use."""
    dice = random.Random(2)
    straight, told = choose(new).make(), choose(new).make()
    items = [Item(f"k{number}", dice.randint(1, 9), dice.random(), dice.random()) for number in range(200)]
    old = choose("gds").make()
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
    migration = PolicyMigration(old, told, list(items))
    while migration.advance(slices):
        pass
    assert drained(told) == drained(straight)


def drained(policy: Policy) -> list[str]:
    keys = []
    while (item := policy.evict()) is not None:
        keys.append(item.key)
    return keys


@pytest.mark.parametrize("new", ["gds", "lru", "lfu", "labeling_ground.simulate.s3fifo:make"])
@given(steps=STEPS, slices=st.integers(1, 5))
@patient
def test_whatever_happens_during_a_migration_every_item_goes_once(
    new: str, steps: list[tuple[object, ...]], slices: int
) -> None:
    """Told in parts while entries come, are used, are marked and go: none is lost and none comes back."""
    old = RankedPolicy(GreedyDualSize(), near=3)
    driver = PolicyDriver(old)
    for number in range(5):
        driver.insert(f"k{number}", 10 + number, 1.0, float(number))
    migration = PolicyMigration(old, choose(new).make(), [items[0] for items in driver.items.values()])
    driver.policies = (migration,)
    for step, (verb, *rest) in enumerate(steps):
        now = 100.0 + step
        match verb, rest:
            case "evict", []:
                expected = bool(driver.items)
                assert (driver.evict() is not None) is expected
            case "tick", _:
                migration.advance(slices)
            case _:
                driver.take(verb, rest, now)
    while migration.advance(slices):
        pass
    held = set(driver.items)
    driver.policies = (migration.new,)
    assert set(driver.drain()) == held


def test_lru_is_lru_again_after_a_migration() -> None:
    """What was used in the middle of it is the last to go."""
    old = choose("gds").make()
    driver = PolicyDriver(old)
    for number, key in enumerate("abcdef"):
        driver.insert(key, 10, 6.0 - number, float(number))
    migration = PolicyMigration(old, choose("lru").make(), [items[0] for items in driver.items.values()])
    driver.policies = (migration,)
    for _ in range(4):  # two to sort, two that tell
        migration.advance(3)
    driver.hit("a", 10.0)
    driver.insert("g", now=11.0)
    while migration.advance(2):
        pass
    driver.policies = (migration.new,)
    assert driver.drain() == list("bcdefag")
