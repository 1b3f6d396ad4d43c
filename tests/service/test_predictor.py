"""The main path: what is answered, from where, at which price, and what happens when something goes wrong."""

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from tests.doubles import (
    A_BOX,
    LONG_S,
    TENANT,
    TOY,
    BrokenStore,
    DamagingStore,
    DictStore,
    HangingStore,
    SlowStore,
    ToyBackend,
    click,
    counted,
    damage,
    dice,
    errors_of,
    forget,
    hedged,
    image_bytes,
    keys_of,
    mask,
    memory_store,
    now,
    send,
    serving,
    until,
    virtually,
)

from labeling_ground import key as keys
from labeling_ground.codec import records
from labeling_ground.codec.mask import from_rle
from labeling_ground.errors import (
    BackendFailed,
    BadImage,
    BadPrompt,
    Overloaded,
    TooLarge,
    UnknownImage,
    UnknownPrediction,
)
from labeling_ground.service.asks import MaskAnswer, PromptAsk
from labeling_ground.service.images import Upload
from labeling_ground.service.models import EngineHealth
from labeling_ground.service.once import HedgeOutcome
from labeling_ground.service.predictor import Predictor
from labeling_ground.types import Box, Embedding, Entry, Kind, ModelVersion, Outcome, Point, Prediction

pytestmark = pytest.mark.anyio

FILE = image_bytes(1)
ID = keys.image_id(FILE)
SHORT: dict[str, Any] = {"mask_window_s": 0.002, "embedding_window_s": 0.005}
"""Windows for predictions that shall begin though a tier hangs."""


def same(one: MaskAnswer, other: MaskAnswer) -> bool:
    return one.prediction == other.prediction and one.prediction_id == other.prediction_id


async def upload(predictor: Predictor, file: bytes = FILE) -> Outcome:
    return (await predictor.open_image(TENANT, file, keys.image_id(file))).outcome


# --- hits, misses, joined, recomputed -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
async def test_an_image_is_a_miss_once_and_then_a_hit(form: str) -> None:
    file = image_bytes(2, form=form)
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        first = await predictor.open_image(TENANT, file, keys.image_id(file))
        again = await predictor.open_image(TENANT, file, keys.image_id(file))
    assert (first.outcome, again.outcome) == (Outcome.MISS, Outcome.HIT)
    assert (first.width, first.height, first.version) == (40, 30, TOY)
    assert backend.encodes == 1


async def test_a_prompt_is_a_miss_once_and_then_a_hit_with_the_very_same_mask() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        await upload(predictor)
        first = await mask(predictor, ID)
        again = await mask(predictor, ID, click(20.001, 15))
        other = await mask(predictor, ID, A_BOX)
    assert [first.outcome, again.outcome, other.outcome] == [Outcome.MISS, Outcome.HIT, Outcome.MISS]
    assert same(first, again)
    assert not same(first, other)
    assert backend.decodes == 2
    pixels = from_rle((30, 40), first.prediction.masks[0].counts)
    assert pixels[15, 20]
    assert not pixels[0, 0]


async def test_many_prompts_are_answered_in_their_order_and_the_same_one_twice_is_one_decode() -> None:
    backend = ToyBackend()
    asks = [click(x, 10) for x in (5, 30, 5, 20)]
    async with serving(backend, DictStore()) as predictor:
        await upload(predictor)
        answers = await predictor.masks(TENANT, ID, asks)
        single = [await mask(predictor, ID, ask) for ask in asks]
    assert all(same(one, other) for one, other in zip(answers, single, strict=True))
    assert backend.decodes == 3
    assert sorted(answer.outcome for answer in answers) == ["joined", "miss", "miss", "miss"]


async def test_of_many_prompts_one_bad_one_fails_all_and_calls_the_others_off() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        await upload(predictor)
        hold = backend.hold = asyncio.Event()
        busy = [asyncio.create_task(mask(predictor, ID, click(x, 5))) for x in (1, 2)]
        await until(lambda: predictor.decode_queue.running == 2)
        with pytest.raises(BadPrompt):
            await predictor.masks(TENANT, ID, [click(), click(500, 500)])
        await until(lambda: len(predictor.flights) == 2)
        assert predictor.decode_queue.waiting == 0
        hold.set()
        await asyncio.gather(*busy)
    assert backend.decodes == 2


async def test_fifty_uploads_at_once_are_one_encode_one_miss_and_no_second_encode_by_a_straggler() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        outcomes = Counter(await asyncio.gather(*(upload(predictor) for _ in range(50))))
    assert backend.encodes == 1
    assert outcomes[Outcome.MISS] == 1
    assert outcomes.total() == 50
    assert outcomes[Outcome.RECOMPUTED] == 0


async def test_a_straggler_whose_header_is_read_while_the_flight_lands_does_not_encode_again() -> None:
    """The lower tier has nothing yet: the write is on its way, and nobody may look past it."""
    backend = ToyBackend()
    lower = HangingStore(only=["put"])
    async with serving(backend, lower, memory=memory_store(8)) as predictor:
        first = asyncio.create_task(upload(predictor))
        await until(lambda: backend.encodes == 1)
        outcomes = await asyncio.gather(first, *(upload(predictor) for _ in range(30)))
        assert backend.encodes == 1
        assert outcomes.count(Outcome.MISS) == 1
        lower.release.set()


async def test_who_joined_is_told_so_and_is_not_charged_with_the_leaders_time() -> None:
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore()) as predictor:
        leader = asyncio.create_task(predictor.open_image(TENANT, FILE, ID))
        await backend.begun.wait()
        follower = asyncio.create_task(predictor.embedding(TENANT, ID))
        await until(lambda: predictor.flights._flights[keys_of(FILE).embedding(TOY)].askers == 2)
        backend.hold.set()
        first, (_, second) = await leader, await follower
    assert (first.outcome, second.outcome) == (Outcome.MISS, Outcome.JOINED)
    assert first.timing.encode
    assert second.timing.encode is None
    assert second.timing.total > 0


