"""Sessions outlive the process: with any restart in between, and on any number of servers, they are as on one."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles import Clock, DictStore, dice, now, patient, unkept, virtually

from labeling_ground.breaker import Breaker
from labeling_ground.cache.disk.state_store import DiskStateStore
from labeling_ground.cache.state_store import StateStore
from labeling_ground.cache.tier import Tier
from labeling_ground.errors import BadPrompt, LabelingGroundError, StoreFailed, UnknownSession
from labeling_ground.service import stored_sessions
from labeling_ground.service.session_state import SessionLog, SessionState, Snapshot
from labeling_ground.service.session_table import PendingChange
from labeling_ground.service.sessions import Sessions
from labeling_ground.service.stored_sessions import SessionStore
from labeling_ground.types import Box, Point

A, B = "a" * 64, "b" * 64
GOOD = Point(5, 6, 1)
DEADLINE_S = 0.1


@dataclass
class DictKeeper:
    """What all servers share. Takes its time, and does what it is told not to do: ``mood`` has its next answers."""

    kept: dict[str, bytes] = field(default_factory=dict)
    takes_s: float = 0.0
    mood: list[str] = field(default_factory=list)
    loads: int = 0
    saves: int = 0
    present: set[str] = field(default_factory=set)
    place: str = "first"

    async def load(self, name: str) -> bytes:
        self.loads += 1
        await asyncio.sleep(self.takes_s)
        if self.mood and self.mood[0] == "down":
            raise StoreFailed("It is down.")
        return self.kept.get(name, b"")

    async def write(
        self, name: str, seen: bytes, new: bytes, idle_s: float, *, anew: bool
    ) -> tuple[bool, bytes] | None:
        assert idle_s > 0
        self.saves += 1
        mood = self.mood.pop(0) if self.mood else "well"
        if mood == "down":
            raise StoreFailed("It is down.")
        if mood == "full":
            return None
        await asyncio.sleep(self.takes_s)
        log = self.kept.get(name, b"")
        done = log == seen if anew else log.startswith(seen)
        if done:
            self.kept[name] = log = new if anew else log + new
        if mood == "lost":
            raise StoreFailed("It was done, and nobody heard of it.")
        return done, log

    async def meet(self, server: str, present_s: float) -> tuple[int, str]:
        if self.mood and self.mood[0] == "down":
            raise StoreFailed("It is down.")
        self.present.add(server)
        return len(self.present) - 1, self.place

    async def leave(self, server: str) -> None:
        self.present.discard(server)

    async def sweep(self) -> None:
        """Nothing runs out."""

    async def aclose(self) -> None:
        """Nothing is open."""


def server(state_store: StateStore | None, **options: Any) -> Sessions:
    """One process."""
    kept_below = None
    if state_store is not None:
        breaker = Breaker(options.pop("failures", 1000), 5.0, now)
        tier = Tier(DictStore(), deadline_s=DEADLINE_S, breaker=breaker, clock=now)
        kept_below = SessionStore(state_store, tier.calls, others=options.pop("others", "none"))
    given: dict[str, Any] = {"most": 100, "idle_s": 60.0, "most_clicks": 6, "clock": now}
    return Sessions(state_store=kept_below, deadline_s=DEADLINE_S, **(given | options))


Step = tuple[str, Any]

points = st.builds(Point, st.integers(-1, 11), st.floats(0, 9, width=32), st.integers(0, 1))
boxes = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda at: Box(at[0], at[1], at[0] + 3, at[1] + 3.5))
steps = st.one_of(
    st.tuples(st.just("click"), st.lists(points, min_size=1, max_size=2)),
    st.tuples(st.just("rect"), boxes),
    st.tuples(st.sampled_from(["undo", "undo", "finish", "fail"]), st.none()),
    st.tuples(st.just("open"), st.sampled_from([A, B])),
)


async def do(sessions: Sessions, step: Step, number: int) -> Any:
    """What a client sees of it: a snapshot, or the error. Every third prediction is at hand, where there is one."""
    verb, what = step
    prediction = f"prediction {number}"
    at_hand = (lambda asked: None if asked.is_empty else prediction) if number % 3 == 1 else None
    try:
        if verb == "open":
            await sessions.open("t", "s", what, 10, 10, sessions.turn())
            return None
        if verb == "finish":
            return await sessions.finish("t", "s")
        if verb == "undo":
            before, found = await sessions.undo("t", "s", at_hand)
            if found.is_empty:
                return before, found
        elif verb == "rect":
            before, found = await sessions.rect("t", "s", what, at_hand)
        else:
            before, found = None, await sessions.click("t", "s", what or [GOOD], at_hand)
        if verb == "fail":
            await sessions.take_back("t", "s", found)
        elif before is not None and number % 5 == 0:
            await sessions.restore("t", "s", before, found)
        else:
            await sessions.answered("t", "s", found, prediction)
    except LabelingGroundError as error:
        return type(error), str(error)
    return before, found


@patient
@given(st.lists(steps, max_size=12), st.data())
def test_a_restart_between_any_two_changes_is_not_seen(sequence: list[Step], data: st.DataObject) -> None:
    restarts = data.draw(st.lists(st.booleans(), min_size=len(sequence), max_size=len(sequence)))

    async def main() -> None:
        state_store, alone = DictKeeper(), server(None)
        restarted = server(state_store)
        for number, (step, restart) in enumerate(zip(sequence, restarts, strict=True)):
            if restart:
                restarted = server(state_store)
            assert await do(restarted, step, number) == await do(alone, step, number)
        assert unkept(restarted) == 0

    virtually(main)


@patient
@given(st.lists(st.tuples(steps, st.integers(0, 2)), max_size=15))
def test_it_does_not_matter_to_which_of_several_servers_a_change_comes(sequence: list[tuple[Step, int]]) -> None:
    async def main() -> None:
        state_store, alone = DictKeeper(), server(None)
        servers = [server(state_store) for _ in range(3)]
        for number, (step, which) in enumerate(sequence):
            assert await do(servers[which], step, number) == await do(alone, step, number)

    virtually(main)


@patient
@given(st.lists(steps, max_size=12), st.lists(st.sampled_from(["well", "down", "lost", "full"]), max_size=30))
def test_a_keeper_that_fails_changes_no_answer_and_has_everything_once_it_is_back(
    sequence: list[Step], mood: list[str]
) -> None:
    """Also where a save was carried out though its answer was lost: nothing is done twice."""

    async def main() -> None:
        state_store, alone = DictKeeper(), server(None)
        failing = server(state_store)
        await do(failing, ("open", A), 0)
        await do(alone, ("open", A), 0)
        state_store.mood = list(mood)
        for number, step in enumerate(sequence):
            if state_store.mood and state_store.mood[0] == "down" and step[0] == "click":
                state_store.mood.pop(0)  # a bad click looks whether it knows the newest state: that may fail as well
            assert await do(failing, step, number) == await do(alone, step, number)
        state_store.mood.clear()
        await failing.sweep()
        assert await look(server(state_store)) == await look(alone)

    virtually(main)


async def look(sessions: Sessions) -> Snapshot:
    return await sessions.look("t", "s")


def clicks_of(snapshot: Snapshot) -> list[float]:
    return sorted(point.x for point in snapshot.clicks)


def test_a_prediction_at_hand_is_stored_with_its_click_in_one_write() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        one = server(state_store)
        await one.open("t", "s", A, 10, 10, one.turn())
        before = state_store.saves
        found = await one.click("t", "s", [GOOD], lambda snapshot: f"of {len(snapshot.clicks)} click")
        assert state_store.saves == before + 1
        await one.answered("t", "s", found, "of 1 click")
        assert state_store.saves == before + 1, "that is known"
        assert (await server(state_store).click("t", "s", [GOOD])).parent == "of 1 click"

    virtually(main)


def test_a_prediction_at_hand_counts_for_what_was_clicked_here_and_not_for_what_others_have_added() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        one, other = server(state_store, others="some"), server(state_store, others="some")
        await one.open("t", "s", A, 10, 10, one.turn())
        await other.click("t", "s", [Point(1, 1, 1)])
        found = await one.click("t", "s", [GOOD], lambda _: "of one click")
        assert clicks_of(found) == [1, 5]
        assert (await one.click("t", "s", [Point(2, 2, 1)])).parent is None

    virtually(main)


@pytest.mark.parametrize("seed", range(20))
def test_clicks_at_the_same_moment_on_several_servers_count_once_each(seed: int) -> None:
    """Though the state store loses saves, and answers to saves that it carried out."""

    async def main() -> None:
        state_store, chance = DictKeeper(takes_s=0.01), dice(seed)
        servers = [server(state_store, most_clicks=200) for _ in range(3)]
        await servers[0].open("t", "s", A, 100, 10, servers[0].turn())
        for one in servers:
            await one.look("t", "s")
        state_store.mood = chance.choices(["well", "down", "lost"], [6, 2, 2], k=40)

        async def click(x: int) -> None:
            await asyncio.sleep(chance.random() / 5)
            snapshot = await chance.choice(servers).click("t", "s", [Point(x, 1, 1)])
            assert x in clicks_of(snapshot)

        await asyncio.gather(*(click(x) for x in range(60)))
        state_store.mood.clear()
        for one in servers:
            await one.sweep()
        assert clicks_of(await look(server(state_store))) == list(range(60))
        assert clicks_of(await servers[1].click("t", "s", [Point(60, 1, 1)])) == list(range(61))

    virtually(main)


def test_two_clicks_that_reach_two_servers_at_the_same_moment_are_in_the_later_ones_mask() -> None:
    async def main() -> None:
        state_store = DictKeeper(takes_s=0.01)
        one, other = server(state_store), server(state_store)
        await one.open("t", "s", A, 10, 10, one.turn())
        await other.look("t", "s")
        answers = await asyncio.gather(one.click("t", "s", [Point(1, 1, 1)]), other.click("t", "s", [Point(2, 2, 1)]))
        assert sorted(len(answer.clicks) for answer in answers) == [1, 2]

    virtually(main)


def test_a_click_that_an_older_copy_would_refuse_is_judged_by_the_newest() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        one, other = server(state_store), server(state_store)
        await one.open("t", "s", A, 10, 10, one.turn())
        await other.open("t", "s", B, 99, 99, other.turn())
        assert (await one.click("t", "s", [Point(50, 50, 1)])).image_id == B
        with pytest.raises(BadPrompt, match="99 × 99"):
            await one.click("t", "s", [Point(100, 50, 1)])
        await one.open("t", "s", A, 10, 10, one.turn())
        with pytest.raises(BadPrompt, match="10 × 10"):
            await other.click("t", "s", [Point(50, 50, 1)])

    virtually(main)


def test_a_click_on_an_image_that_was_left_meanwhile_is_not_done_again_on_the_next_one() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        one, other = server(state_store), server(state_store)
        await one.open("t", "s", A, 10, 10, one.turn())
        state_store.mood = ["down"]
        await one.click("t", "s", [GOOD])
        await other.open("t", "s", B, 10, 10, other.turn())
        assert (await one.click("t", "s", [Point(1, 1, 1)])).clicks == (Point(1, 1, 1),)

    virtually(main)


# --- a state store that is away ------------------------------------------------------------------------------------


def test_a_keeper_that_hangs_delays_a_change_by_the_deadline_and_no_more() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        sessions = server(state_store, failures=3)
        await sessions.open("t", "s", A, 10, 10, sessions.turn())
        state_store.takes_s = 1000.0
        began = now()
        await asyncio.gather(*(sessions.click("t", "s", [GOOD]) for _ in range(3)))
        assert now() - began == pytest.approx(DEADLINE_S)
        for _ in range(2):
            await sessions.undo("t", "s")
        began = now()
        assert len((await sessions.click("t", "s", [GOOD])).clicks) == 2
        assert now() == began, "the breaker is open"
        assert unkept(sessions) == 6

    virtually(main)


def test_what_waits_for_a_keeper_that_is_away_does_not_grow_with_each_click() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        sessions = server(state_store)
        await sessions.open("t", "s", A, 10, 10, sessions.turn())
        state_store.mood = ["down"] * 100
        for number in range(20):
            await sessions.click("t", "s", [GOOD], lambda _, number=number: f"prediction-{number}")  # type: ignore[misc]
            await sessions.undo("t", "s", lambda _: None)
        await sessions.click("t", "s", [GOOD], lambda _: "the last")
        session = await sessions.known(("t", "s"))
        assert session.pending == []
        state_store.mood = []
        await sessions.sweep()
        assert not session.is_unsaved
        another = server(state_store)
        assert (await another.click("t", "s", [Point(6, 6, 1)])).parent == "the last"

    virtually(main)


@pytest.mark.parametrize("others", ["none", "some"])
def test_a_change_that_is_stored_at_the_very_moment_of_its_deadline_is_stored(others: str) -> None:
    """The store's answer comes first, and the deadline before the asker has heard of it."""

    class Late(PendingChange):
        def settle(self, *, stored: bool) -> None:
            super().settle(stored=stored)
            super().settle(stored=False)

    async def main() -> None:
        sessions = server(DictKeeper(takes_s=0.01), others=others)
        await sessions.open("t", "s", A, 10, 10, sessions.turn())
        await sessions.click("t", "s", [GOOD])
        assert clicks_of(await sessions.click("t", "s", [Point(6, 6, 1)])) == [5, 6]
        assert unkept(sessions) == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_sessions, "PendingChange", Late)
        virtually(main)


