"""Several models in one server: loaded at the first ask, pinned while in use, unloaded when memory is short."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.doubles import LONG_S, TENANT, ToyBackend, image_bytes, mask, send, serving

from labeling_ground.errors import BackendFailed, BadInput, ModelTooLarge, Overloaded, UnknownModel
from labeling_ground.pools import Pools
from labeling_ground.service.everything import Everything
from labeling_ground.service.model_pool import LoadedModel, ModelFacts, ModelPool
from labeling_ground.service.predictor import Predictor, PredictorOptions
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import ModelVersion, Outcome

pytestmark = pytest.mark.anyio


class Loader:
    """Makes toy models of 10 bytes, and notes what it is asked for."""

    def __init__(self, sibling: Predictor) -> None:
        self.sibling = sibling
        self.loads: list[str] = []
        self.closed: list[str] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.error: Exception | None = None

    def served(self, facts: ModelFacts, predictor: Predictor) -> LoadedModel:
        return LoadedModel(predictor, Everything(predictor, jobs=FairQueue("grids", 1, 8), workers=1), facts)

    async def load(self, facts: ModelFacts) -> LoadedModel:
        self.loads.append(facts.name)
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        backend = ToyBackend(ModelVersion(facts.model or "made", facts.name[0] * 64))

        async def closed() -> None:
            self.closed.append(facts.name)

        backend.aclose = closed  # type: ignore[method-assign]
        predictor = Predictor(
            store=self.sibling.store,
            backend=backend,
            encode_queue=FairQueue("encoder", 1, 9),
            decode_queue=FairQueue("decoder", 1, 9),
            pools=self.sibling.pools,
            supervisor=self.sibling.supervisor,
            sibling=self.sibling,
        )
        return self.served(facts, predictor)


@asynccontextmanager
async def pool_of(
    *others: str, budget_bytes: int = 0, patience_s: float = 0.0
) -> AsyncIterator[tuple[ModelPool, Loader]]:
    """A pool whose default is the toy; each model takes 10 bytes. Its clock counts the calls."""
    async with serving(ToyBackend()) as first:
        loader = Loader(first)
        ticks = iter(range(1_000_000))
        pool = ModelPool(
            loader.served(ModelFacts("toy", "toy", memory_bytes=10), first),
            [ModelFacts(name, name, memory_bytes=10) for name in others],
            loader.load,
            budget_bytes=budget_bytes,
            patience_s=patience_s,
            clock=lambda: float(next(ticks)),
        )
        yield pool, loader
        await pool.aclose()


async def used(pool: ModelPool, model: str) -> None:
    pool.leave(await pool.acquire(model))


async def test_a_model_is_loaded_at_the_first_ask_and_once_for_all_who_ask_meanwhile() -> None:
    async with pool_of("one", "two") as (pool, loader):
        assert [status.served is not None for status in pool.statuses()] == [True, False, False]
        assert pool.at_hand("one") is None
        loader.may_go_on.clear()
        asks = [asyncio.create_task(pool.acquire("one")) for _ in range(50)]
        await asyncio.sleep(0)
        asks[0].cancel()  # who leaves first calls it off for nobody
        loader.may_go_on.set()
        found = await asyncio.gather(*asks[1:])
        assert loader.loads == ["one"]
        assert len({id(served) for served in found}) == 1
        assert found[0].users == 49
        assert pool.at_hand("one") is found[0]


async def test_the_default_one_is_what_no_name_means_and_an_unknown_one_is_told_what_is_served() -> None:
    async with pool_of("one") as (pool, _):
        assert pool.at_hand(None) is pool.default
        assert pool.at_hand("") is pool.default
        for ask in (pool.at_hand, pool.name_of):
            with pytest.raises(UnknownModel, match=r"'sam-9' is not served here. Served: toy, one\."):
                ask("sam-9")


async def test_over_the_budget_the_one_unused_for_longest_goes_and_never_the_default() -> None:
    async with pool_of("one", "two", "three", budget_bytes=30) as (pool, loader):
        await used(pool, "one")
        await used(pool, "two")
        await used(pool, "one")
        await used(pool, "three")
        assert list(pool.loaded) == ["toy", "one", "three"]
        assert loader.closed == ["two"]
        await used(pool, "two")  # and it comes back
        assert list(pool.loaded) == ["toy", "three", "two"]


async def test_a_model_in_use_is_not_unloaded_and_a_load_waits_until_it_is_free() -> None:
    async with pool_of("one", "two", budget_bytes=20, patience_s=1e9) as (pool, loader):
        one = await pool.acquire("one")
        waiting = asyncio.create_task(pool.acquire("two"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert (list(pool.loaded), loader.closed) == (["toy", "one"], [])
        with pytest.raises(Overloaded, match="in use"):
            await pool.unload("one")
        pool.leave(one)
        pool.leave(await waiting)
        assert (list(pool.loaded), loader.closed) == (["toy", "two"], ["one"])


async def test_without_patience_a_load_beside_models_in_use_is_turned_away() -> None:
    async with pool_of("one", "two", budget_bytes=20) as (pool, loader):
        await pool.acquire("one")
        with pytest.raises(Overloaded, match="while other models are in use"):
            await pool.acquire("two")
        assert loader.loads == ["one"]


async def test_work_behind_an_answer_keeps_a_model_loaded() -> None:
    async with pool_of("one") as (pool, _):
        one = await pool.acquire("one")
        backend = one.predictor.backend
        assert isinstance(backend, ToyBackend)
        backend.hold = asyncio.Event()
        file = image_bytes(3)
        await one.predictor.prefetch(TENANT, file, "0" * 64)
        pool.leave(one)
        assert one.users == 0
        with pytest.raises(Overloaded, match="in use"):
            await pool.unload("one")
        backend.hold.set()


async def test_a_model_for_which_there_can_be_no_room_is_refused_with_the_setting() -> None:
    async with pool_of("one", budget_bytes=15) as (pool, loader):
        with pytest.raises(ModelTooLarge, match="models_bytes leaves 5 beside the default model"):
            await pool.acquire("one")
        assert loader.loads == []


async def test_the_default_stays_and_what_is_unloaded_by_hand_is_loaded_again_when_asked_for() -> None:
    async with pool_of("one") as (pool, loader):
        with pytest.raises(BadInput, match="stays loaded"):
            await pool.unload("toy")
        await used(pool, "one")
        assert await pool.unload("one")
        assert not await pool.unload("one")
        await used(pool, "one")
        assert loader.loads == ["one", "one"]


@pytest.mark.parametrize("error", [BackendFailed("no files"), ValueError("no files")])
async def test_a_load_that_fails_says_why_and_the_next_ask_tries_again(error: Exception) -> None:
    async with pool_of("one") as (pool, loader):
        loader.error = error
        with pytest.raises(BackendFailed, match="one cannot be loaded: no files"):
            await pool.acquire("one")
        loader.error = None
        await used(pool, "one")
        assert "one" in pool.loaded


async def test_a_load_that_hangs_keeps_no_other_out_and_its_model_is_there_when_it_ends() -> None:
    async with pool_of("one", "two", budget_bytes=30) as (pool, loader):
        load, may_end = loader.load, asyncio.Event()

        async def hanging(facts: ModelFacts) -> LoadedModel:
            if facts.name == "one":
                await may_end.wait()
            return await load(facts)

        pool.load_one, pool.load_s = hanging, 0.01
        for _ in range(2):  # the second joins the first
            with pytest.raises(BackendFailed, match=r"one has not been loaded within 0.01 s. That is not stopped"):
                await pool.acquire("one")
        async with asyncio.timeout(LONG_S):
            pool.load_s = LONG_S
            await used(pool, "two")
            await pool.shrink()
            assert list(pool.loaded) == ["toy", "two"]
            may_end.set()
            await used(pool, "one")
        assert loader.loads == ["two", "one"]


async def test_a_server_that_stops_waits_for_no_load() -> None:
    async with pool_of("one", "two") as (pool, loader):
        await used(pool, "two")
        loader.may_go_on.clear()
        asking = asyncio.create_task(pool.acquire("one"))
        await asyncio.sleep(0)
        async with asyncio.timeout(LONG_S):
            await pool.aclose()
            assert await asyncio.wait({asking}) == ({asking}, set())
        assert list(pool.loaded) == ["toy"]


async def test_what_another_process_knows_of_a_model_is_known_here_unless_it_is_loaded() -> None:
    async with pool_of() as (_, loader):
        told: list[ModelFacts] = []

        async def tell(facts: ModelFacts) -> None:
            told.append(facts)

        pool = ModelPool(
            loader.served(ModelFacts("toy", "toy"), loader.sibling), [ModelFacts("a:b")], loader.load, on_load=tell
        )
        pool.learn(ModelFacts("c:d", "no-model-here"))
        pool.learn(ModelFacts("a:b", "net", memory_bytes=7))
        assert (pool.name_of("net"), pool.status("a:b").facts.memory_bytes) == ("a:b", 7)
        assert not told
        await used(pool, "net")
        assert [facts.name for facts in told] == ["a:b"]
        pool.learn(ModelFacts("a:b", "older"))
        assert pool.name_of("net") == "a:b"
        await pool.aclose()


async def test_two_names_for_one_model_id_are_refused() -> None:
    async with pool_of() as (_, loader):
        pool = ModelPool(
            loader.served(ModelFacts("toy", "toy"), loader.sibling), [ModelFacts("a:b"), ModelFacts("c:d")], loader.load
        )
        await used(pool, "a:b")
        assert pool.name_of("made") == "a:b", "once it is loaded, it goes by its model id too"
        with pytest.raises(BackendFailed, match="second model called made"):
            await pool.acquire("c:d")
        await pool.aclose()


async def test_models_over_one_cache_have_their_own_entries_and_share_the_image_and_its_purge() -> None:
    async with pool_of("one") as (pool, _):
        toy, one = pool.default.predictor, (await pool.acquire("one")).predictor
        image_id = await send(toy, image_bytes(1))
        first = await mask(toy, image_id)
        second = await mask(one, image_id)  # the image was sent once: its file is there for every model
        assert (first.outcome, second.outcome) == (Outcome.MISS, Outcome.RECOMPUTED)
        assert (first.version.model, second.version.model) == ("toy", "one")
        assert (await mask(one, image_id)).outcome is Outcome.HIT
        await toy.purge(TENANT, model="one")
        assert (await mask(toy, image_id)).outcome is Outcome.HIT
        assert (await mask(one, image_id)).outcome is not Outcome.HIT


async def test_an_image_that_a_client_leaves_under_one_model_is_done_though_it_goes_on_under_another() -> None:
    async with pool_of("one") as (pool, _):
        toy, one = pool.default.predictor, (await pool.acquire("one")).predictor
        marked: list[tuple[str, bool]] = []
        toy.presence._mark = lambda group, done: marked.append((group, done))
        first, second = image_bytes(1), image_bytes(2)
        await toy.open_image(TENANT, first, "1" * 64, client="ann")
        await one.open_image(TENANT, second, "2" * 64, client="ann")
        assert [done for group, done in marked if "1" * 64 in group] == [False, True]


async def test_what_a_model_counted_stays_when_it_is_unloaded() -> None:
    async with pool_of("one") as (pool, _):
        one = await pool.acquire("one")
        await send(one.predictor, image_bytes(1))
        pool.leave(one)
        while one.is_in_use:  # noqa: ASYNC110 -- what is done behind the answer tells nobody
            await asyncio.sleep(0)
        await pool.unload("one")
        figures = pool.default.predictor.supervisor.metrics.figures
        assert figures().sum("lookups", model="one", kind="embedding", outcome="miss") == 1
        await send((await pool.acquire("one")).predictor, image_bytes(2))
        assert figures().sum("lookups", model="one", kind="embedding", outcome="miss") == 2


async def test_an_unloaded_model_hears_of_no_purge_and_leaves_the_tiers_open() -> None:
    async with pool_of("one") as (pool, _):
        listeners: list[Callable[..., None]] = pool.default.predictor.store.purges.on_purge
        before = len(listeners)
        await used(pool, "one")
        assert len(listeners) == before + 1
        await pool.unload("one")
        assert len(listeners) == before
        image_id = await send(pool.default.predictor, image_bytes(1))
        assert (await mask(pool.default.predictor, image_id)).outcome is Outcome.MISS


async def test_prefetches_of_all_models_share_one_bound() -> None:
    async with serving(ToyBackend(), most_bytes_ahead=1) as first:
        backend = first.backend
        assert isinstance(backend, ToyBackend)
        backend.hold = asyncio.Event()
        other = Predictor(
            store=first.store,
            backend=ToyBackend(ModelVersion("other", "a" * 64)),
            encode_queue=FairQueue("encoder", 1, 9),
            decode_queue=FairQueue("decoder", 1, 9),
            pools=Pools.sized(),
            options=PredictorOptions(most_bytes_ahead=1),
            sibling=first,
        )
        await first.prefetch(TENANT, image_bytes(1), "1" * 64)
        with pytest.raises(Overloaded, match="wait to be encoded hold"):
            await other.prefetch(TENANT, image_bytes(2), "2" * 64)
        backend.hold.set()
        await other.unload()