async def test_an_evicted_embedding_is_computed_again_from_the_kept_file_without_the_client() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        await upload(predictor)
        first = await mask(predictor, ID)
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
        assert (await mask(predictor, ID)).outcome is Outcome.HIT
        other = await mask(predictor, ID, A_BOX)
        assert other.outcome is Outcome.RECOMPUTED
        assert other.timing.encode
        await forget(predictor, Kind.MASK, everywhere=True)
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
        assert same(await mask(predictor, ID), first)
        _, answer = await predictor.embedding(TENANT, ID)
        assert answer.outcome is Outcome.HIT
    assert backend.encodes == 3


async def test_when_the_file_is_gone_too_the_image_is_unknown_until_it_is_sent_again() -> None:
    async with serving(ToyBackend(), DictStore()) as predictor:
        await upload(predictor)
        await predictor.purge(TENANT, image_id=ID)
        for ask in (mask(predictor, ID), predictor.embedding(TENANT, ID), predictor.image_state(TENANT, ID)):
            with pytest.raises(UnknownImage, match="Send it again"):
                await ask
        assert await upload(predictor) is Outcome.MISS
        assert (await mask(predictor, ID)).outcome is Outcome.MISS


async def test_who_asks_for_an_unknown_image_learns_so_without_queueing_for_the_encoder() -> None:
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore(), slots=1, queue=1) as predictor:
        busy = [asyncio.create_task(upload(predictor, image_bytes(seed))) for seed in (5, 6)]
        await until(lambda: predictor.encode_queue.waiting == 1)
        with pytest.raises(UnknownImage):
            await mask(predictor, "0" * 64)
        backend.hold.set()
        await asyncio.gather(*busy)


async def test_a_tier_that_hangs_over_a_kept_file_holds_no_place_at_the_encoder() -> None:
    backend = ToyBackend()
    lower = HangingStore(only=["get"])
    async with serving(backend, lower, slots=1, **SHORT) as predictor:
        waiting = asyncio.create_task(mask(predictor, "0" * 64))
        await until(lambda: lower.calls.count(("get", f"v1/{TENANT}/{'0' * 64}/image")) == 1)
        assert await upload(predictor) is Outcome.MISS
        waiting.cancel()
        await asyncio.wait({waiting})
        lower.release.set()


async def test_a_hit_on_an_embedding_sees_to_it_that_the_file_is_kept() -> None:
    lower = DictStore()
    async with serving(ToyBackend(), lower) as predictor:
        for send_again in (upload, lambda s: s.prefetch(TENANT, FILE, ID)):
            await upload(predictor)
            await forget(predictor, Kind.IMAGE, everywhere=True)
            await send_again(predictor)
            await until(lambda: keys_of(FILE).image in lower.entries)
        await predictor.store.drain()
        assert records.open_image(lower.entries[keys_of(FILE).image], keys_of(FILE).image) == (FILE, 40, 30)


# --- an upload and an ask at the same time --------------------------------------------------------------


async def test_an_upload_that_races_with_an_ask_for_the_same_unknown_image_does_not_get_its_404() -> None:
    backend = ToyBackend()
    for turns in range(12):
        file = image_bytes(100 + turns)
        image_id = keys.image_id(file)
        async with serving(backend, SlowStore(0.001)) as predictor:
            asking = asyncio.create_task(mask(predictor, image_id))
            for _ in range(turns):
                await asyncio.sleep(0)
            assert await upload(predictor, file) in (Outcome.MISS, Outcome.JOINED, Outcome.HIT)
            [answer] = await asyncio.gather(asking, return_exceptions=True)
            assert isinstance(answer, MaskAnswer | UnknownImage)
            assert counted(predictor, Kind.EMBEDDING).failed == isinstance(answer, UnknownImage)
    assert backend.encodes == 12


async def test_an_ask_that_still_looks_for_the_file_gets_the_one_that_is_sent_meanwhile() -> None:
    backend = ToyBackend()
    lower = HangingStore(only=["get"])
    async with serving(backend, lower, **SHORT) as predictor:
        asking = asyncio.create_task(predictor.embedding(TENANT, ID))
        await until(lambda: ("get", keys_of(FILE).image) in lower.calls)
        sending = asyncio.create_task(upload(predictor))
        await until(lambda: bool(predictor.embeddings.arriving))
        lower.release.set()
        _, answer = await asking
        assert {answer.outcome, await sending} == {Outcome.MISS, Outcome.JOINED}
        assert predictor.embeddings.arriving == {}
    assert backend.encodes == 1


async def test_an_image_is_known_while_it_is_on_its_way_also_when_one_of_its_senders_leaves() -> None:
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore(), slots=1) as predictor:
        busy = asyncio.create_task(upload(predictor, image_bytes(5)))
        await backend.begun.wait()
        first = asyncio.create_task(upload(predictor))
        await until(lambda: predictor.encode_queue.waiting == 1)
        second = asyncio.create_task(upload(predictor))
        await until(lambda: predictor.flights._flights[keys_of(FILE).embedding(TOY)].askers == 2)
        first.cancel()
        await asyncio.wait({first})
        state = await predictor.image_state(TENANT, ID)
        assert (state.width, state.height, state.encoded) == (40, 30, False)
        backend.hold.set()
        assert await second is Outcome.JOINED
        assert (await predictor.image_state(TENANT, ID)).encoded
        assert predictor.embeddings.arriving.keys() <= {keys_of(image_bytes(5)).embedding(TOY)}
        await busy


async def test_an_encode_that_has_begun_is_finished_and_kept_though_its_sender_left() -> None:
    """However often an impatient sender tries: each joins what the first has begun."""
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore(), slots=1) as predictor:
        for _ in range(3):
            sending = asyncio.create_task(upload(predictor))
            await backend.begun.wait()
            await until(lambda: [flight.askers for flight in predictor.flights._flights.values()] == [1])
            sending.cancel()
            await asyncio.wait({sending})
        assert (predictor.encode_queue.running, predictor.encode_queue.waiting) == (1, 0)
        assert (await predictor.image_state(TENANT, ID)).encoding
        joining = asyncio.create_task(upload(predictor))
        await until(lambda: [flight.askers for flight in predictor.flights._flights.values()] == [1])
        backend.hold.set()
        assert await joining is Outcome.JOINED
        assert await upload(predictor) is Outcome.HIT
        await until(lambda: predictor.encode_queue.running == 0)
        assert predictor.embeddings.arriving == {}
    assert (backend.encodes, backend.called_off) == (1, 0)