def test_a_session_that_is_not_known_here_is_not_called_unknown_while_the_keeper_is_away() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        first = server(state_store)
        await first.open("t", "s", A, 10, 10, first.turn())
        state_store.mood = ["down"]
        second = server(state_store)
        with pytest.raises(StoreFailed, match="Try again"):
            await second.click("t", "s", [GOOD])
        state_store.mood.clear()
        assert (await second.click("t", "s", [GOOD])).clicks == (GOOD,)
        with pytest.raises(UnknownSession):
            await second.click("t", "nobody", [GOOD])

    virtually(main)


def test_a_session_that_is_not_known_here_is_asked_for_again_where_the_first_answer_was_late() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        first = server(state_store)
        await first.open("t", "s", A, 10, 10, first.turn())
        state_store.takes_s = 1000.0
        asyncio.get_running_loop().call_later(1.5 * DEADLINE_S, setattr, state_store, "takes_s", 0.0)
        began = now()
        assert (await look(server(state_store))).image_id == A
        assert now() - began == pytest.approx(2 * DEADLINE_S)
        state_store.takes_s = 1000.0
        began = now()
        with pytest.raises(StoreFailed):
            await look(server(state_store))
        assert now() - began == pytest.approx(3 * DEADLINE_S)

    virtually(main)


