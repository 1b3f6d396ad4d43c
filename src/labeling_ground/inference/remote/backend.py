"""A Segment Anything model whose two halves are computed in other processes, behind the same port as any other."""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from labeling_ground.errors import BackendFailed, BadSettings, LabelingGroundError
from labeling_ground.inference.backend import DecodeAsk, ModelInfo
from labeling_ground.inference.graphs import check_tensors
from labeling_ground.inference.remote import wire
from labeling_ground.inference.remote.client import Answer, EngineClient, OtherModel, RetryBudget
from labeling_ground.inference.remote.pool import EnginePool, Send, agreed
from labeling_ground.inference.remote.requests import (
    DECODED_BYTES,
    Asked,
    ask_all,
    ask_of_images,
    carries,
    home,
    together,
)
from labeling_ground.inference.remote.served import ServedThere
from labeling_ground.inference.remote_status import EngineCounts
from labeling_ground.inference.sketch import Sketch
from labeling_ground.pools import Pool
from labeling_ground.sam import everything
from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import needed, prediction
from labeling_ground.sam.preprocess import resize
from labeling_ground.sam.prompts import tensors
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Embedding, EverythingOptions, Image, ModelVersion, Prediction, Prompt
from labeling_ground.urgency import current_urgency

log = logging.getLogger(__name__)

T = TypeVar("T")

_SKETCHED = ((1, 2, 3), False)
"""The candidates that «segment everything» looks at."""