async def test_an_encode_that_nobody_waits_for_any_more_leaves_nothing_behind_but_its_result() -> None:
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore(), slots=1) as predictor:
        sending = asyncio.create_task(upload(predictor))
        await backend.begun.wait()
        sending.cancel()
        await asyncio.wait({sending})
        backend.hold.set()
        await until(lambda: len(predictor.flights) == predictor.encode_queue.running == 0)
        await until(lambda: predictor.embeddings.arriving == {})
        assert await upload(predictor) is Outcome.HIT
    assert backend.encodes == 1


async def test_an_encode_that_waits_is_called_off_when_its_sender_leaves() -> None:
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore(), slots=1) as predictor:
        busy = asyncio.create_task(upload(predictor, image_bytes(5)))
        await backend.begun.wait()
        sending = asyncio.create_task(upload(predictor))
        await until(lambda: predictor.encode_queue.waiting == 1)
        sending.cancel()
        await asyncio.wait({sending})
        await until(lambda: predictor.encode_queue.waiting == 0)
        assert predictor.embeddings.arriving.keys() == {keys_of(image_bytes(5)).embedding(TOY)}
        backend.hold.set()
        await busy
        assert backend.encodes == 1
        assert await upload(predictor) is Outcome.MISS


async def test_clicks_that_were_called_off_have_their_places_until_the_engine_is_through() -> None:
    """Else a few previews of a moving pointer would put a queue into the engine that nobody counts."""
    backend = ToyBackend()
    async with serving(backend, DictStore(), slots=2) as predictor:
        await upload(predictor)
        backend.hold = asyncio.Event()
        previews = [asyncio.create_task(mask(predictor, ID, click(float(x), 9))) for x in range(8)]
        await until(lambda: predictor.decode_queue.waiting == 6)
        for task in previews:
            task.cancel()
        await asyncio.wait(previews)
        await until(lambda: predictor.decode_queue.waiting == 0)
        assert predictor.decode_queue.running == 2
        clicking = asyncio.create_task(mask(predictor, ID))
        await until(lambda: predictor.decode_queue.waiting == 1)
        assert backend.decodes == 2
        backend.hold.set()
        assert (await clicking).outcome is Outcome.MISS
        await until(lambda: predictor.decode_queue.running == 0 and not len(predictor.flights))
        assert (await mask(predictor, ID, click(0.0, 9))).outcome is Outcome.HIT, "what had begun is kept"
    assert (backend.decodes, backend.called_off) == (3, 0)


async def test_a_call_past_its_deadline_is_an_error_with_its_place_still_taken_and_its_result_kept() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore(), slots=1) as predictor:
        await upload(predictor)
        backend.hold = asyncio.Event()
        predictor.encode_queue.calls.deadline_s = predictor.decode_queue.calls.deadline_s = 0.01
        for ask in (mask(predictor, ID), upload(predictor, image_bytes(5))):
            with pytest.raises(BackendFailed, match=r"has not answered within 0.01 s"):
                await ask
        assert predictor.decode_queue.running == predictor.encode_queue.running == 1
        predictor.encode_queue.calls.deadline_s = predictor.decode_queue.calls.deadline_s = None
        again = asyncio.create_task(upload(predictor, image_bytes(5)))
        await until(lambda: predictor.encode_queue.waiting == 1)
        backend.hold.set()
        assert await again is Outcome.HIT, "it waited for the place, and found the result there"
        await until(lambda: predictor.decode_queue.calls._running == {})
        assert (await mask(predictor, ID)).outcome is Outcome.HIT
    assert (backend.encodes, backend.decodes) == (2, 1)


async def test_calls_past_their_deadline_tell_the_health_of_the_engine() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore(), slots=1, engine_health=EngineHealth(1)) as predictor:
        backend.hold = asyncio.Event()
        predictor.encode_queue.calls.deadline_s = 0.01
        with pytest.raises(BackendFailed):
            await upload(predictor)
        assert "encoder" in predictor.engine_health.failing()
        backend.hold.set()
        await until(lambda: not predictor.engine_health.failing())


async def test_queued_prefetches_hold_no_more_bytes_than_they_may_and_repeats_of_one_take_no_place() -> None:
    files = [image_bytes(number) for number in range(40)]
    most = 3 * max(len(file) for file in files)
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore(), slots=1, most_bytes_ahead=most) as predictor:
        taken = []
        for file in files:
            with contextlib.suppress(Overloaded):
                await predictor.prefetch(TENANT, file, keys.image_id(file))
                taken.append(file)
            assert predictor.prefetches.bytes == sum(len(file) for file in taken) <= most
        assert 3 <= len(taken) < 40
        for _ in range(40):
            assert (await predictor.prefetch(TENANT, taken[0], keys.image_id(taken[0]))).queued
            assert (await predictor.prefetch(TENANT, taken[-1], keys.image_id(taken[-1]))).queued
        assert predictor.prefetches.bytes == sum(len(file) for file in taken)
        assert len(predictor.flights) == len(taken)
        backend.hold.set()
        await until(lambda: predictor.prefetches.bytes == 0)
        assert all(predictor.store.peek(keys_of(file).embedding(TOY)) for file in taken)
        assert (await predictor.prefetch(TENANT, files[-1], keys.image_id(files[-1]))).queued


async def test_the_bytes_that_one_tenants_prefetches_hold_keep_no_other_ones_out() -> None:
    files = [image_bytes(seed, form="BMP") for seed in range(40)]
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    most = 10 * len(files[0])
    async with serving(backend, DictStore(), slots=1, most_bytes_ahead=most, tenant_share=0.5) as predictor:
        taken: list[str] = []
        for number, file in enumerate(files):
            tenant = "flood" if number < 20 else "small"
            with contextlib.suppress(Overloaded):
                await predictor.prefetch(tenant, file, keys.image_id(file))
                taken.append(tenant)
        assert taken == ["flood"] * 5 + ["small"] * 5
        assert (await predictor.prefetch("late", files[0], keys.image_id(files[0]))).queued
        with pytest.raises(Overloaded):
            await predictor.prefetch("late", files[1], keys.image_id(files[1]))
        backend.hold.set()
        await until(lambda: predictor.prefetches.bytes == 0)