def test_what_nobody_could_keep_is_kept_when_the_server_shuts_down() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        first = server(state_store)
        await first.open("t", "s", A, 10, 10, first.turn())
        state_store.mood = ["down"]
        await first.click("t", "s", [GOOD])
        assert unkept(first) == 1
        await first.aclose()
        assert (await look(server(state_store))).clicks == (GOOD,)

    virtually(main)


# --- several servers, and a state store that fails them ------------------------------------------------------------


async def click_somewhere(servers: Sequence[Sessions], which: int, x: int) -> list[float] | None:
    """What is seen after a click at ``x``; ``None`` where it was said that it was not made."""
    try:
        return clicks_of(await servers[which].click("t", "s", [Point(x, 1, 1)]))
    except StoreFailed:
        return None


@pytest.mark.parametrize("seed", range(30))
def test_with_several_servers_an_answered_click_is_in_every_later_answer(seed: int) -> None:
    """Whatever a save comes to; and a click that was refused is not there in the end, though the state store had it."""

    async def main() -> None:
        state_store, chance = DictKeeper(), dice(seed)
        servers = [server(state_store, most_clicks=200, others="some") for _ in range(3)]
        await servers[0].open("t", "s", A, 100, 10, servers[0].turn())
        answered: list[float] = []
        for x in range(60):
            state_store.mood = chance.choices(["well", "down", "full", "lost"], [5, 2, 2, 2], k=2)
            seen = await click_somewhere(servers, chance.randrange(3), x)
            if seen is not None:
                answered.append(x)
                assert set(answered) <= set(seen)
        assert 10 < len(answered) < 60
        state_store.mood.clear()
        for one in servers:
            await one.sweep()
        assert clicks_of(await look(server(state_store))) == answered
        assert sum(unkept(one) for one in servers) == 0

    virtually(main)


