"""Embeddings in int8: what is answered from them says so, and is never taken for what the full embedding gives."""

import asyncio
from typing import Any

import numpy as np
import pytest
from tests.doubles import (
    LONG_S,
    TENANT,
    DictStore,
    ToyBackend,
    click,
    counted,
    image_bytes,
    keys_of,
    mask,
    memory_store,
    send,
    serving,
    until,
)

from labeling_ground import key as keys
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cache.policies.ranked import RankedPolicy
from labeling_ground.service.asks import PromptAsk
from labeling_ground.service.everything import Everything
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import Embedding, EverythingOptions, Kind, Outcome

pytestmark = pytest.mark.anyio

FILES = [image_bytes(seed) for seed in range(12)]
FIRST = keys.image_id(FILES[0])
EMBEDDING = keys_of(FILES[0]).embedding(ToyBackend().version)
INT8 = keys.int8_of(EMBEDDING)


class LargeBackend(ToyBackend):
    """A toy whose embeddings have channels: 32 KiB in fp16."""

    def __init__(self) -> None:
        super().__init__()
        maps = np.random.default_rng(1).standard_normal((1, 4, 64, 64), np.float32)

        def larger(embedding: Embedding) -> Embedding:
            return Embedding({**embedding.tensors, "maps": maps}, embedding.height, embedding.width)

        self.spoil_embedding = larger

    @property
    def seen(self) -> str:
        """What the last prompt was decoded with: ``full`` or ``int8``."""
        return "int8" if self.decoded_with[-1].tensors["maps"].dtype == np.float32 else "full"


class BySize(GreedyDualSize):
    """GreedyDual-Size with one cost for all: what a busy machine measures decides nothing."""

    def rank(self, base: float, size: int, cost: float, done: bool, uses: int = 1) -> float:
        return super().rank(base, size, 1.0, done, uses)


def small() -> MemoryStore:
    """Room for eight full embeddings."""
    return memory_store(300 << 10, policy=RankedPolicy(BySize()))


def rounding(predictor: Predictor) -> Predictor:
    predictor.store.int8.models.add("toy")
    return predictor


async def crowd_out(predictor: Predictor, files: list[bytes] = FILES[1:]) -> None:
    """Send images until the first one's embedding has no room in full."""
    for file in files:
        await send(predictor, file)
    await until(lambda: not predictor.store.int8.pending)
    assert EMBEDDING not in predictor.store.memory


async def test_a_click_on_what_memory_had_no_room_for_needs_no_encoder_and_says_what_it_was_made_of() -> None:
    backend = LargeBackend()
    async with serving(backend, memory=small()) as predictor:
        rounding(predictor)
        await send(predictor, FILES[0])
        full = await mask(predictor, FIRST)
        await crowd_out(predictor)
        assert predictor.store.memory.stats().entries_by_kind[Kind.EMBEDDING_INT8] >= 1
        encodes = backend.encodes
        known = await mask(predictor, FIRST)
        first = await mask(predictor, FIRST, click(5, 5))
        again = await mask(predictor, FIRST, click(5, 5))
        counts = counted(predictor, Kind.MASK)
    assert (known.outcome, known.is_int8, known.prediction_id) == (Outcome.HIT, False, full.prediction_id)
    assert (first.outcome, again.outcome) == (Outcome.MISS, Outcome.HIT)
    assert first.is_int8
    assert first.prediction_id == again.prediction_id == f"{again.prediction_id[:32]}~int8"
    assert (backend.encodes, backend.seen) == (encodes, "int8")
    assert (sum(counts.asked.values()), counts.from_int8) == (4, 2)


async def test_an_image_that_is_at_hand_in_int8_is_encoded_and_its_file_is_kept() -> None:
    backend = LargeBackend()
    async with serving(backend, memory=small()) as predictor:
        rounding(predictor)
        await send(predictor, FILES[0])
        await crowd_out(predictor)
        encodes = backend.encodes
        state = await predictor.image_state(TENANT, FIRST)
        opened = await predictor.open_image(TENANT, FILES[0], FIRST)
        ahead = await predictor.prefetch(TENANT, FILES[0], FIRST)
        assert (state.encoded, state.is_int8, state.width) == (True, True, 40)
        assert (opened.outcome, opened.is_int8, opened.width) == (Outcome.HIT, True, 40)
        assert not ahead.queued
        assert backend.encodes == encodes
        assert counted(predictor, Kind.EMBEDDING).from_int8 == 1


