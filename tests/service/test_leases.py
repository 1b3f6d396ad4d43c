"""Many processes, one computation: here as many Segmenters that share a tier and its leases, in virtual time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles import (
    TENANT,
    TOY,
    DictLeases,
    DictStore,
    HangingStore,
    SlowStore,
    ToyBackend,
    counted,
    damage,
    errors_of,
    hedged,
    image_bytes,
    keys_of,
    mask,
    now,
    patient,
    sealed,
    serving,
    virtually,
)

from labeling_ground import key as keys
from labeling_ground.breaker import Breaker
from labeling_ground.cache.lease import Claim
from labeling_ground.cache.store import Store
from labeling_ground.cache.tier import Tier
from labeling_ground.errors import BackendFailed, LabelingGroundError, Overloaded, StoreFailed
from labeling_ground.service.leases import SharedFlights
from labeling_ground.service.once import HedgeOutcome, StartGate
from labeling_ground.service.predictor import Predictor
from labeling_ground.types import Kind, Outcome, Priority

T = TypeVar("T")

FILE = image_bytes(1)
ID = keys.image_id(FILE)
KEY = keys_of(FILE).embedding(TOY)


@dataclass
class Node:
    """One process."""

    predictor: Predictor
    backend: ToyBackend

    async def send(self, file: bytes = FILE) -> Outcome:
        return (await self.predictor.open_image(TENANT, file, keys.image_id(file))).outcome

    @property
    def errors(self) -> Counter[str]:
        return errors_of(self.predictor.store.lower[0])


@dataclass
class Cluster:
    """Processes that share a tier."""

    nodes: list[Node]
    leases: DictLeases

    def __iter__(self) -> Any:
        return iter(self.nodes)

    @property
    def encodes(self) -> int:
        return sum(node.backend.encodes for node in self.nodes)

    @property
    def decodes(self) -> int:
        return sum(node.backend.decodes for node in self.nodes)

    def figures(self, kind: Kind) -> dict[str, int]:
        """What all of them counted."""
        each = [counted(node.predictor, kind) for node in self.nodes]
        return {name: sum(getattr(one, name) for one in each) for name in ("lookups", "hits", "misses", "joined")}

    def hedges(self, kind: Kind) -> dict[HedgeOutcome, int]:
        found = {outcome: sum(hedged(node.predictor, kind, outcome) for node in self.nodes) for outcome in HedgeOutcome}
        return {outcome: count for outcome, count in found.items() if count}


@asynccontextmanager
async def cluster(
    count: int = 2,
    store: DictStore | None = None,
    leases: DictLeases | None = None,
    *,
    own: Callable[[], Store] | None = None,
    encode_s: float = 1.0,
    decode_s: float = 0.1,
    **options: Any,
) -> AsyncIterator[Cluster]:
    """So many processes; each may have a tier of its own behind the shared one."""
    store = DictStore() if store is None else store
    leases = DictLeases(store.entries) if leases is None else leases
    shared = {name: options.pop(name) for name in ("kinds", "lease_s", "most_wait_s", "patience_s") if name in options}
    clock = asyncio.get_running_loop().time
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(count):
            backend = ToyBackend(encode_s=encode_s, decode_s=decode_s)
            tiers = [store] if own is None else [store, own()]
            predictor = await stack.enter_async_context(serving(backend, *tiers, clock=clock, **options))
            predictor.once.shared = SharedFlights(leases, predictor.store.lower[0], **shared)
            nodes.append(Node(predictor, backend))
        yield Cluster(nodes, leases)


def spawn(*work: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(each) for each in work]


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})


# --- one computation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["parallel", "first"])
def test_four_processes_with_ten_askers_each_make_one_encode(mode: str) -> None:
    async def main() -> None:
        async with cluster(4, mode=mode) as four:
            outcomes = Counter(await asyncio.gather(*(node.send() for node in four for _ in range(10))))
            assert outcomes == {Outcome.MISS: 1, Outcome.JOINED: 39}
            assert four.encodes == 1
            assert four.figures(Kind.EMBEDDING) == {"lookups": 40, "hits": 0, "misses": 1, "joined": 39}
            assert four.hedges(Kind.EMBEDDING) == {HedgeOutcome.USED: 1, HedgeOutcome.WITHDRAWN: 3}
            await asyncio.sleep(1.0)
            assert four.leases.held == {}

    virtually(main)


@pytest.mark.parametrize("joins", [False, True])
def test_an_image_that_somebody_opens_elsewhere_leaves_the_prefetches_behind(joins: bool) -> None:
    """One server has queued it as a prefetch, behind others, when somebody opens it at another: perhaps after that one,
    too, had queued it as a prefetch."""

    async def main() -> None:
        async with cluster(2, slots=1, encode_s=10.0) as (one, other):
            files = [image_bytes(number) for number in range(10, 18)]
            for file in (*files, FILE):
                await one.predictor.prefetch(TENANT, file, keys.image_id(file))
            await asyncio.sleep(1.0)
            assert one.predictor.encode_queue.outlook(KEY).place == len(files)
            if joins:
                await other.predictor.prefetch(TENANT, FILE, ID)
                await asyncio.sleep(5.0)
                assert one.predictor.encode_queue.outlook(KEY).place == len(files)
            began = now()
            assert await other.send() is Outcome.JOINED
            assert now() - began < 2 * 10.0
            assert other.backend.encodes == 0

    virtually(main)


def test_identical_prompts_are_one_decode_and_the_same_mask_for_all() -> None:
    async def main() -> None:
        async with cluster(4) as four:
            await four.nodes[0].send()
            await four.nodes[0].predictor.store.drain()
            answers = await asyncio.gather(*(mask(node.predictor, ID) for node in four for _ in range(10)))
            assert Counter(answer.outcome for answer in answers) == {Outcome.MISS: 1, Outcome.JOINED: 39}
            assert len({answer.prediction.png for answer in answers}) == 1
            assert (four.encodes, four.decodes) == (1, 1)
            assert four.figures(Kind.MASK) == {"lookups": 40, "hits": 0, "misses": 1, "joined": 39}

    virtually(main)


def test_who_waited_answers_as_soon_as_the_value_can_be_read_and_not_at_the_next_look() -> None:
    async def main() -> None:
        async with cluster(2) as (one, other):
            first, second = spawn(one.send(), other.send())
            await first
            ended = now()
            assert await second is Outcome.JOINED
            assert now() - ended < 0.001

    virtually(main)


def test_a_notice_that_is_lost_costs_half_a_second_at_most() -> None:
    async def main() -> None:
        async with cluster(3, encode_s=2.0) as three:
            three.leases.deaf = True
            assert Counter(await asyncio.gather(*(node.send() for node in three)))[Outcome.JOINED] == 2
            assert now() < 2.6
            assert three.encodes == 1

    virtually(main)


def test_what_was_released_just_before_one_listens_is_seen_all_the_same() -> None:
    class Late(DictLeases):
        """The holder ends while the other begins to listen."""

        @asynccontextmanager
        async def listen(self, key: str) -> AsyncIterator[asyncio.Event]:
            await asyncio.sleep(2.0)
            async with super().listen(key) as event:
                yield event

    async def main() -> None:
        store = DictStore()
        async with cluster(2, store, Late(store.entries)) as two:
            await asyncio.gather(*(node.send() for node in two))
            assert two.encodes == 1
            assert now() == pytest.approx(2.0, abs=0.05)

    virtually(main)


def test_another_key_is_another_lease() -> None:
    async def main() -> None:
        async with cluster(2) as (one, other):
            assert list(await asyncio.gather(one.send(), other.send(image_bytes(2)))) == [Outcome.MISS] * 2
            assert now() < 1.1

    virtually(main)


def test_a_kind_that_is_not_worth_a_lease_takes_none() -> None:
    async def main() -> None:
        async with cluster(2, kinds=frozenset({Kind.EMBEDDING})) as two:
            await two.nodes[0].send()
            await two.nodes[0].predictor.store.drain()
            taken = two.leases.calls["take"]
            await asyncio.gather(*(mask(node.predictor, ID) for node in two))
            assert two.decodes == 2
            assert two.leases.calls["take"] == taken + 1, "the embedding that the other one looked up"

    virtually(main)


def test_the_file_is_kept_by_all_who_sent_it_where_the_last_tier_is_each_ones_own() -> None:
    async def main() -> None:
        own: list[DictStore] = []

        def make() -> DictStore:
            own.append(DictStore(name="own"))
            return own[-1]

        async with cluster(3, own=make) as three:
            await asyncio.gather(*(node.send() for node in three))
            await asyncio.sleep(0.1)
        assert [keys_of(FILE).image in store.entries for store in own] == [True] * 3

    virtually(main)


@pytest.mark.parametrize(("patience_s", "computed"), [(None, (4, 4)), (1.0, (1, 4))])
def test_a_tier_slower_than_its_deadline_is_waited_for_where_computing_takes_longer(
    patience_s: float | None, computed: tuple[int, int]
) -> None:
    async def main() -> None:
        store = SlowStore(0.3)
        leases = DictLeases(store.entries)
        leases.delay_s = 0.3
        async with cluster(4, store, leases, deadline_s=0.1, patience_s=patience_s) as four:
            await asyncio.gather(*(node.send() for node in four for _ in range(10)))
            await asyncio.gather(*(mask(node.predictor, ID) for node in four))
            assert (four.encodes, four.decodes) == computed, "a mask is computed meanwhile"

    virtually(main)


# --- a hit, and a tier that does not answer ------------------------------------------------------------------------


def test_a_hit_never_waits_for_a_lease_nor_leaves_one_behind() -> None:
    async def main() -> None:
        store = SlowStore(0.001)
        async with cluster(1, store) as (before,):
            await before.send()
            await before.predictor.store.drain()
        leases = DictLeases()  # knows of no value, and is slower than the look-up
        leases.delay_s = 0.05
        async with cluster(1, store, leases) as (node,):
            started = now()
            assert await node.send() is Outcome.HIT
            assert now() - started == pytest.approx(0.001)
            await asyncio.sleep(0.2)
            assert leases.held == {}
            assert leases.calls["release"] == 1

    virtually(main)


def test_in_memory_nobody_asks_for_a_lease() -> None:
    async def main() -> None:
        async with cluster(1) as one:
            [node] = one
            await node.send()
            await asyncio.sleep(1.0)
            before = one.leases.calls.copy()
            assert await node.send() is Outcome.HIT
            assert one.leases.calls == before

    virtually(main)


@pytest.mark.parametrize("state", ["down", "hung", "slow"])
def test_leases_that_do_not_answer_cost_one_deadline_and_then_nothing(state: str) -> None:
    async def main() -> None:
        store = HangingStore(only=["get"])
        leases = DictLeases()
        leases.error = StoreFailed("down") if state == "down" else None
        leases.delay_s = {"down": 0.0, "hung": 1e6, "slow": 0.3}[state]
        async with cluster(1, store, leases, deadline_s=0.1, encode_s=0.01) as (node,):
            for number in range(4):
                started = now()
                assert await node.send(image_bytes(number)) is Outcome.MISS
                most = 0.115 if number == 0 and state != "down" else 0.016
                assert now() - started < most, number
            store.release.set()
            leases.error, leases.delay_s = None, 0.0
            await asyncio.sleep(6.0)  # the breaker's time
            for number in range(4, 7):
                await node.send(image_bytes(number))
            assert leases.calls["release"] >= 1, "they are asked for again"

    virtually(main)


def test_a_lease_that_is_granted_late_is_held_until_the_computation_ends() -> None:
    async def main() -> None:
        store = DictStore()
        leases = DictLeases(store.entries)
        async with cluster(2, store, leases, lease_s=0.3) as two:
            one, other = two
            leases.delay_s = 0.2  # and the deadline is 0.1
            sending = asyncio.create_task(one.send())
            await asyncio.sleep(0.15)
            leases.delay_s = 0.0
            await asyncio.sleep(0.5)
            assert await other.send() is Outcome.JOINED
            assert await sending is Outcome.MISS
            await asyncio.sleep(0.01)
            assert leases.held == {}
            assert two.encodes == 1

    virtually(main)


def test_redis_that_goes_while_one_waits_lets_the_waiter_compute() -> None:
    async def main() -> None:
        async with cluster(2, encode_s=5.0) as two:
            one, other = two
            first, second = spawn(one.send(), other.send())
            await asyncio.sleep(1.0)
            two.leases.error = StoreFailed("gone")
            assert list(await asyncio.gather(first, second)) == [Outcome.MISS] * 2
            assert now() < 6.6

    virtually(main)


def test_a_value_that_is_said_to_be_kept_and_cannot_be_read_is_computed() -> None:
    async def main() -> None:
        store = DictStore()
        async with cluster(1, store, DictLeases({KEY: None})) as (node,):
            assert await node.send() is Outcome.MISS
            assert now() < 1.1

    virtually(main)


def test_a_damaged_value_is_thrown_away_and_computed_once() -> None:
    async def main() -> None:
        store = DictStore()
        async with cluster(1, store) as (before,):
            await before.send()
            await before.predictor.store.drain()
        store.entries[KEY] = damage(store.entries[KEY])
        async with cluster(3, store) as three:
            outcomes = await asyncio.gather(*(node.send() for node in three))
            assert three.encodes == 1
            assert outcomes.count(Outcome.RECOMPUTED) + outcomes.count(Outcome.MISS) == 1

    virtually(main)


# --- the end of a holder --------------------------------------------------------------------------------------------


def test_a_holder_that_fails_fails_alone_and_the_next_one_tries_at_once() -> None:
    async def main() -> None:
        async with cluster(3) as (one, other, third):
            one.backend.error = BackendFailed("broken")
            first = asyncio.create_task(one.send())
            await one.backend.begun.wait()
            rest = spawn(other.send(), third.send())
            with pytest.raises(BackendFailed, match="broken"):
                await first
            assert Counter(await asyncio.gather(*rest)) == {Outcome.MISS: 1, Outcome.JOINED: 1}
            assert now() == pytest.approx(2.0, abs=0.05)
            assert counted(one.predictor, Kind.EMBEDDING).failed == 1

    virtually(main)


def test_where_all_fail_each_says_so() -> None:
    async def main() -> None:
        async with cluster(3) as three:
            for node in three:
                node.backend.error = BackendFailed("broken")
            ends = await asyncio.gather(*(node.send() for node in three), return_exceptions=True)
            assert [type(end) for end in ends] == [BackendFailed] * 3
            await asyncio.sleep(0.1)
            assert three.leases.held == {}

    virtually(main)


def test_a_holder_whose_queue_is_full_is_turned_away_and_the_others_go_on() -> None:
    async def main() -> None:
        async with cluster(2, slots=1, queue=0, encode_s=3.0) as (one, other):
            busy = asyncio.create_task(one.send(image_bytes(7)))
            await one.backend.begun.wait()
            full, waiting = spawn(one.send(), other.send())
            with pytest.raises(Overloaded):
                await full
            assert await waiting is Outcome.MISS
            assert now() < 3.1
            await busy

    virtually(main)


def test_the_last_asker_leaving_the_queue_lets_the_others_go_on_at_once() -> None:
    async def main() -> None:
        async with cluster(2, slots=1, encode_s=10.0) as two:
            one, other = two
            busy = asyncio.create_task(one.send(image_bytes(7)))
            await one.backend.begun.wait()
            asks = spawn(one.send(), one.send())
            await asyncio.sleep(1.0)
            waiting = asyncio.create_task(other.send())
            await asyncio.sleep(1.0)
            await leave(asks[0])
            await asyncio.sleep(1.0)
            assert other.backend.encodes == 0
            await leave(asks[1])
            started = now()
            await other.backend.begun.wait()
            assert now() - started < 0.001
            assert await waiting is Outcome.MISS
            await busy
            await asyncio.sleep(0.1)
            assert two.leases.held == {}

    virtually(main)


def test_what_the_holder_has_begun_is_finished_for_the_others_though_its_own_askers_left() -> None:
    async def main() -> None:
        async with cluster(2, encode_s=100.0) as two:
            one, other = two
            [ask] = spawn(one.send())
            await one.backend.begun.wait()
            waiting = asyncio.create_task(other.send())
            await asyncio.sleep(1.0)
            await leave(ask)
            assert await waiting is Outcome.JOINED
            await asyncio.sleep(1.0)
            assert two.leases.held == {}
            assert (one.backend.encodes, other.backend.encodes) == (1, 0)

    virtually(main)


def test_a_server_that_stops_releases_what_it_holds() -> None:
    async def main() -> None:
        async with cluster(2) as two:
            one, other = two
            sending = asyncio.create_task(one.send())
            await one.backend.begun.wait()
            await one.predictor.aclose()
            with pytest.raises(BackendFailed):
                await sending
            assert two.leases.held == {}
            assert await other.send() is Outcome.MISS

    virtually(main)


class Line:
    """One process's line to the leases; when it is cut, the process is dead to the others."""

    def __init__(self, leases: DictLeases) -> None:
        self.leases = leases
        self.cut = asyncio.Event()

    async def take(self, key: str, token: str, seconds: float, priority: Priority = Priority.INTERACTIVE) -> Claim:
        return await self._through(lambda: self.leases.take(key, token, seconds, priority))

    async def awaited_as(self, key: str) -> Priority | None:
        return await self._through(lambda: self.leases.awaited_as(key))

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        return await self._through(lambda: self.leases.renew(key, token, seconds))

    async def release(self, key: str, token: str) -> bool:
        return await self._through(lambda: self.leases.release(key, token))

    def listen(self, key: str) -> AbstractAsyncContextManager[asyncio.Event]:
        return self.leases.listen(key)

    async def aclose(self) -> None:
        await self.leases.aclose()

    async def _through(self, call: Callable[[], Awaitable[T]]) -> T:
        if self.cut.is_set():
            await asyncio.sleep(1e6)
        return await call()