@patient
@given(st.lists(st.tuples(steps, st.integers(0, 2)), max_size=10), st.data())
def test_a_change_that_was_refused_was_not_made_whatever_it_was(
    sequence: list[tuple[Step, int]], data: st.DataObject
) -> None:
    """Undo, box, finish and another image alike: tried again until it is done, each counts once."""

    async def main() -> None:
        state_store, alone = DictKeeper(), server(None)
        servers = [server(state_store, others="some") for _ in range(3)]
        for number, (step, which) in enumerate(sequence):
            for mood in data.draw(st.lists(st.sampled_from(["down", "full"]), max_size=2)):
                state_store.mood = [mood] * 9
                refused = await do(servers[which], step, number)
                assert issubclass(refused[0], LabelingGroundError)
            state_store.mood = []
            assert await do(servers[which], step, number) == await do(alone, step, number)

    virtually(main)


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_what_a_replica_lacks_that_took_over_is_said_to_it_again(seed: int, sticky: bool) -> None:
    async def main() -> None:
        state_store, chance = DictKeeper(), dice(seed)
        servers = [server(state_store, most_clicks=200, others="some") for _ in range(3)]
        await servers[0].open("t", "s", A, 100, 10, servers[0].turn())
        for one in servers:
            await one.meet()
        behind = dict(state_store.kept)
        for x in range(60):
            if chance.random() < 0.3:
                behind = dict(state_store.kept)  # so far the replica has come
            if chance.random() < 0.1:
                state_store.kept, state_store.place = dict(behind), f"replica {x}"
                for one in [] if sticky else chance.sample(servers, 3):
                    await one.meet()
            seen = await click_somewhere(servers, 0 if sticky else chance.randrange(3), x)
            assert seen == list(range(x + 1))

    virtually(main)