async def test_what_is_stored_without_a_label_is_made_of_the_full_embedding() -> None:
    """An embedding that is handed out, and all masks of an image: encoded again, from the stored file."""
    backend = LargeBackend()
    async with serving(backend, memory=small()) as predictor:
        rounding(predictor)
        await send(predictor, FILES[0])
        await crowd_out(predictor)
        before = await mask(predictor, FIRST, click(5, 5))
        handed, answer = await predictor.embedding(TENANT, FIRST)
        after = await mask(predictor, FIRST, click(5, 5))
    assert before.is_int8
    assert (answer.outcome, answer.is_int8) == (Outcome.RECOMPUTED, False)
    assert handed.tensors["maps"].dtype == np.float16
    assert (after.outcome, after.is_int8, backend.seen) == (Outcome.MISS, False, "full")
    assert after.prediction_id == before.prediction_id.removesuffix("~int8")


async def test_a_mask_of_an_int8_embedding_can_be_refined_and_its_lost_logits_are_made_as_they_were() -> None:
    """Though the full embedding is back: what has this id was made of the rounded one."""
    backend = LargeBackend()
    async with serving(backend, memory=small()) as predictor:
        rounding(predictor)
        await send(predictor, FILES[0])
        await crowd_out(predictor)
        first = await mask(predictor, FIRST, click(5, 5))
        await predictor.background.finish(LONG_S)
        asked = PromptAsk(click(9, 9).points, mask_input=(first.prediction_id, 0))
        refined = await mask(predictor, FIRST, asked)
        await predictor.background.finish(LONG_S)
        await predictor.embedding(TENANT, FIRST)
        sum(predictor.store.memory.purge(INT8))
        later = await mask(predictor, FIRST, asked)
    assert refined.is_int8
    assert not later.is_int8
    # The id is that of the prompt, logits and all: memory had no room for them, so they were computed each time.
    assert later.prediction_id == refined.prediction_id.removesuffix("~int8")
    seen = [embedding.tensors["maps"].dtype for embedding in backend.decoded_with]
    assert seen == [np.float32, np.float32, np.float32, np.float32, np.float16]


async def test_in_int8_it_goes_for_good_and_is_not_rounded_again() -> None:
    backend = LargeBackend()
    async with serving(backend, memory=small()) as predictor:
        rounding(predictor)
        await send(predictor, FILES[0])
        await crowd_out(predictor)
        assert INT8 in predictor.store.memory
        await crowd_out(predictor, [image_bytes(seed) for seed in range(20, 60)])
        assert INT8 not in predictor.store.memory
        encodes = backend.encodes
        answer = await mask(predictor, FIRST)
        assert predictor.store.memory.bytes <= predictor.store.memory.budget
    assert (answer.outcome, answer.is_int8, backend.encodes) == (Outcome.RECOMPUTED, False, encodes + 1)


@pytest.mark.parametrize("why", ["off", "another model", "a tier below"])
async def test_nothing_is_rounded_unless_it_was_asked_for_and_memory_is_the_last_tier(why: str) -> None:
    backend = LargeBackend()
    lower: list[Any] = [DictStore()] if why == "a tier below" else []
    async with serving(backend, *lower, memory=small()) as predictor:
        predictor.store.int8.models.update({"off": [], "another model": ["other"], "a tier below": ["toy"]}[why])
        await send(predictor, FILES[0])
        await crowd_out(predictor)
        assert predictor.store.memory.stats().entries_by_kind[Kind.EMBEDDING_INT8] == 0
        answer = await mask(predictor, FIRST, click(5, 5))
    assert not answer.is_int8
    assert backend.seen == "full"


async def test_everything_is_made_of_the_full_embedding() -> None:
    backend = LargeBackend()
    async with serving(backend, memory=small()) as predictor:
        rounding(predictor)
        await send(predictor, FILES[0])
        await crowd_out(predictor)
        grid = Everything(predictor, jobs=FairQueue("grids", 1, 4), workers=1)
        await grid.ask(TENANT, FIRST, EverythingOptions(2, 0.0, 0.0))
    assert backend.seen == "full"


async def test_while_it_is_being_rounded_it_is_at_hand_in_full_unless_it_is_purged() -> None:
    backend = LargeBackend()
    async with serving(backend, memory=small()) as predictor:
        rounding(predictor)
        await send(predictor, FILES[0])
        held = asyncio.Event()
        run = predictor.store.int8._pool.run

        async def slowly(*given: Any, **more: Any) -> Any:
            await held.wait()
            return await run(*given, **more)

        predictor.store.int8._pool.run = slowly  # type: ignore[method-assign]
        for file in FILES[1:10]:
            await send(predictor, file)
        await until(lambda: EMBEDDING in predictor.store.int8.pending)
        assert not (await mask(predictor, FIRST, click(5, 5))).is_int8
        await predictor.purge(TENANT, image_id=FIRST)
        assert predictor.store.peek(EMBEDDING) is None
        held.set()
        await until(lambda: not predictor.store.int8._pending_bytes)
        assert INT8 not in predictor.store.memory