def test_a_holder_that_dies_is_succeeded_when_its_lease_ends() -> None:
    async def main() -> None:
        async with cluster(4, lease_s=1.5, encode_s=10.0) as all_of_them:
            one, *others = all_of_them
            line = Line(all_of_them.leases)
            one.predictor.once.shared = SharedFlights(line, one.predictor.store.lower[0], lease_s=1.5)
            dying = asyncio.create_task(one.send())
            await asyncio.sleep(5.0)
            rest = spawn(*(node.send() for node in others))
            await asyncio.sleep(0.1)
            line.cut.set()
            assert Counter(await asyncio.gather(*rest)) == {Outcome.MISS: 1, Outcome.JOINED: 2}
            assert now() < 5.1 + 1.5 + 0.5 + 10.0
            await leave(dying)

    virtually(main)


# --- in which order -------------------------------------------------------------------------------------------------


def test_the_value_can_be_read_before_the_lease_ends_however_slow_and_long_the_queue_of_writes_is() -> None:
    async def main() -> None:
        store = SlowStore(lambda: 0.0)
        async with cluster(2, store) as (one, other):
            first = asyncio.create_task(one.send())
            await asyncio.sleep(0.5)
            second = asyncio.create_task(other.send())
            await asyncio.sleep(0.4)
            store.seconds = 0.5
            for number in range(20):  # ten seconds of writing
                key = keys_of(image_bytes(50 + number)).embedding(TOY)
                one.predictor.store.put(key, sealed(key))
            assert await first is Outcome.MISS
            assert now() == pytest.approx(1.0, abs=0.05), "nobody waits for a write"
            store.seconds = 0.05
            assert await second is Outcome.JOINED
            assert now() < 2.2
            assert other.backend.encodes == 0

    virtually(main)