def test_both_sides_of_a_fail_over_are_kept_and_what_was_taken_back_stays_so() -> None:
    """One server's clicks were lost, another one has gone on from what was left, before it heard of the fail-over."""

    async def main() -> None:
        state_store = DictKeeper()
        one, other = server(state_store, others="some"), server(state_store, others="some")
        await one.open("t", "s", A, 100, 10, one.turn())
        for x in range(3):
            await click_somewhere([one, other], x % 2, x)
        behind = dict(state_store.kept)
        await one.undo("t", "s")  # takes 2 back
        await click_somewhere([one], 0, 3)
        state_store.kept = behind
        assert await click_somewhere([other], 0, 4) == [0, 1, 2, 4]
        assert await click_somewhere([one], 0, 5) == [0, 1, 3, 4, 5]
        assert await click_somewhere([other], 0, 6) == [0, 1, 3, 4, 5, 6]

    virtually(main)


def test_one_server_alone_goes_on_and_one_that_has_met_others_does_not() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        one, other = server(state_store, others="auto"), server(state_store, others="auto")
        await one.meet()
        await one.open("t", "s", A, 10, 10, one.turn())
        state_store.mood = ["down"]
        assert len((await one.click("t", "s", [GOOD])).clicks) == 1
        assert one.trouble
        await one.sweep()
        assert not one.trouble
        await other.meet()
        await one.meet()
        state_store.mood = ["down"]
        with pytest.raises(StoreFailed, match="was not made"):
            await one.click("t", "s", [GOOD])
        await one.undo("t", "s")
        assert (await other.look("t", "s")).clicks == ()
        await other.aclose()
        await one.meet()
        state_store.mood = ["down"]
        assert len((await one.click("t", "s", [GOOD])).clicks) == 1

    virtually(main)