class RemoteBackend:
    """A ``Backend`` whose engines, one or several of each half, answer ``docs/decisions/0006-remote-engines.md``.

    Resizing, prompts, the choice of candidates and painting happen here, as for an engine in this process.

    ``info`` changes when the engines of both halves have come to serve another model (``agreed`` says when). A call
    works with the version that stood when it was made, all engines are told which that is, and none answers for
    another: so what a caller computes under the version that it has read just before the call belongs to that version.

    Args:
        encoders: those of one half. What they serve is known, and agrees with the decoders.
        decoders: those of the other.
        model: the model's id if another one must not be served, else empty.
        poll_s: seconds between two looks at the engines.
        reset_s: the same while one does not answer.
        resolve_s: seconds between two look-ups of names that lead to several engines.
        supervisor: of these looks.
    """

    def __init__(
        self,
        encoders: EnginePool,
        decoders: EnginePool,
        *,
        model: str = "",
        poll_s: float,
        reset_s: float,
        resolve_s: float = 5.0,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._encoders, self._decoders = encoders, decoders
        self._pools = (encoders, decoders)
        self._served = ServedThere(
            encoders,
            decoders,
            model=model,
            poll_s=poll_s,
            reset_s=reset_s,
            resolve_s=resolve_s,
            supervisor=supervisor or Supervisor(),
        )
        cores = os.cpu_count() or 1
        # What is done here for an image takes longer than what is done for a click, and must not hold that up.
        self._encoding = Pool("encoder-asks", cores)
        self._decoding = Pool("decoder-asks", cores)

    @property
    def info(self) -> ModelInfo:
        """What is served now, and how many asks its engines take at the same time, all together, and in one request."""
        return self._served.info

    @property
    def summary(self) -> str:
        """A sentence on where the model is computed."""
        many = [pool.workers(self._served.version) for pool in self._pools]
        return f"in other processes: {many[0]} encoder and {many[1]} decoder workers"

    @property
    def family(self) -> Family:
        """What kind of model is served there."""
        return self._served.family

    @property
    def usual(self) -> EverythingOptions:
        """The family's own defaults."""
        return everything.USUAL[self._served.family]

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """One embedding for each image, in their order, in requests of as many as the encoder takes.

        Raises:
            BackendFailed: the encoder is away, too slow, serves another model by now, or answers nonsense.
            Overloaded: it has too much to do.
        """
        return await self._of_files(images)

    async def _of_files(self, images: Sequence[Image], *, is_trunk: bool = False) -> list[Embedding]:
        version, family = self._served.version, self._served.family  # before anything is awaited: see the class
        self._served.watch()
        most = together(self._encoders.available(version))
        some = [images[start : start + most] for start in range(0, len(images), most)]
        return flat(await gathered([self._encode(version, family, each, is_trunk) for each in some]))

    async def _encode(
        self, version: ModelVersion, family: Family, images: Sequence[Image], is_trunk: bool
    ) -> list[Embedding]:
        priority = current_urgency().priority

        def write(image: Image) -> bytes:
            return wire.write_ask(wire.Encode(version, resize(image.pixels, family), is_trunk), priority)

        def read(answer: Answer) -> wire.Encoded:
            return wire.read_encoded(answer.body, version, family, is_trunk=is_trunk)

        bodies = await gathered([self._encoding.run(write, image) for image in images])

        async def send(client: EngineClient, attempt: RetryBudget) -> list[wire.Encoded]:
            most = carries(client, family.embedding_bytes(4) + 1024)
            return flat([await one(client, attempt, bodies[at : at + most]) for at in range(0, len(bodies), most)])

        async def one(client: EngineClient, attempt: RetryBudget, some: Sequence[bytes]) -> list[wire.Encoded]:
            started = time.perf_counter()
            answers = await ask_all(client, attempt, some, priority)
            with client.reading():
                made = [await self._encoding.run(read, answer) for answer in answers]
            client.took(sum(encoded.seconds for encoded in made), time.perf_counter() - started)
            return made

        encoded = await self._ask(self._encoders, version, "", send)
        return [Embedding(one.tensors, image.height, image.width) for one, image in zip(encoded, images, strict=True)]

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        """One prediction for each embedding and prompt, in their order, in requests of as many as a decoder takes.

        Raises:
            BadPrompt: a prompt is empty.
            BackendFailed: the decoder is away, too slow, serves another model by now, or answers nonsense; or an
                embedding is not one of this model's.
            Overloaded: it has too much to do.
        """

        def paint(asked: Asked, prompt: Prompt, decoded: wire.Decoded) -> Prediction:
            return prediction(decoded.logits, decoded.scores, prompt, asked.frame, asked.family)

        family = self._served.family
        return await self._each(asks, lambda prompt: needed(prompt, family), paint)

    async def sketch(self, asks: Sequence[DecodeAsk]) -> list[list[Sketch]]:
        """What the decoder says to each prompt, not painted yet; see ``Sketcher``.

        Raises:
            BackendFailed, Overloaded: as in ``decode``.
        """

        def note(asked: Asked, _: Prompt, decoded: wire.Decoded) -> list[Sketch]:
            return [*everything.sketches(decoded.logits, decoded.scores, asked.frame, asked.family)]

        return await self._each(asks, lambda _: _SKETCHED, note)

    def failing(self) -> Mapping[str, str]:
        """What keeps which part from working, as sentences; empty if all is well."""
        return self._served.failing()

    def left_out(self) -> Mapping[str, str]:
        """Why which engine of several is not asked now: sentences by the engine's half and address."""
        return self._served.left_out()

    def engines(self) -> Sequence[EngineCounts]:
        """The engines as last seen."""
        return [figures for pool in self._pools for figures in pool.figures(self._served.version)]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._served.aclose()
        self._encoding.close()
        self._decoding.close()
        await asyncio.gather(*(pool.aclose() for pool in self._pools))

    async def _each(
        self,
        asks: Sequence[DecodeAsk],
        wanted: Callable[[Prompt], tuple[tuple[int, ...], bool]],
        finish: Callable[[Asked, Prompt, wire.Decoded], T],
    ) -> list[T]:
        version, family = self._served.version, self._served.family  # before anything is awaited: see the class
        self._served.watch()
        embeddings = {id(embedding): embedding for embedding, _ in asks}
        for embedding in embeddings.values():
            check_tensors(embedding, family.embedding_names)
        asked = {name: await self._asked(version, family, embedding) for name, embedding in embeddings.items()}
        # What one decoder has the images of goes there together.
        decoders = self._decoders.available(version)
        groups: dict[str, list[int]] = {}
        for number, (embedding, _) in enumerate(asks):
            groups.setdefault(home(decoders, asked[id(embedding)].key), []).append(number)
        most = together(decoders)
        some = [group[at : at + most] for group in groups.values() for at in range(0, len(group), most)]

        async def one(numbers: Sequence[int]) -> list[tuple[int, T]]:
            given = [(asked[id(asks[number][0])], asks[number][1]) for number in numbers]
            return list(zip(numbers, await self._some(version, given, wanted, finish), strict=True))

        made = dict(flat(await gathered([one(numbers) for numbers in some])))
        return [made[number] for number in range(len(asks))]

    async def _asked(self, version: ModelVersion, family: Family, embedding: Embedding) -> Asked:
        key = (
            embedding_key(version, embedding)
            if embedding.digest
            else await self._decoding.run(embedding_key, version, embedding)
        )
        return Asked(family, embedding, key)

    async def _some(
        self,
        version: ModelVersion,
        given: Sequence[tuple[Asked, Prompt]],
        wanted: Callable[[Prompt], tuple[tuple[int, ...], bool]],
        finish: Callable[[Asked, Prompt, wire.Decoded], T],
    ) -> list[T]:
        """What comes of asks that go to one decoder in one request, if it takes them."""
        asks = []
        for asked, prompt in given:
            candidates, best = wanted(prompt)
            prompted = tensors(prompt, asked.frame, asked.family)
            asks.append((wire.Decode(version, asked.key, prompted, candidates=candidates, best=best), asked))
        priority = current_urgency().priority

        async def send(client: EngineClient, attempt: RetryBudget) -> list[T]:
            most = carries(client, DECODED_BYTES)
            return flat([await one(client, attempt, at, at + most) for at in range(0, len(asks), most)])

        async def one(client: EngineClient, attempt: RetryBudget, start: int, end: int) -> list[T]:
            started = time.perf_counter()
            answers = await ask_of_images(client, attempt, asks[start:end], priority, self._decoding)
            seconds = time.perf_counter() - started

            def read(answer: Answer, asked: Asked, prompt: Prompt) -> tuple[wire.Decoded, T]:
                decoded = wire.read_decoded(answer.body, version, asked.family)
                return decoded, finish(asked, prompt, decoded)

            with client.reading():
                made = await gathered(
                    [
                        self._decoding.run(read, answer, asked, prompt)
                        for answer, (asked, prompt) in zip(answers, given[start:end], strict=True)
                    ]
                )
            for (decoded, _), (asked, _) in zip(made, given[start:end], strict=True):
                client.sent.note(asked.key, kept=decoded.kept)
            client.took(sum(decoded.seconds for decoded, _ in made), seconds)
            return [one for _, one in made]

        async with self._decoders.place(version):
            return await self._ask(self._decoders, version, given[0][0].key, send)

    async def _ask(
        self, pool: EnginePool, version: ModelVersion, key: str, send: Send[T], deadline_s: float | None = None
    ) -> T:
        until = time.monotonic() + (deadline_s or pool.deadline_s)
        try:
            return await pool.ask(version, key, send, until)
        except OtherModel:
            await self._served.refresh()
            if not pool.available(version):
                raise
        return await pool.ask(version, key, send, until)


def connect(encoders: EnginePool, decoders: EnginePool, *, model: str, wait_s: float) -> wire.Description:
    """Wait until engines of both halves serve the same model; what that is.

    Blocking: it has an event loop of its own, so it may be called in a thread that has one and in one that has none.

    Args:
        encoders: those of one half.
        decoders: those of the other.
        model: the model's id if it must be that one, else empty.
        wait_s: for how long, in seconds.

    Raises:
        BadSettings: they do not, after that time.
    """
    pools = encoders, decoders

    async def greet() -> wire.Description:
        until = time.monotonic() + wait_s
        failures: list[LabelingGroundError] = []
        while True:
            try:
                await asyncio.gather(*(pool.resolve() for pool in pools))
                said = await asyncio.gather(*(pool.describe() for pool in pools))
                failures = [error for of_pool in said for error in of_pool]
                serving = agreed(encoders.members, decoders.members, model)
                if why := "".join(pool.trouble(serving.version) for pool in pools):
                    raise BackendFailed(why)
                await asyncio.gather(*(pool.look() for pool in pools))
            except LabelingGroundError as error:
                if time.monotonic() >= until:
                    where = " and ".join(str(pool.addresses) for pool in pools)
                    why = " ".join(dict.fromkeys(map(str, (error, *failures))))
                    raise BadSettings(f"The engines {where} are not ready after {wait_s:g} s. {why}") from error
                await asyncio.sleep(0.5)
            else:
                return serving
            finally:
                await asyncio.gather(*(pool.aclose() for pool in pools))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, greet()).result()


def embedding_key(version: ModelVersion, embedding: Embedding) -> str:
    """Equal for equal embeddings of the same model."""
    hasher = hashlib.sha256(wire.version_text(version).encode())
    if embedding.digest:
        hasher.update(b" " + embedding.digest.encode())
        return hasher.hexdigest()
    for name, tensor in sorted(embedding.tensors.items()):
        hasher.update(json.dumps([name, tensor.dtype.str, tensor.shape]).encode())
        hasher.update(np.ascontiguousarray(tensor).data)
    return hasher.hexdigest()


def flat(parts: Sequence[Sequence[T]]) -> list[T]:
    """All members, in their order."""
    return [one for part in parts for one in part]


async def gathered(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; one failure calls the others off."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