def test_a_tier_that_takes_nothing_holds_nobody_up_for_longer_than_a_lease() -> None:
    async def main() -> None:
        store = HangingStore(only=["put"])
        async with cluster(2, store, lease_s=2.0) as two:
            assert sorted(await asyncio.gather(*(node.send() for node in two))) == [Outcome.MISS] * 2
            assert now() < 1.0 + 2.0 + 1.0 + 0.1
            store.release.set()

    virtually(main)


def test_who_waits_for_another_process_holds_no_place_in_the_queue() -> None:
    async def main() -> None:
        async with cluster(2, slots=1) as (one, other):
            first = asyncio.create_task(one.send())
            await one.backend.begun.wait()
            waiting, working = spawn(other.send(), other.send(image_bytes(2)))
            await asyncio.sleep(0.1)
            assert other.predictor.encode_queue.running == 1
            assert other.predictor.encode_queue.waiting == 0
            assert (await first, await waiting, await working) == (Outcome.MISS, Outcome.JOINED, Outcome.MISS)

    virtually(main)


def test_a_holder_that_queues_renews_its_lease() -> None:
    async def main() -> None:
        async with cluster(2, slots=1, encode_s=10.0, lease_s=1.5) as two:
            one, other = two
            busy = asyncio.create_task(one.send(image_bytes(2)))
            await one.backend.begun.wait()
            outcomes = await asyncio.gather(one.send(), other.send())
            assert sorted(outcomes) == [Outcome.JOINED, Outcome.MISS]
            assert two.encodes == 2
            await busy

    virtually(main)