async def test_a_prefetch_of_an_image_that_somebody_waits_for_keeps_its_promise_when_that_one_leaves() -> None:
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore(), slots=1) as predictor:
        busy = asyncio.create_task(upload(predictor, image_bytes(5)))
        await backend.begun.wait()
        sending = asyncio.create_task(upload(predictor))
        await until(lambda: predictor.encode_queue.waiting == 1)
        for _ in range(3):
            assert (await predictor.prefetch(TENANT, FILE, ID)).queued
        assert predictor.prefetches.bytes == len(FILE)
        sending.cancel()
        backend.hold.set()
        await busy
        await until(lambda: predictor.store.peek(keys_of(FILE).embedding(TOY)) is not None)


async def test_a_prefetch_is_joined_by_the_click_that_comes_before_it_is_done() -> None:
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore()) as predictor:
        assert (await predictor.prefetch(TENANT, FILE, ID)).queued
        state = await predictor.image_state(TENANT, ID)
        assert (state.width, state.encoded) == (40, False)
        clicking = asyncio.create_task(mask(predictor, ID))
        await backend.begun.wait()
        await until(lambda: predictor.flights._flights[keys_of(FILE).embedding(TOY)].askers == 2)
        backend.hold.set()
        assert (await clicking).outcome is Outcome.MISS
        assert not (await predictor.prefetch(TENANT, FILE, ID)).queued
        figures = counted(predictor, Kind.EMBEDDING)
        assert (figures.misses, figures.joined) == (1, 1)
    assert backend.encodes == 1


async def test_every_prefetch_that_was_taken_on_is_encoded() -> None:
    """Also if many come before the first has reached the queue, and others fill that meanwhile."""
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    lower = HangingStore(only=["get"])
    async with serving(backend, lower, slots=1, queue=4) as predictor:
        files = [image_bytes(number) for number in range(30)]
        taken = 0
        for file in files:
            with contextlib.suppress(Overloaded):
                await predictor.prefetch(TENANT, file, keys.image_id(file))
                taken += 1
        assert taken == 5, "one at work and four that wait"
        lower.release.set()
        with pytest.raises(Overloaded):
            await asyncio.gather(*(send(predictor, image_bytes(number)) for number in range(30, 40)))
        backend.hold.set()
        await until(lambda: all(predictor.store.peek(keys_of(file).embedding(TOY)) for file in files[:taken]))
        await until(lambda: not predictor.flights)
        assert (await predictor.prefetch(TENANT, files[-1], keys.image_id(files[-1]))).queued, "there is room again"


async def test_a_place_that_was_promised_to_a_prefetch_is_taken_before_the_prefetch_reaches_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore(), slots=1, queue=4) as predictor:
        files = [image_bytes(number) for number in range(30)]
        received = {file: await predictor.files.receive(file) for file in files}

        async def receive(file: bytes) -> Upload:
            return received[file]

        monkeypatch.setattr(predictor.files, "receive", receive)  # all are checked before the first one queues
        asked = (predictor.prefetch(TENANT, file, keys.image_id(file)) for file in files)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(answer, Overloaded) for answer in answers] == [False] * 5 + [True] * 25
        backend.hold.set()
        await until(lambda: not predictor.flights)


async def test_an_image_file_is_worth_what_encoding_it_again_takes() -> None:
    lower = DictStore()

    async def stored_cost(predictor: Predictor, file: bytes) -> float:
        await send(predictor, file)
        await predictor.store.drain()
        entry = await lower.get(keys_of(file).image)
        assert entry is not None
        return entry.cost

    async with serving(ToyBackend(), lower) as predictor:
        first = await stored_cost(predictor, image_bytes(1))
        assert first > 0, "no encode has been measured yet: the time that has passed is the best guess"
        typical = predictor.encode_queue.typical_s
        assert typical is not None
        assert await stored_cost(predictor, image_bytes(2)) == pytest.approx(typical)


async def test_a_prefetch_that_joins_somebody_who_is_turned_away_is_encoded_all_the_same() -> None:
    lower = HangingStore(only=["get"])
    async with serving(ToyBackend(), lower, slots=1, queue=1) as predictor:
        asking = asyncio.create_task(
            predictor.embedding(TENANT, ID)
        )  # without a file: it waits for what the tier knows
        await until(lambda: lower.count("get") >= 1)
        assert (await predictor.prefetch(TENANT, FILE, ID)).queued
        over = asyncio.Event()

        async def occupy() -> None:
            async with predictor.encode_queue.slot():
                await over.wait()

        others = [asyncio.create_task(occupy()) for _ in range(2)]
        await until(lambda: predictor.encode_queue.waiting == 1)
        lower.release.set()
        with pytest.raises(Overloaded):
            await asking
        over.set()
        await asyncio.gather(*others)
        await until(lambda: predictor.store.peek(keys_of(FILE).embedding(TOY)) is not None)


async def test_a_prefetch_that_fails_harms_nobody() -> None:
    backend = ToyBackend()
    backend.error = BackendFailed("no")
    async with serving(backend, DictStore()) as predictor:
        assert (await predictor.prefetch(TENANT, FILE, ID)).queued
        await until(lambda: counted(predictor, Kind.EMBEDDING).failed == 1)
        backend.error = None
        assert (await mask(predictor, ID)).outcome is Outcome.RECOMPUTED, "its file was kept all the same"


# --- stores that misbehave ------------------------------------------------------------------------------


def make_store(name: str, entries: dict[str, Entry]) -> DictStore:
    if name == "slow":
        return SlowStore(0.03, entries)
    if name == "very slow":
        return SlowStore(2.0, entries)
    kinds: dict[str, Callable[..., DictStore]] = {
        "hit": DictStore,
        "broken": BrokenStore,
        "damaged": DamagingStore,
        "hanging": HangingStore,
    }
    return DictStore() if name == "miss" else kinds[name](entries=entries)


