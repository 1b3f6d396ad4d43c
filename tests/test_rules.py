"""The ten rules that make the cache trustworthy (docs: the design's «Rules»), on a real memory and a real disk tier."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.doubles import (
    A_BOX,
    TENANT,
    TOY,
    Clock,
    ToyBackend,
    click,
    counted,
    damage,
    dice,
    errors_of,
    forget,
    image_bytes,
    keys_of,
    mask,
    memory_store,
    send,
    serving,
    until,
)

from labeling_ground import key as keys
from labeling_ground.cache.choose import choose
from labeling_ground.cache.disk import DiskStore
from labeling_ground.errors import BackendFailed, StoreFailed, UnknownImage
from labeling_ground.service.asks import MaskAnswer, PromptAsk
from labeling_ground.service.predictor import Predictor
from labeling_ground.types import Entry, Kind, ModelVersion, Outcome, Point, StoreStats

pytestmark = pytest.mark.anyio

FILE = image_bytes(1)
ID = keys.image_id(FILE)
CLICK = keys.prompt_digest(keys.canonical([Point(20, 15, 1)]))
PATIENCE_S = 60.0
"""Deadline of look-ups here: what is tested is not how fast this machine is today."""


@pytest.fixture
def disk(tmp_path: Path) -> Callable[..., DiskStore]:
    def make(kind: type[DiskStore] = DiskStore, **options: Any) -> DiskStore:
        given: dict[str, Any] = {"budget_bytes": 64 << 20, "idle_s": 1800.0, "max_age_s": None}
        return kind(tmp_path / "cache", ranking=choose("gds").ranking, **(given | options))

    return make


Disk = Callable[..., DiskStore]


def server(backend: ToyBackend, *lower: DiskStore, **options: Any) -> AbstractAsyncContextManager[Predictor]:
    return serving(backend, *lower, **({"deadline_s": PATIENCE_S} | options))


async def stats_of(predictor: Predictor) -> list[StoreStats]:
    return await predictor.store.stats(deadline_s=PATIENCE_S)


async def held(disk: DiskStore) -> dict[str, Entry]:
    """What the disk has of the one image and the one click that these tests are about."""
    image = keys_of(FILE)
    every = [image.image, image.embedding(TOY), image.mask(TOY, CLICK), image.logits(TOY, CLICK)]
    found = {key: await disk.get(key) for key in every}
    return {key: entry for key, entry in found.items() if entry is not None}


# --- 1 -----------------------------------------------------------------------------------------------------------


async def test_rule_1_keys_are_pure_whoever_asks_under_whatever_name(disk: Disk) -> None:
    """Image id, model version and canonical prompt: nothing else is in a key."""
    backend, lower = ToyBackend(), disk()
    async with server(backend, lower) as predictor:
        await predictor.open_image(TENANT, FILE, ID, client="ann")
        await predictor.masks(TENANT, ID, [PromptAsk([Point(20, 15, 1), Point(3, 3, 0)])], client="ann")
        answer = await predictor.open_image(TENANT, FILE, ID, client="bob")
        [other] = await predictor.masks(TENANT, ID, [PromptAsk([Point(3, 3, 0), Point(20.001, 15, 1)])], client=None)
        assert (answer.outcome, other.outcome) == (Outcome.HIT, Outcome.HIT)
        await mask(predictor, ID)
        await predictor.store.drain()
        image = keys_of(FILE)
        assert set(await held(lower)) == {image.image, image.embedding(TOY), image.mask(TOY, CLICK)}
        assert (await lower.stats()).entries == 4
    assert (backend.encodes, backend.decodes) == (1, 2)


# --- 2 -----------------------------------------------------------------------------------------------------------


async def test_rule_2_values_never_change_after_they_are_written(disk: Disk) -> None:
    lower = disk()
    async with server(ToyBackend(), lower) as predictor:
        await send(predictor, FILE)
        await mask(predictor, ID)
        await predictor.store.drain()
        before = await held(lower)
        for kind in (Kind.MASK, Kind.EMBEDDING):
            await forget(predictor, kind)
        for _ in range(3):
            await send(predictor, FILE)
            await mask(predictor, ID)
            await mask(predictor, ID, A_BOX)
        await predictor.store.drain()
        assert await held(lower) == before
        for entry in before.values():
            assert not np.frombuffer(entry.value, np.uint8).flags.writeable


# --- 3 -----------------------------------------------------------------------------------------------------------


async def test_rule_3_a_failure_is_never_stored_nor_half_a_result(disk: Disk) -> None:
    backend = ToyBackend()
    backend.error = BackendFailed("no")
    async with server(backend, disk()) as predictor:
        with pytest.raises(BackendFailed):
            await send(predictor, FILE)
    backend.error = None
    lower = disk()
    async with server(backend, lower) as predictor:
        assert {entry.kind for entry in (await held(lower)).values()} == {Kind.IMAGE}
        await send(predictor, FILE)
        backend.error = BackendFailed("no")
        with pytest.raises(BackendFailed):
            await mask(predictor, ID)
        await predictor.store.drain()
        assert {entry.kind for entry in (await held(lower)).values()} == {Kind.IMAGE, Kind.EMBEDDING}
        backend.error = None
        assert (await mask(predictor, ID)).outcome is Outcome.MISS


async def test_rule_3_what_was_called_off_by_the_end_of_the_server_is_not_stored(disk: Disk) -> None:
    backend, lower = ToyBackend(), disk()
    backend.hold = asyncio.Event()
    async with server(backend, lower) as predictor:
        sending = asyncio.create_task(send(predictor, FILE))
        await backend.begun.wait()
    with pytest.raises(BackendFailed):
        await sending
    assert backend.called_off == 1
    again = disk()
    assert {entry.kind for entry in (await held(again)).values()} <= {Kind.IMAGE}
    await again.aclose()


# --- 4 -----------------------------------------------------------------------------------------------------------


async def test_rule_4_fifty_concurrent_askers_are_one_computation(disk: Disk) -> None:
    backend = ToyBackend()
    async with server(backend, disk()) as predictor:
        await send(predictor, FILE)
        backend.hold = asyncio.Event()
        asks = [asyncio.create_task(mask(predictor, ID)) for _ in range(50)]
        await until(lambda: backend.decodes == 1)
        backend.hold.set()
        answers = await asyncio.gather(*asks)
    assert Counter(answer.outcome for answer in answers) == {Outcome.MISS: 1, Outcome.JOINED: 49}
    assert len({answer.prediction.png for answer in answers}) == 1
    assert backend.decodes == 1


async def test_rule_4_the_first_asker_leaving_does_not_cancel_the_others_and_the_last_one_does(disk: Disk) -> None:
    """What waits is cancelled; what the engine has begun cannot be stopped, has its place until then, and is kept."""
    backend = ToyBackend()
    async with server(backend, disk()) as predictor:
        await send(predictor, FILE)
        backend.hold = asyncio.Event()
        asks = [asyncio.create_task(mask(predictor, ID)) for _ in range(3)]
        await until(lambda: backend.decodes == 1)
        asks[0].cancel()
        await asyncio.wait({asks[0]})
        assert backend.called_off == 0
        backend.hold.set()
        assert [answer.outcome for answer in await asyncio.gather(*asks[1:])] == [Outcome.JOINED] * 2

        backend.hold = asyncio.Event()
        begun = [A_BOX, PromptAsk([Point(1, 1, 1)])]
        asks = [asyncio.create_task(mask(predictor, ID, ask)) for _ in range(3) for ask in begun]
        await until(lambda: backend.decodes == 3)
        waiting = [asyncio.create_task(mask(predictor, ID, PromptAsk([Point(9, 9, 1)]))) for _ in range(3)]
        await until(lambda: predictor.decode_queue.waiting == 1)
        for task in asks + waiting:
            task.cancel()
        await asyncio.wait(asks + waiting)
        await until(lambda: predictor.decode_queue.waiting == 0)
        assert (predictor.decode_queue.running, len(predictor.flights)) == (2, 2)
        backend.hold.set()
        await until(lambda: predictor.decode_queue.running == len(predictor.flights) == 0)
        assert [(await mask(predictor, ID, ask)).outcome for ask in begun] == [Outcome.HIT] * 2
        assert (backend.decodes, backend.called_off) == (3, 0)


# --- 5 -----------------------------------------------------------------------------------------------------------


class Damaging(DiskStore):
    """A disk that flips a bit of all that it reads."""

    async def get(self, key: str) -> Entry | None:
        entry = await super().get(key)
        return None if entry is None else damage(entry)


class Slow(DiskStore):
    """A disk that answers when it is told to."""

    def __init__(self, *folder: Path, **options: Any) -> None:
        super().__init__(*folder, **options)
        self.release = asyncio.Event()

    async def get(self, key: str) -> Entry | None:
        await self.release.wait()
        return await super().get(key)


class Down(DiskStore):
    """A disk that fails at everything."""

    async def get(self, key: str) -> Entry | None:
        raise StoreFailed("down")

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        raise OSError("down")


class Full(DiskStore):
    """A disk that takes nothing more."""

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        raise StoreFailed("full")


@pytest.fixture
async def right(disk: Disk) -> MaskAnswer:
    """The right answer; the disk holds it too."""
    async with server(ToyBackend(), disk()) as predictor:
        await send(predictor, FILE)
        return await mask(predictor, ID)


@pytest.mark.parametrize("mode", ["parallel", "first"])
@pytest.mark.parametrize("kind", [DiskStore, Damaging, Slow, Down, Full])
async def test_rule_5_a_bad_tier_is_a_miss_and_never_a_failed_request_nor_a_wrong_mask(
    disk: Disk, right: MaskAnswer, kind: type[DiskStore], mode: str
) -> None:
    deadline_s = 0.02 if kind is Slow else PATIENCE_S
    lower = disk(kind)
    async with server(ToyBackend(), lower, mode=mode, deadline_s=deadline_s) as predictor:
        async with asyncio.timeout(PATIENCE_S):
            await send(predictor, FILE)
            found = await mask(predictor, ID)
        if isinstance(lower, Slow):
            lower.release.set()
        await predictor.store.drain()
        [tier] = predictor.store.lower
        errors = errors_of(tier)
    assert found.prediction == right.prediction
    counted = {Damaging: "damaged", Slow: "deadline", Down: "failed"}
    if kind in counted and mode == "first":
        assert errors[counted[kind]] >= 2
    if kind is DiskStore and mode == "first":
        assert found.outcome is Outcome.HIT
        assert not errors


async def test_rule_5_a_cache_directory_that_is_deleted_under_the_server_costs_nothing_but_time(
    disk: Disk, right: MaskAnswer, tmp_path: Path
) -> None:
    async with server(ToyBackend(), disk()) as predictor:
        await send(predictor, FILE)
        await predictor.store.drain()  # what is still being written would be in the way of its own deletion
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache").write_bytes(b"in the way")
        await predictor.store.memory.delete("v1/*")
        await send(predictor, FILE)
        assert (await mask(predictor, ID)).prediction == right.prediction


# --- 6 -----------------------------------------------------------------------------------------------------------


async def test_rule_6_use_restarts_the_idle_timer_in_every_tier(disk: Disk) -> None:
    clock = Clock(1e9)
    lower = disk(clock=clock)
    async with server(
        ToyBackend(), lower, memory=memory_store(clock=clock), clock=clock, wall_clock=clock
    ) as predictor:
        await send(predictor, FILE)
        await mask(predictor, ID)
        await predictor.store.drain()
        for _ in range(4):
            clock.now += 1200.0
            assert (await mask(predictor, ID)).outcome is Outcome.HIT
            _, answer = await predictor.embedding(TENANT, ID)
            assert answer.outcome is Outcome.HIT
            await settled(predictor)
            await lower.sweep()
            assert (await lower.stats()).entries == 3
        clock.now += 1801.0
        await predictor.store.sweep()
        assert [(s.entries, s.evictions["idle"] >= 3) for s in await stats_of(predictor)] == [(0, True)] * 2
        with pytest.raises(UnknownImage):
            await mask(predictor, ID)


@pytest.mark.parametrize("kind", [Kind.EMBEDDING, Kind.MASK])
async def test_rule_6_using_what_was_made_of_an_image_keeps_its_file(disk: Disk, kind: Kind) -> None:
    clock = Clock(1e9)
    lower = disk(clock=clock)
    memory = memory_store(clock=clock)
    async with server(ToyBackend(), lower, memory=memory, clock=clock, wall_clock=clock) as predictor:
        await send(predictor, FILE)
        await mask(predictor, ID)
        await predictor.store.drain()
        for _ in range(3):
            clock.now += 1200.0
            await (mask(predictor, ID) if kind is Kind.MASK else predictor.embedding(TENANT, ID))
            await settled(predictor)
        assert {entry.kind for entry in (await held(lower)).values()} == {Kind.IMAGE, kind}


async def settled(predictor: Predictor) -> None:
    """Slides run behind the caller's back."""
    [tier] = predictor.store.lower
    await until(lambda: not tier.calls.unfinished)