def test_nobody_waits_for_ever() -> None:
    async def main() -> None:
        async with cluster(2, encode_s=500.0, most_wait_s=30.0) as (one, other):
            stuck = asyncio.create_task(one.send())
            await one.backend.begun.wait()
            other.backend.encode_s = 1.0
            started = now()
            assert await other.send() is Outcome.MISS
            assert now() - started < 32.0
            await leave(stuck)

    virtually(main)


def test_after_a_purge_nobody_waits_for_what_will_not_be_kept() -> None:
    async def main() -> None:
        async with cluster(2, encode_s=10.0) as two:
            one, other = two
            first = asyncio.create_task(one.send())
            await asyncio.sleep(1.0)
            await one.predictor.purge(TENANT, image_id=ID)
            assert list(await asyncio.gather(other.send(), one.send())) == [Outcome.MISS, Outcome.JOINED]
            assert now() == pytest.approx(11.0, abs=0.05)
            assert await first is Outcome.MISS

    virtually(main)


# --- whatever happens -------------------------------------------------------------------------------------------------


@dataclass
class World:
    """Processes of nothing but leases, on which accidents fall."""

    count: int
    store: DictStore = field(default_factory=DictStore)
    computing: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    computed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.leases = DictLeases(self.store.entries)
        clock = asyncio.get_running_loop().time
        self.tiers = [
            Tier(self.store, deadline_s=0.1, breaker=Breaker(5, 5.0, clock), clock=clock) for _ in range(self.count)
        ]
        self.lines = [Line(self.leases) for _ in range(self.count)]
        self.flights = [
            SharedFlights(line, tier, lease_s=1.5) for line, tier in zip(self.lines, self.tiers, strict=True)
        ]

    async def ask(self, process: int, key: str, seconds: float, *, fails: bool) -> str:
        tier, gate = self.tiers[process], StartGate(0.0)
        gate.open()

        async def predict() -> str:
            self.computing[key] += 1
            self.most[key] = max(self.most[key], self.computing[key])
            try:
                await asyncio.sleep(seconds)
            finally:
                self.computing[key] -= 1
            if fails:
                raise BackendFailed("no")
            self.computed[key] += 1
            tier.queue.write(key, sealed(key))
            return key

        async def look_up(_: Outcome, deadline_s: float | None) -> str | None:
            del deadline_s
            entry = await tier.look_up(key, lambda _: None)
            return None if entry is None else key

        return await self.flights[process].fly(Kind.MASK, key, predict, look_up, gate.missed)