@pytest.mark.parametrize("mode", ["parallel", "first"])
@pytest.mark.parametrize("name", ["hit", "miss", "slow", "very slow", "broken", "damaged", "hanging"])
def test_both_modes_give_the_right_mask_whatever_the_store_does(mode: str, name: str) -> None:
    async def main() -> None:
        entries: dict[str, Entry] = {}
        clock = asyncio.get_running_loop().time
        async with serving(ToyBackend(), DictStore(entries)) as predictor:
            await upload(predictor)
            right = await mask(predictor, ID)
        backend = ToyBackend(encode_s=0.3, decode_s=0.02)
        store = make_store(name, entries)
        async with serving(backend, store, mode=mode, clock=clock) as predictor:
            started = now()
            outcome = await upload(predictor)
            waited = now() - started
            for _ in range(2):
                assert same(await mask(predictor, ID), right)
            computed = name not in ("hit", "slow")
            assert outcome is (Outcome.MISS if computed else Outcome.HIT)
            assert backend.encodes == (1 if name == "slow" and mode == "parallel" else computed)
            lost = {"slow": 0.03, "very slow": 0.1, "hanging": 0.1}.get(name, 0.0)
            assert waited <= (0.3 if computed else 0.0) + (lost if mode == "first" or not computed else 0.0051)
            if isinstance(store, HangingStore):
                store.release.set()

    virtually(main)


def test_a_store_that_takes_two_seconds_delays_a_parallel_ask_by_no_more_than_the_window() -> None:
    async def main() -> float:
        backend = ToyBackend()
        async with serving(backend, SlowStore(2.0), clock=asyncio.get_running_loop().time) as predictor:
            started = now()
            await upload(predictor)
            await mask(predictor, ID)
            return now() - started

    assert virtually(main) <= 0.005 + 0.002 + 1e-6


def test_a_hit_takes_a_prediction_off_a_full_queue_before_it_reaches_the_model() -> None:
    async def main() -> None:
        entries: dict[str, Entry] = {}
        async with serving(ToyBackend(), DictStore(entries)) as predictor:
            await upload(predictor)
            await mask(predictor, ID)
        backend = ToyBackend(encode_s=10.0)
        async with serving(backend, SlowStore(0.05, entries), slots=1) as predictor:
            busy = asyncio.create_task(upload(predictor, image_bytes(9)))
            await backend.begun.wait()
            _, answer = await predictor.embedding(TENANT, ID)
            assert answer.outcome is Outcome.HIT
            assert await upload(predictor) is Outcome.HIT
            assert backend.encodes == 1
            assert hedged(predictor, Kind.EMBEDDING, HedgeOutcome.WITHDRAWN) == 1
            assert predictor.encode_queue.waiting == 0
            busy.cancel()
            await asyncio.wait({busy})

    virtually(main)


@pytest.mark.parametrize("mode", ["parallel", "first"])
async def test_a_damaged_lower_tier_is_a_miss_and_never_a_wrong_mask(mode: str) -> None:
    entries: dict[str, Entry] = {}
    async with serving(ToyBackend(), DictStore(entries)) as predictor:
        await upload(predictor)
        right = await mask(predictor, ID)
    for at in (10, 200, None):
        spoilt = {key: damage(entry, at) for key, entry in entries.items()}
        store = DictStore(spoilt)
        async with serving(ToyBackend(), store, mode=mode) as predictor:
            await upload(predictor)
            found = await mask(predictor, ID)
            assert same(found, right)
            assert found.outcome is Outcome.MISS
            await predictor.store.drain()
            [tier] = predictor.store.lower
            assert errors_of(tier)["damaged"] >= 2
        assert store.entries.keys() <= entries.keys()


def test_predictions_are_hardly_ever_wasted_at_a_hit_ratio_of_nine_in_ten() -> None:
    """300 asks, a look-up that takes 0 to 1.5 ms and now and then 20 ms, an encoder of 300 ms and two places."""

    async def main() -> tuple[int, int, int]:
        random = dice(7)
        clock = asyncio.get_running_loop().time
        files = [image_bytes(seed, width=8, height=8) for seed in range(60)]
        entries: dict[str, Entry] = {}
        async with serving(ToyBackend(), DictStore(entries)) as predictor:
            for file in files[:30]:
                await upload(predictor, file)
        store = SlowStore(lambda: 0.02 if random.random() < 0.01 else random.uniform(0, 0.0015), entries)
        backend = ToyBackend(encode_s=0.3, decode_s=0.02)
        async with serving(backend, store, memory=memory_store(8), clock=clock) as predictor:
            new = iter(files[30:])
            asks = []
            for number in range(300):
                await asyncio.sleep(random.expovariate(20))
                file = next(new) if number % 10 == 0 else random.choice(files[:30])
                asks.append(asyncio.create_task(upload(predictor, file)))
            outcomes = Counter(await asyncio.gather(*asks))
            assert outcomes[Outcome.MISS] == 30
            return (
                hedged(predictor, Kind.EMBEDDING, HedgeOutcome.WASTED),
                hedged(predictor, Kind.EMBEDDING, HedgeOutcome.WITHDRAWN),
                backend.encodes,
            )

    wasted, withdrawn, encodes = virtually(main)
    assert withdrawn > 200
    assert wasted <= 0.06 * 300
    assert encodes == 30 + wasted


@pytest.mark.parametrize(
    ("look_up_s", "encode_s", "begins"),
    [(0.0, 0.3, 0.005), (0.04, 0.3, 0.04), (0.04, 0.06, 0.02), (0.0, 0.009, 0.003)],
)
def test_an_embeddings_window_is_5_ms_or_the_look_ups_p99_but_at_most_a_third_of_the_encoders_time(
    look_up_s: float, encode_s: float, begins: float
) -> None:
    async def main() -> None:
        waits = iter([look_up_s] * 4)
        clock = asyncio.get_running_loop().time
        store = SlowStore(lambda: next(waits, 3600.0))
        backend = ToyBackend(encode_s=encode_s)
        async with serving(backend, store, clock=clock) as predictor:
            for _ in range(2):
                with pytest.raises(UnknownImage):
                    await predictor.embedding(TENANT, "0" * 64)
            async with predictor.encode_queue.timed():
                await asyncio.sleep(encode_s)
            backend.begun.clear()
            started = now()
            asking = asyncio.create_task(upload(predictor))
            await backend.begun.wait()
            assert now() - started == pytest.approx(begins)
            await asking

    virtually(main)


# --- the model misbehaves -------------------------------------------------------------------------------