async def test_rule_6_max_age_is_absolute_in_every_tier(disk: Disk) -> None:
    clock = Clock(1e9)
    lower = disk(clock=clock, max_age_s=3000.0)
    memory = memory_store(clock=clock, max_age_s=3000.0)
    async with server(ToyBackend(), lower, memory=memory, clock=clock, wall_clock=clock) as predictor:
        await send(predictor, FILE)
        await predictor.store.drain()
        for _ in range(2):
            clock.now += 1400.0
            _, answer = await predictor.embedding(TENANT, ID)
            assert answer.outcome is Outcome.HIT
            await settled(predictor)
        clock.now += 200.0
        with pytest.raises(UnknownImage):
            await predictor.embedding(TENANT, ID)


async def test_rule_6_an_entry_in_use_is_not_evicted_under_its_request(disk: Disk) -> None:
    backend, lower = ToyBackend(), disk()
    async with server(backend, lower) as predictor:
        await send(predictor, FILE)
        right = await mask(predictor, ID)
        await predictor.purge(TENANT, image_id=ID)
        await send(predictor, FILE)
        backend.hold = asyncio.Event()
        asking = asyncio.create_task(mask(predictor, ID))
        await until(lambda: backend.decodes == 2)
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
        backend.hold.set()
        assert (await asking).prediction == right.prediction


