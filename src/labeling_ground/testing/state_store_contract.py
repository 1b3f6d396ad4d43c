"""What every store of sessions' logs must do, for a test class to inherit. ``docs/extending.md`` shows how."""

import asyncio

import pytest

from labeling_ground.cache.state_store import StateStore
from labeling_ground.testing.suite import Suite

NAME = "5" * 64

LONG_S = 60.0

Pair = tuple[StateStore, StateStore]


class StateStoreContract(Suite):
    """A log is added to by all who know its beginning, replaced by one who knows all of it, and ends when idle."""

    @pytest.fixture
    def pair(self) -> Pair:
        """Two processes' ways to the same logs. Every suite gives its own."""
        raise NotImplementedError("Give the suite a fixture pair, which yields two state stores and closes them.")

    async def test_what_one_wrote_another_loads(self, pair: Pair) -> None:
        one, other = pair
        assert await other.load(NAME) == b""
        new = bytes(range(256)) * 100
        assert await one.write(NAME, b"", new, LONG_S, anew=True) == (True, new)
        assert await other.load(NAME) == new
        assert await other.load("6" * 64) == b""

    async def test_who_knows_its_beginning_adds_and_hears_of_what_others_added(self, pair: Pair) -> None:
        one, other = pair
        await one.write(NAME, b"", b"a\n", LONG_S, anew=True)
        assert await one.write(NAME, b"a\n", b"b\n", LONG_S, anew=False) == (True, b"a\nb\n")
        assert await other.write(NAME, b"a\n", b"c\n", LONG_S, anew=False) == (True, b"a\nb\nc\n")
        assert await one.write(NAME, b"a\nb\n", b"", LONG_S, anew=False) == (True, b"a\nb\nc\n")
        for unknown in (b"x\n", b"a\nx\n", b"a\nb\nc\nd\n"):
            assert await one.write(NAME, unknown, b"e\n", LONG_S, anew=False) == (False, b"a\nb\nc\n")
        assert await other.load(NAME) == b"a\nb\nc\n"

    async def test_only_who_knows_all_of_it_replaces_it(self, pair: Pair) -> None:
        one, other = pair
        await one.write(NAME, b"", b"a\nb\n", LONG_S, anew=True)
        for seen in (b"", b"a\n", b"x\n", b"a\nb\nc\n"):
            assert await other.write(NAME, seen, b"new", LONG_S, anew=True) == (False, b"a\nb\n")
        assert await other.write(NAME, b"a\nb\n", b"new", LONG_S, anew=True) == (True, b"new")
        assert await one.load(NAME) == b"new"

    async def test_where_nothing_is_there_any_more_that_is_told_and_it_is_begun_anew(self, pair: Pair) -> None:
        assert await pair[0].write(NAME, b"known", b"new", LONG_S, anew=False) == (False, b"")
        assert await pair[0].write(NAME, b"known", b"new", LONG_S, anew=True) == (False, b"")
        assert await pair[0].write(NAME, b"", b"knownnew", LONG_S, anew=True) == (True, b"knownnew")

    async def test_of_many_at_the_same_moment_each_adds_and_one_replaces(self, pair: Pair) -> None:
        await pair[0].write(NAME, b"", b"first\n", LONG_S, anew=True)
        lines = [f"{number}\n".encode() for number in range(30)]
        adding = (pair[n % 2].write(NAME, b"first\n", lines[n], LONG_S, anew=False) for n in range(30))
        found = [written for written in await asyncio.gather(*adding) if written is not None]
        assert all(done for done, _ in found)
        log = await pair[0].load(NAME)
        assert sorted(log.splitlines(keepends=True)) == sorted([b"first\n", *lines])
        replacing = (pair[n % 2].write(NAME, log, lines[n], LONG_S, anew=True) for n in range(30))
        assert sum(written is not None and written[0] for written in await asyncio.gather(*replacing)) == 1

    async def test_a_log_ends_when_it_was_idle_for_too_long_and_a_write_starts_the_time_anew(self, pair: Pair) -> None:
        one, other = pair
        await one.write(NAME, b"", b"a", 0.05, anew=True)
        await one.write(NAME, b"a", b"b", LONG_S, anew=False)
        await asyncio.sleep(0.1)
        assert await other.load(NAME) == b"ab"
        await one.write(NAME, b"ab", b"c", 0.05, anew=True)
        await asyncio.sleep(0.1)
        assert await other.load(NAME) == b""
        assert await other.write(NAME, b"", b"d", LONG_S, anew=True) == (True, b"d")
        await one.sweep()
        assert await one.load(NAME) == b"d"

    async def test_an_asker_that_leaves_breaks_nothing(self, pair: Pair) -> None:
        one, other = pair
        await one.write(NAME, b"", b"a", LONG_S, anew=True)
        task = asyncio.create_task(one.write(NAME, b"a", b"b", LONG_S, anew=False))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        written = await other.write(NAME, b"a", b"c", LONG_S, anew=False)
        assert written in ((True, b"abc"), (True, b"ac"), (True, b"acb"))  # whether that one was done or not