def nan_embedding(embedding: Embedding) -> Embedding:
    return dataclasses.replace(embedding, tensors={"grid": embedding.tensors["grid"] * np.float32(np.nan)})


def one(predictions: list[Prediction], **changes: Any) -> list[Prediction]:
    first = dataclasses.replace(predictions[0].masks[0], **changes)
    return [Prediction((first, *predictions[0].masks[1:]))]


BAD_EMBEDDINGS: list[Callable[[Embedding], Embedding]] = [
    nan_embedding,
    lambda e: dataclasses.replace(e, width=e.width + 1),
    lambda e: dataclasses.replace(e, tensors={}),
]
BAD_PREDICTIONS: list[Callable[[list[Prediction]], list[Prediction]]] = [
    lambda p: [],
    lambda p: p + p,
    lambda p: [Prediction(())],
    lambda p: one(p, pixels=p[0].masks[0].pixels.T),
    lambda p: one(p, pixels=p[0].masks[0].pixels.astype(np.float32)),
    lambda p: one(p, logits=p[0].masks[0].logits[:64, :64]),
    lambda p: one(p, logits=p[0].masks[0].logits * np.float32(np.nan)),
    lambda p: one(p, score=float("nan")),
]


@pytest.mark.parametrize("number", range(len(BAD_EMBEDDINGS)))
async def test_an_embedding_that_makes_no_sense_is_an_error_and_is_not_kept(number: int) -> None:
    backend = ToyBackend()
    backend.spoil_embedding = BAD_EMBEDDINGS[number]
    lower = DictStore()
    async with serving(backend, lower) as predictor:
        with pytest.raises(BackendFailed):
            await upload(predictor)
        await predictor.store.drain()
        assert {entry.kind for entry in lower.entries.values()} == {Kind.IMAGE}
        assert predictor.store.peek(keys_of(FILE).embedding(TOY)) is None
        backend.spoil_embedding = None
        assert await upload(predictor) is Outcome.MISS


@pytest.mark.parametrize("number", range(len(BAD_PREDICTIONS)))
async def test_a_prediction_that_makes_no_sense_is_an_error_and_is_not_kept(number: int) -> None:
    backend = ToyBackend()
    backend.spoil_predictions = BAD_PREDICTIONS[number]
    lower = DictStore()
    async with serving(backend, lower) as predictor:
        await upload(predictor)
        with pytest.raises(BackendFailed):
            await mask(predictor, ID)
        await predictor.store.drain()
        assert {entry.kind for entry in lower.entries.values()} == {Kind.IMAGE, Kind.EMBEDDING}
        backend.spoil_predictions = None
        assert (await mask(predictor, ID)).outcome is Outcome.MISS


@pytest.mark.parametrize("error", [BackendFailed("no"), Overloaded("later", 3.0), ZeroDivisionError()])
async def test_a_failure_reaches_everyone_and_the_next_ask_starts_anew(error: Exception) -> None:
    backend = ToyBackend()
    backend.hold = asyncio.Event()
    backend.error = error
    async with serving(backend, DictStore()) as predictor:
        asks = [asyncio.create_task(upload(predictor)) for _ in range(5)]
        await backend.begun.wait()
        await until(lambda: predictor.flights._flights[keys_of(FILE).embedding(TOY)].askers == 5)
        backend.hold.set()
        assert await asyncio.gather(*asks, return_exceptions=True) == [error] * 5
        figures = counted(predictor, Kind.EMBEDDING)
        assert (figures.failed, figures.lookups) == (5, 0)
        backend.error = None
        assert await upload(predictor) is Outcome.MISS


async def test_what_cannot_be_an_image_is_refused_before_it_takes_a_place() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore(), max_pixels=100) as predictor:
        for file, error in ((b"no image", BadImage), (FILE, TooLarge)):
            for ask in (predictor.open_image, predictor.prefetch):
                with pytest.raises(error):
                    await ask(TENANT, file, keys.image_id(file))
        cut = image_bytes(3, width=8, height=8)[:-20]
        with pytest.raises(BadImage):
            await upload(predictor, cut)
        assert predictor.embeddings.arriving == {}
    assert backend.encodes == 0


async def test_when_the_queue_is_full_new_work_is_turned_away_with_a_time_and_hits_are_still_answered() -> None:
    lower = DictStore()
    async with serving(ToyBackend(), lower) as predictor:
        await upload(predictor)
    backend = ToyBackend()
    async with serving(backend, lower, slots=1, queue=1) as predictor:
        backend.hold = asyncio.Event()
        busy = [asyncio.create_task(upload(predictor, image_bytes(seed))) for seed in (5, 6)]
        await until(lambda: predictor.encode_queue.waiting == 1)
        with pytest.raises(Overloaded) as caught:
            await upload(predictor, image_bytes(7))
        assert caught.value.retry_after >= 1
        assert (await predictor.prefetch(TENANT, image_bytes(8), keys.image_id(image_bytes(8)))).queued
        with pytest.raises(Overloaded):  # prefetches have a place of their own, and no second one
            await predictor.prefetch(TENANT, image_bytes(9), keys.image_id(image_bytes(9)))
        assert await upload(predictor) is Outcome.HIT
        assert (await predictor.embedding(TENANT, ID))[1].outcome is Outcome.HIT
        backend.hold.set()
        await asyncio.gather(*busy)
        assert await upload(predictor, image_bytes(7)) is Outcome.MISS


async def test_clicks_do_not_wait_behind_new_images() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore(), slots=1) as predictor:
        await upload(predictor)
        held = backend.hold = asyncio.Event()
        busy = asyncio.create_task(upload(predictor, image_bytes(5)))
        await until(lambda: backend.encodes == 2)
        backend.hold = None
        assert (await mask(predictor, ID)).outcome is Outcome.MISS
        held.set()
        await busy


# --- prompts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        click(40, 5),
        click(5, 30),
        click(-1, 5),
        click(39.9999, 30),
        PromptAsk(box=Box(50, 5, 60, 9)),
        PromptAsk(),
        click(label=0),
    ],
)
async def test_a_prompt_that_makes_no_sense_for_the_image_is_refused(bad: PromptAsk) -> None:
    async with serving(ToyBackend(), DictStore()) as predictor:
        await upload(predictor)
        with pytest.raises(BadPrompt):
            await mask(predictor, ID, bad)