# --- 7 -----------------------------------------------------------------------------------------------------------


async def test_rule_7_every_tier_keeps_to_its_bytes_while_being_filled_by_many_at_once(disk: Disk) -> None:
    files = [image_bytes(seed) for seed in range(40)]
    memory_budget, disk_budget = 300_000, 30_000
    lower = disk(budget_bytes=disk_budget)
    most: Counter[str] = Counter()
    async with server(ToyBackend(), lower, memory=memory_store(memory_budget)) as predictor:

        async def watch() -> None:
            while True:
                for stats in await stats_of(predictor):
                    most[stats.tier] = max(most[stats.tier], stats.bytes)
                await asyncio.sleep(0)

        async def work(file: bytes) -> None:
            image_id = await send(predictor, file)
            asks = [PromptAsk([Point(x, 10, 1)], multimask=False) for x in range(0, 40, 8)]
            await predictor.masks(TENANT, image_id, asks)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(work(file) for file in files))
        await predictor.store.drain()
        watching.cancel()
        stats = await stats_of(predictor)
    assert 0 < most["memory"] <= memory_budget
    assert 0 < most["disk"] <= disk_budget
    assert all(tier.evictions["budget"] + tier.refused > 0 for tier in stats)


# --- 8 -----------------------------------------------------------------------------------------------------------