accidents = st.lists(
    st.tuples(
        st.floats(0.0, 6.0),
        st.sampled_from(["crash", "leave", "evict", "expire", "deaf", "purge"]),
        st.integers(0, 3),
        st.integers(0, 1),
    ),
    max_size=8,
)
asks = st.lists(
    st.tuples(st.floats(0.0, 4.0), st.integers(0, 3), st.integers(0, 1), st.floats(0.01, 5.0), st.booleans()),
    min_size=1,
    max_size=12,
)


@patient
@given(asks, accidents)
def test_whatever_happens_nobody_computes_beside_a_live_holder_and_everybody_ends(
    asked: list[tuple[float, int, int, float, bool]], happening: list[tuple[float, str, int, int]]
) -> None:
    names = [keys_of(image_bytes(number)).embedding(TOY) for number in range(2)]

    async def main() -> None:
        world = World(4)
        tasks: dict[asyncio.Task[str], int] = {}
        lost = False  # whether a lease was taken away from a holder that lives

        async def at(seconds: float, process: int, key: str, takes: float, fails: bool) -> str:
            await asyncio.sleep(seconds)
            if world.lines[process].cut.is_set():
                return key  # nobody is there to ask
            return await world.ask(process, key, takes, fails=fails)

        async def strike(seconds: float, what: str, process: int, key: str) -> None:
            nonlocal lost
            await asyncio.sleep(seconds)
            mine = [task for task, owner in tasks.items() if owner == process and not task.done()]
            if what == "crash":
                world.lines[process].cut.set()
                for task in mine:
                    task.cancel()
            elif what == "leave" and mine:
                mine[0].cancel()
            elif what in ("evict", "expire"):
                lost |= world.leases.held.pop(key, None) is not None
            elif what == "purge":
                world.store.entries.pop(key, None)
            elif what == "deaf":
                world.leases.deaf = True

        for seconds, process, which, takes, fails in asked:
            tasks[asyncio.create_task(at(seconds, process, names[which], takes, fails))] = process
        strikes = spawn(*(strike(seconds, what, process, names[which]) for seconds, what, process, which in happening))
        # At worst all that compute do so one after the other, and each is found out to be dead a lease later.
        done, pending = await asyncio.wait(tasks, timeout=4.0 + sum(takes + 1.5 + 0.6 for *_, takes, _ in asked))
        assert not pending
        await asyncio.gather(*strikes)
        for task in done:
            assert task.cancelled() or task.exception() is None or isinstance(task.exception(), LabelingGroundError)
            assert task.cancelled() or task.exception() or task.result() in names
        if not lost:
            assert all(most <= 1 for most in world.most.values())
        if not lost and "purge" not in {what for _, what, *_ in happening}:
            assert all(computed <= 1 for computed in world.computed.values())
        await asyncio.sleep(3.0)
        assert all(world.leases.holder(name) is None for name in names)
        for flights in world.flights:
            await flights.aclose()
        for tier in world.tiers:
            await tier.aclose()

    virtually(main)