async def test_a_prompt_far_outside_the_image_does_not_reach_the_model() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        await upload(predictor)
        with pytest.raises(BadPrompt):
            await mask(predictor, ID, click(50, 5))
    assert backend.decodes == 0


@pytest.mark.parametrize(("x", "y"), [(39.9999, 29.9999), (39.995, 0), (0, 29.993), (0, 0)])
async def test_a_click_on_the_last_sliver_of_the_image_is_on_it(x: float, y: float) -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        await upload(predictor)
        found = await mask(predictor, ID, click(x, y))
        assert from_rle((30, 40), found.prediction.masks[0].counts)[int(y), int(x)]
        assert found.prediction.origin.points[0] == keys.canonical([Point(x, y, 1)]).points[0]


async def test_a_click_on_the_edge_itself_is_refused_also_where_its_neighbour_was_asked_before() -> None:
    async with serving(ToyBackend(), DictStore()) as predictor:
        await upload(predictor)
        await mask(predictor, ID, click(39.9999, 5))
        with pytest.raises(BadPrompt, match="outside"):
            await mask(predictor, ID, click(40, 5))


async def test_a_box_over_the_edge_is_cut_off_there_for_the_model() -> None:
    async with serving(ToyBackend(), DictStore()) as predictor:
        await upload(predictor)
        found = await mask(predictor, ID, PromptAsk(box=Box(-9, -9, 99, 99), multimask=False))
        assert found.prediction.masks[0].area == 40 * 30


@pytest.mark.parametrize("index", [0, 2])
async def test_a_mask_input_by_reference_is_the_same_as_by_value(index: int) -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        await upload(predictor)
        first = await mask(predictor, ID)
        logits_key = keys_of(FILE).logits(TOY, first.prediction_id)
        await predictor.background.finish(LONG_S)
        kept = predictor.store.peek(logits_key)
        assert kept is not None
        value = records.open_logits(kept, logits_key)[index].astype(np.float32)
        by_reference = await mask(predictor, ID, PromptAsk(mask_input=(first.prediction_id, index)))
        by_value = await mask(predictor, ID, PromptAsk(mask_input=value))
        assert same(by_reference, by_value)
        assert (by_reference.outcome, by_value.outcome) == (Outcome.MISS, Outcome.HIT)
        for bad in (-1, 3):
            with pytest.raises(BadPrompt, match="candidates"):
                await mask(predictor, ID, PromptAsk(mask_input=(first.prediction_id, bad)))
    assert backend.decodes == 2


async def test_evicted_logits_are_computed_again_along_the_whole_chain_of_references() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        await upload(predictor)
        chain = [await mask(predictor, ID)]
        for number in range(3):
            point = Point(5.0 + 5 * number, 5.0, 1)
            chain.append(await mask(predictor, ID, PromptAsk([point], mask_input=(chain[-1].prediction_id, 0))))
        last = PromptAsk([Point(30, 20, 1)], mask_input=(chain[-1].prediction_id, 0))
        right = await mask(predictor, ID, last)
        await forget(predictor, Kind.LOGITS)
        assert same(await mask(predictor, ID, last), right)
        before = backend.decodes
        await forget(predictor, Kind.LOGITS)
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
        await predictor.store.memory.delete(keys_of(FILE).mask(TOY, right.prediction_id))
        again = await mask(predictor, ID, last)
        assert (same(again, right), again.outcome) == (True, Outcome.HIT)
        assert backend.decodes == before + 4


async def test_a_reference_is_followed_where_memory_has_no_room_for_logits() -> None:
    answers = []
    for memory in (memory_store(), memory_store(8)):
        async with serving(ToyBackend(), DictStore(), memory=memory) as predictor:
            await upload(predictor)
            first = await mask(predictor, ID)
            answers.append(await mask(predictor, ID, PromptAsk([Point(9, 9, 1)], mask_input=(first.prediction_id, 0))))
    assert same(*answers)


async def test_a_reference_that_leads_nowhere_says_so() -> None:
    async with serving(ToyBackend(), DictStore()) as predictor:
        await upload(predictor)
        with pytest.raises(UnknownPrediction, match="not kept"):
            await mask(predictor, ID, PromptAsk(mask_input=("f" * 32, 0)))
        by_value = await mask(predictor, ID, PromptAsk(mask_input=np.ones((256, 256), np.float32)))
        await forget(predictor, Kind.LOGITS)
        with pytest.raises(UnknownPrediction, match="Send the mask input"):
            await mask(predictor, ID, PromptAsk(mask_input=(by_value.prediction_id, 0)))


# --- precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
async def test_a_mask_is_the_same_computed_at_once_later_and_after_every_eviction(precision: str) -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore(), precision=precision) as predictor:
        await upload(predictor)
        answers = [await mask(predictor, ID)]
        for evicted in ([Kind.MASK], [Kind.MASK, Kind.EMBEDDING], [Kind.MASK, Kind.LOGITS, Kind.EMBEDDING]):
            for kind in evicted:
                await forget(predictor, kind, everywhere=True)
            answers.append(await mask(predictor, ID))
    assert all(same(answer, answers[0]) for answer in answers)
    seen = [embedding.tensors["means"] for embedding in backend.decoded_with]
    assert len(seen) == 4
    assert all(tensor.tobytes() == seen[0].tobytes() for tensor in seen)
    assert seen[0].dtype == (np.float16 if precision == "fp16" else np.float32)


# --- done hints, figures, the end -----------------------------------------------------------------------


async def test_the_tiers_learn_which_images_are_done() -> None:
    other = image_bytes(2)
    lower = DictStore()
    async with serving(ToyBackend(), lower) as predictor:
        await predictor.open_image(TENANT, FILE, ID, client="ann")
        await predictor.prefetch(TENANT, other, keys.image_id(other), client="ann")
        await predictor.masks(TENANT, ID, [click()], client="ann")
        await predictor.store.drain()
        assert lower.count("done") == 0
        await predictor.masks(TENANT, keys.image_id(other), [click()], client="ann")
        await predictor.store.drain()
        assert [about for verb, about in lower.calls if verb == "done"] == [keys_of(FILE).group]
        await predictor.masks(TENANT, ID, [click()], client="bob")
        await predictor.store.drain()
        assert lower.calls[-1] == ("not done", keys_of(FILE).group)