async def test_rule_8_a_model_swap_never_hits_old_keys(disk: Disk) -> None:
    swapped = [ModelVersion("toy", "1" * 64), ModelVersion("other", "0" * 64), TOY]
    async with server(ToyBackend(), disk()) as predictor:
        await send(predictor, FILE)
        await mask(predictor, ID)
    for version in swapped:
        backend = ToyBackend(version)
        async with server(backend, disk()) as predictor:
            answer = await mask(predictor, ID)
            assert answer.version == version
            assert answer.outcome is (Outcome.HIT if version == TOY else Outcome.RECOMPUTED)
            assert backend.encodes == backend.decodes == (version != TOY)


@pytest.mark.parametrize(
    ("purge", "left"),
    [
        ({"tenant": "a", "image_id": ID}, {"a/2", "b/1", "b/2"}),
        ({"tenant": "a"}, {"b/1", "b/2"}),
        ({"tenant": None, "image_id": ID}, {"a/2", "b/2"}),
        ({"tenant": None}, set()),
        ({"tenant": "a", "model": "toy"}, {"b/1", "b/2"}),
        ({"tenant": None, "model": "to"}, {"a/1", "a/2", "b/1", "b/2"}),
    ],
)
async def test_rule_8_a_purge_is_one_call_and_takes_just_what_it_names(
    disk: Disk, purge: dict[str, Any], left: set[str]
) -> None:
    files = {"1": FILE, "2": image_bytes(2)}
    async with server(ToyBackend(), disk()) as predictor:
        for tenant in "ab":
            for file in files.values():
                await mask(predictor, await send(predictor, file, tenant), tenant=tenant)
        gone = await predictor.purge(**purge)
        assert (gone == 0) == (len(left) == 4)
        for _ in range(2):  # at once, and after what was pending has been written
            found = set()
            for tenant in "ab":
                for name, file in files.items():
                    key = keys_of(file, tenant).mask(TOY, CLICK)
                    if predictor.store.peek(key) or await predictor.store.look_up(key):
                        found.add(f"{tenant}/{name}")
            assert found == left
            await predictor.store.drain()
        if "model" in purge:
            assert (await predictor.image_state("a", ID)).encoded is ("a/1" in left), "the file stays"