def test_a_server_that_is_the_first_in_a_keeper_that_begins_anew_does_not_take_itself_for_alone() -> None:
    """A Redis that is started anew has forgotten who was there, and the others come by and by."""

    async def main() -> None:
        state_store = DictKeeper()
        one, other = server(state_store, others="auto"), server(state_store, others="auto")
        for each in (other, one):
            await each.meet()
        await one.open("t", "s", A, 10, 10, one.turn())
        state_store.place, state_store.present = "second", set()
        await one.meet()
        state_store.mood = ["down"]
        with pytest.raises(StoreFailed, match="was not made"):
            await one.click("t", "s", [GOOD])
        state_store.mood = []
        await asyncio.sleep(30)
        await one.meet()
        await one.click("t", "s", [GOOD])
        assert len((await other.look("t", "s")).clicks) == 1
        await asyncio.sleep(31)
        await one.meet()  # nobody has come for so long that there is nobody
        await one.open("t", "s", B, 10, 10, one.turn())
        state_store.mood = ["down"]
        assert len((await one.click("t", "s", [GOOD])).clicks) == 1

    virtually(main)


def test_a_server_that_never_met_the_keeper_does_not_take_itself_for_alone() -> None:
    async def main() -> None:
        state_store = DictKeeper(mood=["down"] * 9)
        one = server(state_store, others="auto")
        await one.meet()
        with pytest.raises(StoreFailed, match="was not made"):
            await one.open("t", "s", A, 10, 10, one.turn())
        assert len(one) == 0

    virtually(main)


# --- economy -------------------------------------------------------------------------------------------------------


def test_many_clicks_at_once_travel_together_and_many_askers_load_once() -> None:
    async def main() -> None:
        state_store = DictKeeper(takes_s=0.01)
        sessions = server(state_store, most_clicks=100)
        await sessions.open("t", "s", A, 10, 10, sessions.turn())
        await asyncio.gather(*(sessions.click("t", "s", [GOOD]) for _ in range(50)))
        assert state_store.saves <= 3
        again = server(state_store, most_clicks=100)
        state_store.loads = 0
        snapshots = await asyncio.gather(*(again.click("t", "s", [GOOD]) for _ in range(20)))
        assert state_store.loads == 1
        assert sorted(len(snapshot.clicks) for snapshot in snapshots) == list(range(51, 71))

    virtually(main)


def test_clicks_that_come_between_cost_no_second_write() -> None:
    """A server adds its click whatever others have added since: nobody's work is done again."""

    async def main() -> None:
        state_store = DictKeeper()
        one, other = server(state_store), server(state_store)
        await one.open("t", "s", A, 10, 10, one.turn())
        await other.look("t", "s")
        state_store.saves = 0
        for which in (one, other, one, other):
            await which.click("t", "s", [GOOD])
        assert state_store.saves == 4

    virtually(main)


def test_a_click_that_others_made_wrong_meanwhile_is_undone_and_its_asker_is_told() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        one, other = server(state_store), server(state_store)
        await one.open("t", "s", A, 10, 10, one.turn())
        await one.click("t", "s", [GOOD])
        await other.undo("t", "s")
        with pytest.raises(BadPrompt, match="first click"):
            await one.click("t", "s", [Point(1, 1, 0)])
        assert (await other.click("t", "s", [GOOD])).clicks == (GOOD,)

    virtually(main)


class CountedWrites(DiskStateStore):
    """A file of sessions that counts the writes that its thread makes."""

    writes = 0

    async def write(self, *what: Any, **how: Any) -> tuple[bool, bytes] | None:
        """See ``DiskStateStore``."""
        self.writes += 1
        return await super().write(*what, **how)


