"""What every store of sessions' states must do, for a test class to inherit. ``docs/extending.md`` shows how."""

import asyncio

import pytest

from labeling_ground.cache.state_store import StateStore, VersionedState
from labeling_ground.testing.suite import Suite

NAME = "5" * 64

LONG_S = 60.0

Pair = tuple[StateStore, StateStore]


class StateStoreContract(Suite):
    """A state is replaced only by one who knows it, and ends when it was idle for too long."""

    @pytest.fixture
    def pair(self) -> Pair:
        """Two processes' ways to the same states. Every suite gives its own."""
        raise NotImplementedError("Give the suite a fixture pair, which yields two state stores and closes them.")

    async def test_what_one_saved_another_loads(self, pair: Pair) -> None:
        one, other = pair
        assert await other.load(NAME) is None
        new = VersionedState.new(bytes(range(256)) * 100)
        assert await one.save(NAME, new, b"", LONG_S) == new
        assert await other.load(NAME) == new
        assert await other.load("6" * 64) is None

    async def test_only_who_knows_the_last_version_replaces_it(self, pair: Pair) -> None:
        one, other = pair
        first, second, third = (VersionedState.new(value) for value in (b"first", b"second", b"third"))
        await one.save(NAME, first, b"", LONG_S)
        assert await other.save(NAME, second, b"", LONG_S) == first
        assert await other.save(NAME, second, b"x" * 8, LONG_S) == first
        assert await other.save(NAME, second, first.version, LONG_S) == second
        assert await one.save(NAME, third, first.version, LONG_S) == second
        assert await one.load(NAME) == second

    async def test_a_version_is_new_though_the_value_is_not(self, pair: Pair) -> None:
        one, other = pair
        first, same = VersionedState.new(b"value"), VersionedState.new(b"value")
        await one.save(NAME, first, b"", LONG_S)
        assert await one.save(NAME, same, first.version, LONG_S) == same
        assert await other.save(NAME, VersionedState.new(b"late"), first.version, LONG_S) == same

    async def test_where_nothing_is_kept_any_more_what_is_known_is_saved(self, pair: Pair) -> None:
        new = VersionedState.new(b"value")
        assert await pair[0].save(NAME, new, b"x" * 8, LONG_S) == new
        assert await pair[1].load(NAME) == new

    async def test_of_many_at_the_same_moment_one_replaces_it(self, pair: Pair) -> None:
        first = VersionedState.new(b"first")
        await pair[0].save(NAME, first, b"", LONG_S)
        new = [VersionedState.new(str(number).encode()) for number in range(30)]
        found = await asyncio.gather(*(pair[n % 2].save(NAME, new[n], first.version, LONG_S) for n in range(30)))
        assert len(set(found)) == 1
        assert found[0] in new
        assert await pair[0].load(NAME) == found[0]

    async def test_a_state_ends_when_it_was_idle_for_too_long_and_a_save_starts_the_time_anew(self, pair: Pair) -> None:
        one, other = pair
        first, second, third = (VersionedState.new(value) for value in (b"first", b"second", b"third"))
        await one.save(NAME, first, b"", 0.05)
        await one.save(NAME, second, first.version, LONG_S)
        await asyncio.sleep(0.1)
        assert await other.load(NAME) == second
        await one.save(NAME, third, second.version, 0.05)
        await asyncio.sleep(0.1)
        assert await other.load(NAME) is None
        assert await other.save(NAME, first, b"", LONG_S) == first
        await one.sweep()
        assert await one.load(NAME) == first

    async def test_an_asker_that_leaves_breaks_nothing(self, pair: Pair) -> None:
        one, other = pair
        new, later = VersionedState.new(b"value"), VersionedState.new(b"later")
        task = asyncio.create_task(one.save(NAME, new, b"", LONG_S))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert await other.save(NAME, later, new.version, LONG_S) == later  # whether that one was saved or not
        assert await one.load(NAME) == later