async def test_rule_8_a_computation_under_way_when_the_purge_came_is_answered_but_not_kept(disk: Disk) -> None:
    backend, lower = ToyBackend(), disk()
    backend.hold = asyncio.Event()
    async with server(backend, lower) as predictor:
        sending = asyncio.create_task(send(predictor, FILE))
        await backend.begun.wait()
        await predictor.purge(TENANT, image_id=ID)
        backend.hold.set()
        await sending
        await predictor.store.drain()
        assert await held(lower) == {}
        assert predictor.store.peek(keys_of(FILE).embedding(TOY)) is None

        await send(predictor, FILE)
        backend.hold = asyncio.Event()
        asking = asyncio.create_task(mask(predictor, ID))
        await until(lambda: backend.decodes == 1)
        await predictor.purge(None, model="toy")
        backend.hold.set()
        await asking
        await predictor.store.drain()
        assert {entry.kind for entry in (await held(lower)).values()} == {Kind.IMAGE}
        assert predictor.store.peek(keys_of(FILE).mask(TOY, CLICK)) is None


async def test_rule_8_an_image_that_waits_for_the_encoder_when_the_purge_came_is_not_kept(disk: Disk) -> None:
    backend, lower = ToyBackend(), disk()
    backend.hold = asyncio.Event()
    async with server(backend, lower, slots=1) as predictor:
        busy = asyncio.create_task(send(predictor, image_bytes(5)))
        await backend.begun.wait()
        sending = asyncio.create_task(send(predictor, FILE))
        await until(lambda: predictor.encode_queue.waiting == 1)
        await predictor.purge(TENANT, image_id=ID)
        backend.hold.set()
        await asyncio.gather(busy, sending)
        await predictor.store.drain()
        assert await held(lower) == {}
        assert (await lower.stats()).entries == 2, "the other image was not meant"


async def test_rule_8_tenants_never_see_each_others_entries(disk: Disk) -> None:
    backend = ToyBackend()
    async with server(backend, disk()) as predictor:
        await send(predictor, FILE, "a")
        await mask(predictor, ID, tenant="a")
        for ask in (
            mask(predictor, ID, tenant="b"),
            predictor.embedding("b", ID),
            predictor.image_state("b", ID),
        ):
            with pytest.raises(UnknownImage):
                await ask
        assert (await predictor.open_image("b", FILE, ID)).outcome is Outcome.MISS
        await predictor.purge("b")
        assert (await mask(predictor, ID, tenant="a")).outcome is Outcome.HIT
    assert backend.encodes == 2


# --- 9 -----------------------------------------------------------------------------------------------------------