def test_where_a_store_writes_at_once_a_click_waits_for_no_thread_and_outlives_the_process(tmp_path: Path) -> None:
    async def main() -> None:
        stores = [CountedWrites(tmp_path, most=9) for _ in range(2)]
        one, other = (server(store) for store in stores)
        await one.open("t", "s", A, 10, 10, one.turn())
        for x in (1, 2, 3):
            asked = await one.click("t", "s", [Point(x, 1, 1)])
            await one.answered("t", "s", asked, f"prediction {x}")
        assert stores[0].writes == 1, "the session itself"
        assert clicks_of(await look(other)) == [1, 2, 3], "nothing of the first one is closed"
        await other.click("t", "s", [Point(4, 4, 1)])
        assert clicks_of(await one.click("t", "s", [Point(5, 5, 1)])) == [1, 2, 3, 4, 5], "where another has added some"
        assert (unkept(one), unkept(other)) == (0, 0)
        for sessions in (one, other):
            await sessions.aclose()

    asyncio.run(main())


def test_what_changes_nothing_is_not_saved() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        sessions = server(state_store)
        await sessions.open("t", "s", A, 10, 10, sessions.turn())
        asked = await sessions.click("t", "s", [GOOD])
        await sessions.answered("t", "s", asked, "one")
        saves = state_store.saves
        await sessions.answered("t", "s", asked, "one")
        await sessions.finish("t", "s")
        await sessions.take_back("t", "s", asked)
        assert state_store.saves == saves + 1

    virtually(main)


def test_a_session_that_made_room_in_memory_is_still_known() -> None:
    async def main() -> None:
        sessions = server(DictKeeper(), most=1)
        for name in ("one", "other"):
            await sessions.open("t", name, A, 10, 10, sessions.turn())
            await sessions.click("t", name, [GOOD])
        assert len(sessions) == 1
        assert len((await sessions.click("t", "one", [GOOD])).clicks) == 2

    virtually(main)


# --- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [b"", b"\x00\xff", b"[]", b"{}", b'{"format":2}', b'{"format":2,"image":[1]}', b"null", b"7"]
)
def test_bytes_that_are_no_session_are_none_and_are_replaced(value: bytes) -> None:
    async def main() -> None:
        assert SessionLog.from_bytes(value) is None
        state_store = DictKeeper()
        sessions = server(state_store)
        await sessions.open("t", "s", A, 10, 10, sessions.turn())
        [name] = state_store.kept
        state_store.kept[name] = value
        with pytest.raises(UnknownSession):
            await server(state_store).click("t", "s", [GOOD])
        await sessions.click("t", "s", [GOOD])
        assert (await look(server(state_store))).clicks == (GOOD,)

    virtually(main)


def test_neither_tenant_nor_name_stands_in_what_it_is_kept_under() -> None:
    async def main() -> None:
        state_store = DictKeeper()
        sessions = server(state_store)
        names: Sequence[tuple[str, str]] = [
            ("t", "a/b"),
            ("t", "a\nb"),
            ("t2", "a/b"),
            ("t", "\ud800"),
            ("t", "x" * 512),
        ]
        for tenant, name in names:
            await sessions.open(tenant, name, A, 10, 10, sessions.turn())
        assert len(state_store.kept) == len(names)
        assert all(len(name) == 64 and name.isalnum() for name in state_store.kept)

    virtually(main)


def test_a_state_remembers_a_bounded_number_of_servers() -> None:
    state = SessionState()
    for number in range(100):
        state.note(f"server {number}", 1)
    state.note("server 99", 2)
    assert len(state.seen) <= 16
    assert state.seen["server 99"] == 2


def test_an_older_copy_ends_with_its_idle_time_and_the_kept_one_is_taken() -> None:
    clock, state_store = Clock(), DictKeeper()

    async def main() -> None:
        one, other = server(state_store, clock=clock), server(state_store)
        await one.open("t", "s", A, 10, 10, one.turn())
        await other.click("t", "s", [GOOD])
        clock.now += 61
        assert len(one) == 0
        assert (await one.look("t", "s")).clicks == (GOOD,)

    virtually(main)
