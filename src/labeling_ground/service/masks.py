"""Masks for prompts: settled, looked up or decoded, and refined."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from labeling_ground import key as keys
from labeling_ground.cache.rules import LONGEST_CHAIN
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.codec import records
from labeling_ground.errors import BadPrompt, UnknownPrediction, UnreachablePrediction
from labeling_ground.pools import Pools
from labeling_ground.sam.geometry import Frame
from labeling_ground.sam.prompts import low_res_logits
from labeling_ground.service.asks import (
    Ask,
    GivenMask,
    MaskAnswer,
    OpenedPredictions,
    PromptAsk,
    Timing,
    check_point,
    fit,
)
from labeling_ground.service.batching import Place
from labeling_ground.service.counters import Accesses
from labeling_ground.service.images import Embeddings, outcome_after
from labeling_ground.service.int8 import EmbeddingsInInt8
from labeling_ground.service.models import ServedModel
from labeling_ground.service.once import Attempt, Made, Once
from labeling_ground.supervisor import Background
from labeling_ground.types import Kind, Outcome, Prompt


class _Settled(NamedTuple):
    """A prompt in canonical form, its digest and key, and what it refines: a prediction (and which candidate), or a
    mask that was given."""

    prompt: Prompt
    digest: str
    key: str
    parent: tuple[str, int] | None = None
    given: GivenMask | None = None

    @property
    def is_int8(self) -> bool:
        """Whether it is to be made of the embedding in int8."""
        return self.digest.endswith(keys.INT8)

    def in_int8(self) -> "_Settled":
        """The same, to be made of the embedding in int8."""
        return self._replace(digest=self.digest + keys.INT8, key=self.key + keys.INT8)


def _logits_of(given: GivenMask, frame: Callable[[int, int], Frame]) -> NDArray[np.float32]:
    mask = given.pixels()
    return low_res_logits(mask, frame(*mask.shape))


_Waiting = Callable[[], Awaitable[MaskAnswer]]
Answers = list[MaskAnswer] | Callable[[], Coroutine[Any, Any, list[MaskAnswer]]]
"""Answers that are in memory, or an awaitable of them."""


class Masks:
    """Answers prompts on known images.

    Args:
        once: computes what is not there.
        model: decodes.
        embeddings: of the images.
        int8: the same in int8.
        store: the tiers.
        pools: threads for blocking work.
        accesses: where asks are noted.
        background: runs what goes on after an answer.
        window_s: shortest wait of a queued prediction for its look-up.
        answers_bytes: what opened predictions, and the texts of their answers, may take of the memory.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        once: Once,
        model: ServedModel,
        embeddings: Embeddings,
        int8: EmbeddingsInInt8,
        store: TieredStore,
        pools: Pools,
        accesses: Accesses,
        background: Background,
        *,
        window_s: float,
        answers_bytes: int,
        wall_clock: Callable[[], float],
    ) -> None:
        self._opened = OpenedPredictions(answers_bytes)
        self._once = once
        self._model = model
        self._embeddings = embeddings
        self._int8 = int8
        self._store = store
        self._pools = pools
        self._accesses = accesses
        self._background = background
        self._window_s = window_s
        self._wall_clock = wall_clock

    def answers(self, ask: Ask, prompts: Sequence[PromptAsk]) -> Answers:
        """Masks for each prompt, in their order: at once where all are in memory, else an awaitable of them.

        Raises, at once or when that is awaited:
            BadPrompt: a prompt makes no sense for this image.
            UnknownImage: send it again.
            UnknownPrediction: a mask input refers to a prediction that is not stored.
            Overloaded, BackendFailed: the model does not do it now.
        """
        begun: list[MaskAnswer | _Waiting] = []
        is_waiting = False
        for sent in prompts:
            started = time.perf_counter()
            own, settled, made = sent.settled(), None, None
            if own is not None:
                settled = _Settled(*own, ask.masks + own[1])
                made = self._once.at_hand(Kind.MASK, settled.key)
            if settled is None or made is None:
                is_waiting = True
                begun.append(partial(self._answer, ask, sent, settled, started))
            else:
                begun.append(self._answered(ask, sent, settled, made, started))
        return partial(self._wait, begun) if is_waiting else cast("list[MaskAnswer]", begun)

    @staticmethod
    async def _wait(begun: Sequence[MaskAnswer | _Waiting]) -> list[MaskAnswer]:
        if len(begun) == 1 and not isinstance(begun[0], MaskAnswer):
            return [await begun[0]()]

        async def one(answer: MaskAnswer | _Waiting) -> MaskAnswer:
            return answer if isinstance(answer, MaskAnswer) else await answer()

        tasks = [asyncio.ensure_future(one(answer)) for answer in begun]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, ask: Ask, sent: PromptAsk, settled: _Settled | None, started: float) -> MaskAnswer:
        if settled is None:
            settled = await self._settle(ask, sent)
        if self._int8.is_all(ask) and self._store.peek(settled.key) is None:
            settled = settled.in_int8()
        made = await self._once.get(
            Kind.MASK, settled.key, partial(self._make, ask, settled), window_s=lambda: self._window_s
        )
        return self._answered(ask, sent, settled, made, started)

    def _answered(self, ask: Ask, sent: PromptAsk, settled: _Settled, made: Made, started: float) -> MaskAnswer:
        if made.outcome is Outcome.HIT:
            # the image's next click shall need no encoder
            self._store.use(ask.image, ask.embedding_int8 if settled.is_int8 else ask.embedding)
        self._accesses.note(Kind.MASK, ask, settled.key, made, parent=settled.parent)
        opened = self._opened.open(settled.key, made.entry)
        width, height = opened.prediction.width, opened.prediction.height
        if settled.given is not None:
            settled.given.check_size(width, height)
        for point in sent.points:  # as they were sent: the edge itself is outside, and shares its key with what is not
            check_point(point, width, height)
        timing = made.timing.within(time.perf_counter() - started)
        return MaskAnswer(opened, settled.digest, made.outcome, ask.version, timing, ask.model_note)

    async def _make(self, ask: Ask, settled: _Settled, attempt: Attempt) -> Made:
        await attempt.wait()
        attempt.start()
        return await self._decode(ask, settled, attempt)

    async def _decode(self, ask: Ask, settled: _Settled, attempt: Attempt) -> Made:
        """What the attempt is at: the masks, while their logits are sealed and stored behind the answer; or the logits,
        sealed: the store need not have room for them."""
        if settled.is_int8:
            embedded, embedding = await self._int8.open(ask)
        else:
            embedded = await self._embeddings.get(ask)
            embedding = records.open_embedding(embedded.entry, ask.embedding)
        fitted = fit(settled.prompt, embedding.width, embedding.height)
        if settled.given is not None:
            settled.given.check_size(embedding.width, embedding.height)

        async def predict(place: Place) -> Made:
            computed = await self._model.decode(place, ask.version, embedding, fitted)
            prediction, cost = computed.value, computed.seconds
            place.free()
            mask_key, logits_key = settled.key, ask.logits(settled.digest)
            facts = {"cost": cost, "created": self._wall_clock()}
            source = embedded.source_purge_count

            layers = [mask.logits for mask in prediction.masks]

            async def seal_logits(_: object) -> Made:
                entry = await self._pools.values.run(partial(records.seal_logits, logits_key, layers, **facts))
                attempt.store(entry, key=logits_key, source_purge_count=source)
                return Made(entry, outcome_after(embedded))

            seal = partial(records.seal_prediction, mask_key, prediction, settled.prompt, settled.parent, **facts)
            entry = await self._pools.values.run(seal)
            is_stored = attempt.store(entry, key=mask_key, source_purge_count=source)
            if attempt.key == logits_key:
                return await seal_logits(None)
            if is_stored:
                # Who asks first has a thread first, so no more logits wait to be sealed than there are clicks.
                self._background.start(self._once.flights.join(logits_key, seal_logits))
            timing = Timing(encode=embedded.timing.encode, decode=cost)
            return Made(entry, outcome_after(embedded), timing, records.logits_bytes(logits_key, layers, **facts))

        async with self._model.decode_queue.slot(ask.keys.tenant) as place:
            attempt.commit()
            return await place.call(partial(predict, place))

    async def _settle(self, ask: Ask, sent: PromptAsk, depth: int = 0) -> _Settled:
        """The prompt in its canonical form, with the logits that it refers to, or that its mask comes to.

        Raises:
            BadPrompt: it makes no sense.
            UnknownPrediction: it refers to what is not stored.
        """
        given, parent = None, None
        if isinstance(sent.mask_input, tuple):
            parent = sent.mask_input
            logits: NDArray[np.float32] | None = await self._logits(ask, *parent, depth)
        elif isinstance(sent.mask_input, GivenMask):
            given = sent.mask_input
            frame = self._model.backend.info.frame
            logits = await self._pools.values.run(partial(_logits_of, given, frame))
        else:
            logits = sent.mask_input
        prompt = keys.canonical(sent.points, sent.box, logits, multimask=sent.multimask)
        digest = keys.prompt_digest(prompt)
        return _Settled(prompt, digest, ask.mask(digest), parent, given)

    async def _logits(self, ask: Ask, prediction_id: str, index: int, depth: int) -> NDArray[np.float32]:
        """Low-res logits of an earlier prediction, computed again from its own prompt where they were evicted."""
        key = ask.logits(prediction_id)
        entry = self._store.peek(key)
        if entry is None and (made := await self._once.flights.follow(key)) is not None:  # they are being sealed
            entry = made.entry
        if entry is None:
            asked = await self._asked(ask, prediction_id, depth)
            if isinstance(asked, records.CachedDetections):
                return await self._logits_of_instance(asked, prediction_id, index)
            settled = await self._settle(ask, asked, depth + 1)
            settled = _Settled(settled.prompt, prediction_id, ask.mask(prediction_id), settled.parent)
            decode_again = partial(self._decode, ask, settled)
            entry = (await self._once.get(Kind.MASK, key, decode_again, hedged=False)).entry
        candidates = records.open_logits(entry, key)
        if not 0 <= index < len(candidates):
            raise BadPrompt(f"Prediction {prediction_id} has {len(candidates)} candidates; {index} is not one of them.")
        return np.asarray(candidates[index], np.float32)

    async def _logits_of_instance(
        self, found: records.CachedDetections, detections_id: str, index: int
    ) -> NDArray[np.float32]:
        """The mask of one instance of a concept, as low-res logits."""
        if not 0 <= index < len(found.instances):
            many = len(found.instances)
            raise BadPrompt(f"Of {detections_id} there are {many} instances; {index}, counted from 0, is not one.")
        given = GivenMask(found.width, found.height, found.instances[index].mask.counts)
        return await self._pools.values.run(partial(_logits_of, given, self._model.backend.info.frame))

    async def _asked(self, ask: Ask, prediction_id: str, depth: int) -> PromptAsk | records.CachedDetections:
        """What an earlier prediction was asked with; or what was found of a concept, where the id names that.

        Raises:
            UnreachablePrediction: the tier that would have it does not answer.
            UnknownPrediction: that is not known any more, or it cannot be asked again.
        """
        key, of_concept = ask.mask(prediction_id), ask.detections(prediction_id)
        unreachable = UnreachablePrediction(prediction_id)
        stored, found = self._store.peek(key), self._store.peek(of_concept)
        if stored is None and found is None:
            stored = await self._store.look_up(key, unreachable=unreachable)
        if stored is None and found is None:
            found = await self._store.look_up(of_concept, unreachable=unreachable)
        if stored is None and found is not None:
            return await self._pools.values.run(records.open_detections, found, of_concept)
        if stored is None:
            raise UnknownPrediction(
                f"The prediction {prediction_id} is not kept any more. Ask for its prompt again, then refer to it."
            )
        origin = records.open_prediction(stored, key).origin
        if depth == LONGEST_CHAIN:
            raise UnknownPrediction(
                f"The logits of prediction {prediction_id} and of the {LONGEST_CHAIN} that refine it are not kept "
                "any more. Ask for the prompt without a mask_input."
            )
        if not origin.repeatable:
            raise UnknownPrediction(
                f"The logits of prediction {prediction_id} are not kept any more, and its own mask input came by "
                "value. Send the mask input by value again."
            )
        return PromptAsk(origin.points, origin.box, origin.parent, origin.multimask)