async def test_the_same_client_name_of_two_tenants_is_two_clients() -> None:
    lower = DictStore()
    async with serving(ToyBackend(), lower) as predictor:
        await predictor.open_image("one", FILE, ID, client="ann")
        await predictor.open_image("two", image_bytes(2), keys.image_id(image_bytes(2)), client="ann")
        await predictor.store.drain()
    assert lower.count("done") == 0


async def test_closing_tells_who_waits_writes_what_is_pending_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    backend = ToyBackend()
    lower = DictStore()
    async with serving(backend, lower) as predictor:
        await upload(predictor)
        backend.hold = asyncio.Event()
        waiting = asyncio.create_task(mask(predictor, ID))
        await predictor.prefetch(TENANT, image_bytes(2), keys.image_id(image_bytes(2)))
        await until(lambda: predictor.decode_queue.running == predictor.encode_queue.running == 1)
        await predictor.aclose()
        with pytest.raises(BackendFailed, match="Try again"):
            await waiting
        await until(lambda: asyncio.all_tasks() == before)
    assert keys_of(FILE).embedding(TOY) in lower.entries


async def test_a_mask_that_was_evicted_from_memory_is_found_below() -> None:
    backend = ToyBackend()
    async with serving(backend, DictStore()) as predictor:
        await upload(predictor)
        right = await mask(predictor, ID)
        await forget(predictor, Kind.MASK)
        await forget(predictor, Kind.EMBEDDING)
        found = await mask(predictor, ID)
    assert (same(found, right), found.outcome) == (True, Outcome.HIT)
    assert (backend.encodes, backend.decodes) == (1, 1)


async def test_another_model_version_shares_the_file_and_nothing_else() -> None:
    lower = DictStore()
    async with serving(ToyBackend(), lower) as predictor:
        await upload(predictor)
        await mask(predictor, ID)
    newer = ToyBackend(ModelVersion("toy", "1" * 64))
    async with serving(newer, lower) as predictor:
        assert (await mask(predictor, ID)).outcome is Outcome.RECOMPUTED
    assert (newer.encodes, newer.decodes) == (1, 1)


async def test_a_long_chain_of_references_whose_logits_are_gone_ends_in_a_sentence() -> None:
    """One ask never computes a whole history again, and never runs out of stack."""
    async with serving(ToyBackend()) as predictor:
        await upload(predictor)
        parent: tuple[str, int] | None = None
        for number in range(40):
            ask = PromptAsk(points=[Point(number % 20 + 1, 5, 1)], mask_input=parent)
            [answer] = await predictor.masks(TENANT, ID, [ask])
            parent = (answer.prediction_id, 0)
        await predictor.store.delete("v1/*/logits/*")
        with pytest.raises(UnknownPrediction, match="without a mask_input"):
            await predictor.masks(TENANT, ID, [PromptAsk(points=[Point(3, 3, 1)], mask_input=parent)])


@contextlib.asynccontextmanager
async def purged_while_encoding(
    lower: DictStore,
) -> AsyncIterator[tuple[Predictor, ToyBackend, asyncio.Event, asyncio.Task[Outcome]]]:
    """An upload is being encoded, held up until the event is set, and the image has been purged since it came."""
    backend = ToyBackend()
    backend.hold = hold = asyncio.Event()
    async with serving(backend, lower) as predictor:
        before = asyncio.create_task(upload(predictor))
        await backend.begun.wait()
        await predictor.purge(TENANT, image_id=ID)
        yield predictor, backend, hold, before


async def test_an_upload_after_a_purge_is_kept_though_an_older_one_is_under_way() -> None:
    async with purged_while_encoding(DictStore()) as (predictor, backend, hold, before):
        after = asyncio.create_task(upload(predictor))
        await until(lambda: backend.encodes == 2 or predictor.encode_queue.waiting > 0)
        hold.set()
        assert (await before, await after) == (Outcome.MISS, Outcome.MISS)
        assert (await predictor.image_state(TENANT, ID)).encoded


async def test_an_upload_before_a_purge_is_not_kept_for_who_asks_after_it() -> None:
    """He is answered all the same: the file is at hand."""
    lower = DictStore()
    async with purged_while_encoding(lower) as (predictor, backend, hold, before):
        after = asyncio.create_task(mask(predictor, ID))
        await until(lambda: backend.encodes == 2 or predictor.encode_queue.waiting > 0)
        hold.set()
        assert (await before, (await after).outcome) == (Outcome.MISS, Outcome.MISS)
        await predictor.store.drain()
        assert lower.entries == {}
        with pytest.raises(UnknownImage):
            await predictor.image_state(TENANT, ID)


async def test_an_upload_after_a_purge_is_kept_though_it_joins_a_flight_with_an_older_file() -> None:
    lower = DictStore()
    async with purged_while_encoding(lower) as (predictor, backend, hold, before):
        between = asyncio.create_task(mask(predictor, ID))
        await until(lambda: backend.encodes == 2)
        after = asyncio.create_task(upload(predictor))
        await until(lambda: predictor.flights._flights[keys_of(FILE).embedding(TOY)].askers == 2)
        hold.set()
        await asyncio.gather(before, between, after)
        await until(lambda: not predictor.background)
        await predictor.store.drain()
        assert {keys_of(FILE).image, keys_of(FILE).embedding(TOY)} <= set(lower.entries)
        assert (await predictor.image_state(TENANT, ID)).encoded


def test_an_upload_never_hears_that_the_image_is_unknown() -> None:
    """Not even when it joins an ask that had looked for the file in vain, while a slow look-up was still out."""

    class SlowForEmbeddings(DictStore):
        async def get(self, key: str) -> Entry | None:
            if "/embedding/" in key:
                await asyncio.sleep(0.06)
            return await super().get(key)

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        async with serving(ToyBackend(), SlowForEmbeddings(), clock=clock) as predictor:
            asking = asyncio.create_task(predictor.embedding(TENANT, ID))
            await asyncio.sleep(0.03)
            assert await upload(predictor) in (Outcome.MISS, Outcome.JOINED)
            with pytest.raises(UnknownImage):
                await asking
            assert (await predictor.image_state(TENANT, ID)).encoded

    virtually(main)