async def test_rule_9_an_evicted_embedding_is_computed_from_the_kept_image_and_without_it_the_client_is_asked(
    disk: Disk,
) -> None:
    backend, lower = ToyBackend(), disk()
    async with server(backend, lower) as predictor:
        await send(predictor, FILE)
        right = await mask(predictor, ID)
        assert predictor.store.memory.stats().entries_by_kind["image"] == 0, "it lives in the cheapest tier"
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
        await forget(predictor, Kind.MASK, everywhere=True)
    async with server(backend, disk()) as predictor:  # a restart later
        found = await mask(predictor, ID)
        assert (found.outcome, found.prediction) == (Outcome.RECOMPUTED, right.prediction)
        state = await predictor.image_state(TENANT, ID)
        assert (state.width, state.height, state.encoded) == (40, 30, True)
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
        state = await predictor.image_state(TENANT, ID)
        assert (state.width, state.height, state.encoded) == (40, 30, False)
        await forget(predictor, Kind.IMAGE, everywhere=True)
        assert (await mask(predictor, ID)).outcome is Outcome.HIT, "what is cached needs no image"
        with pytest.raises(UnknownImage, match="Send it again"):
            await mask(predictor, ID, A_BOX)
        await send(predictor, FILE)
        assert (await mask(predictor, ID, A_BOX)).outcome is Outcome.MISS


# --- 10 ----------------------------------------------------------------------------------------------------------


async def test_rule_10_what_is_counted_is_true(disk: Disk) -> None:
    """Every answer is counted once under its own outcome, and the seconds are the entries' own."""
    random = dice(3)
    files = [image_bytes(seed) for seed in range(4)]
    answers: list[tuple[Outcome, float]] = []
    uploads: Counter[Outcome] = Counter()
    async with server(ToyBackend(), disk()) as predictor:

        async def ask() -> None:
            file = random.choice(files)
            image_id = keys.image_id(file)
            if random.random() < 0.3:
                uploads[(await predictor.open_image(TENANT, file, image_id)).outcome] += 1
                return
            answer = await mask(predictor, image_id, click(random.randrange(5), 3))
            entry = predictor.store.peek(keys_of(file).mask(TOY, answer.prediction_id))
            assert entry is not None
            answers.append((answer.outcome, entry.cost))

        for file in files:
            uploads[(await predictor.open_image(TENANT, file, keys.image_id(file))).outcome] += 1
        for turn in range(15):
            await asyncio.gather(*(ask() for _ in range(12)))
            if turn == 7:
                await forget(predictor, Kind.EMBEDDING, everywhere=True)
                await forget(predictor, Kind.MASK, everywhere=True)
        with pytest.raises(UnknownImage):
            await mask(predictor, "0" * 64)

        figures = counted(predictor, Kind.MASK)
        by_outcome = Counter(outcome for outcome, _ in answers)
        assert figures.hits == by_outcome[Outcome.HIT]
        assert figures.joined == by_outcome[Outcome.JOINED]
        assert figures.recomputed == by_outcome[Outcome.RECOMPUTED]
        assert figures.misses == by_outcome[Outcome.MISS] + by_outcome[Outcome.RECOMPUTED]
        assert figures.lookups == len(answers)
        assert figures.failed == 1
        saved = [cost for outcome, cost in answers if outcome in (Outcome.HIT, Outcome.JOINED)]
        spent = [cost for outcome, cost in answers if outcome in (Outcome.MISS, Outcome.RECOMPUTED)]
        assert figures.seconds_saved == pytest.approx(sum(saved), abs=1e-6)
        assert figures.seconds_computed == pytest.approx(sum(spent), abs=1e-6)
        embeddings = counted(predictor, Kind.EMBEDDING)
        assert embeddings.lookups == uploads.total() + figures.misses
        assert embeddings.misses == predictor.backend.encodes  # type: ignore[attr-defined]
        assert counted(predictor).lookups == embeddings.lookups + figures.lookups


async def test_rule_10_evictions_are_counted_by_reason(disk: Disk) -> None:
    clock = Clock(1e9)
    lower = disk(Damaging, clock=clock, max_age_s=4000.0)
    memory = memory_store(clock=clock, max_age_s=4000.0)
    async with server(ToyBackend(), lower, memory=memory, clock=clock, wall_clock=clock, mode="first") as predictor:
        await send(predictor, FILE)  # image and embedding
        await predictor.store.drain()
        await predictor.purge(TENANT, image_id=ID)
        await send(predictor, FILE)
        await predictor.store.drain()
        clock.now += 1801
        await predictor.store.sweep()
        await send(predictor, FILE)
        await predictor.store.drain()
        await memory.delete("v1/*")
        await send(predictor, FILE)  # the embedding that is below is damaged
        stats = (await stats_of(predictor))[1]
    assert dict(stats.evictions) == {"idle": 2, "age": 0, "budget": 0, "purge": 2, "damaged": 1}
