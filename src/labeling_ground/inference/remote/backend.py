"""A Segment Anything model whose two halves are computed in other processes, behind the same port as any other."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from labeling_ground.errors import BackendFailed, BadSettings, LabelingGroundError
from labeling_ground.inference.backend import DecodeAsk
from labeling_ground.inference.graphs import check_tensors, info_of
from labeling_ground.inference.remote import wire
from labeling_ground.inference.remote.client import Answer, EngineClient
from labeling_ground.inference.remote_status import EngineFigures
from labeling_ground.inference.sketch import Sketch
from labeling_ground.pools import Pool
from labeling_ground.sam import everything
from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import Frame
from labeling_ground.sam.masks import needed, prediction
from labeling_ground.sam.preprocess import resize
from labeling_ground.sam.prompts import tensors
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Embedding, EverythingOptions, Image, ModelVersion, Prediction, Prompt

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_KNOWN = 10_000
"""So many embeddings are remembered as sent; one that is forgotten is sent once more."""
_FLOATS = (np.float16, np.float32)
_SKETCHED = ((1, 2, 3), False)
"""The candidates that «segment everything» looks at."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One embedding in one call, under the model that the call began with."""

    version: ModelVersion
    family: Family
    embedding: Embedding
    key: str

    @property
    def frame(self) -> Frame:
        return self.family.frame(self.embedding.height, self.embedding.width)


class RemoteBackend:
    """A ``Backend`` whose engines answer the protocol of ``docs/decisions/0006-remote-engines.md``.

    Resizing, prompts, the choice of candidates and painting happen here, as for an engine in this process.

    ``info`` changes when both engines have come to serve another model. A call works with the version that stood
    when it was made, all engines are told which that is, and none answers for another: so what a caller computes under
    the version that it has read just before the call belongs to that version.

    Args:
        encoder: the encoder. Its description is known, and agrees with the decoder's.
        decoder: the decoder, likewise.
        model: the model's id if another one must not be served, else empty.
        encode_workers: images that the encoder takes at the same time, where it does not tell.
        decode_workers: the same for prompts and the decoder.
        poll_s: seconds between two looks at the engines.
        reset_s: the same while one does not answer.
        supervisor: of these looks.
    """

    def __init__(
        self,
        encoder: EngineClient,
        decoder: EngineClient,
        *,
        model: str = "",
        encode_workers: int,
        decode_workers: int,
        poll_s: float,
        reset_s: float,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self._encoder, self._decoder = encoder, decoder
        self._model = model
        self._poll_s, self._reset_s = poll_s, reset_s
        serving = agreed(encoder.description, decoder.description, model)
        encodes = encoder.workers or encode_workers
        # One more than there are workers: none of them waits while an answer travels.
        decodes = (decoder.workers or decode_workers) + 1
        self.info = info_of(
            serving.family, serving.version, serving.note, encodes_at_once=encodes, decodes_at_once=decodes
        )
        self._family = serving.family
        self._disagreement = ""
        self._places = asyncio.Semaphore(decodes)
        cores = os.cpu_count() or 1
        # What is done here for an image takes longer than what is done for a click, and must not hold that up.
        self._encoding = Pool("encoder-asks", min(cores, encodes))
        self._decoding = Pool("decoder-asks", min(cores, decodes))
        self._known: OrderedDict[str, None] = OrderedDict()
        self._sending: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._keeps = True
        self._watch: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def family(self) -> Family:
        """What kind of model is served there."""
        return self._family

    @property
    def usual(self) -> EverythingOptions:
        """The family's own defaults."""
        return everything.USUAL[self._family]

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """One embedding for each image, in their order, each an ask of its own.

        Raises:
            BackendFailed: the encoder is away, too slow, serves another model by now, or answers nonsense.
            Overloaded: it has too much to do.
        """
        version, family = self.info.version, self._family  # before anything is awaited: see the class
        self._start_watching()
        return await _all([self._encode(version, family, image) for image in images])

    async def _encode(self, version: ModelVersion, family: Family, image: Image) -> Embedding:
        ask = await self._encoding.run(_encode_ask, version, family, image)
        started = time.perf_counter()
        answer = await self._ask(self._encoder, ask)
        with self._encoder.reading():
            encoded = await self._encoding.run(wire.read_encoded, answer.body, version, family)
        self._encoder.took(encoded.seconds, time.perf_counter() - started)
        return Embedding(encoded.tensors, image.height, image.width)

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        """One prediction for each embedding and prompt, in their order, each an ask of its own.

        Raises:
            BadPrompt: a prompt is empty.
            BackendFailed: the decoder is away, too slow, serves another model by now, or answers nonsense; or an
                embedding is not one of this model's.
            Overloaded: it has too much to do.
        """

        def paint(asked: _Asked, prompt: Prompt, decoded: wire.Decoded) -> Prediction:
            return prediction(decoded.logits, decoded.scores, prompt, asked.frame, asked.family)

        family = self._family
        return await self._each(asks, lambda prompt: needed(prompt, family), paint)

    async def sketch(self, asks: Sequence[DecodeAsk]) -> list[list[Sketch]]:
        """What the decoder says to each prompt, not painted yet; see ``Sketcher``.

        Raises:
            BackendFailed, Overloaded: as in ``decode``.
        """

        def note(asked: _Asked, _: Prompt, decoded: wire.Decoded) -> list[Sketch]:
            return [*everything.sketches(decoded.logits, decoded.scores, asked.frame, asked.family)]

        return await self._each(asks, lambda _: _SKETCHED, note)

    def failing(self) -> Mapping[str, str]:
        """What keeps which part from working, as sentences; empty if all is well."""
        found = {client.half: client.trouble for client in (self._encoder, self._decoder) if client.trouble}
        return {**found, **({"model": self._disagreement} if self._disagreement else {})}

    def engines(self) -> Sequence[EngineFigures]:
        """The engines as last seen."""
        return [self._encoder.figures, self._decoder.figures]

    async def aclose(self) -> None:
        """Close the connections."""
        for task in (self._watch, self._refreshing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        self._encoding.close()
        self._decoding.close()
        try:
            await self._encoder.aclose()
        finally:
            await self._decoder.aclose()

    # --- asks --------------------------------------------------------------------------------------------------------

    async def _each(
        self,
        asks: Sequence[DecodeAsk],
        wanted: Callable[[Prompt], tuple[tuple[int, ...], bool]],
        finish: Callable[[_Asked, Prompt, wire.Decoded], T],
    ) -> list[T]:
        version, family = self.info.version, self._family  # before anything is awaited: see the class
        self._start_watching()
        embeddings = {id(embedding): embedding for embedding, _ in asks}
        for embedding in embeddings.values():
            check_tensors(embedding, family.embedding_names)
        asked = {name: await self._asked(version, family, embedding) for name, embedding in embeddings.items()}
        return await _all(
            [self._one(asked[id(embedding)], prompt, wanted(prompt), finish) for embedding, prompt in asks]
        )

    async def _asked(self, version: ModelVersion, family: Family, embedding: Embedding) -> _Asked:
        key = _key(version, embedding) if embedding.digest else await self._decoding.run(_key, version, embedding)
        return _Asked(version, family, embedding, key)

    async def _one(
        self,
        asked: _Asked,
        prompt: Prompt,
        wanted: tuple[tuple[int, ...], bool],
        finish: Callable[[_Asked, Prompt, wire.Decoded], T],
    ) -> T:
        candidates, best = wanted
        ask = wire.Decode(
            asked.version,
            asked.key,
            tensors(prompt, asked.frame, asked.family),
            candidates=candidates,
            best=best,
        )
        async with self._places:
            started = time.perf_counter()
            answer = await self._decoded(ask, asked)
            seconds = time.perf_counter() - started

        def read() -> tuple[wire.Decoded, T]:
            decoded = wire.read_decoded(answer.body, asked.version)
            return decoded, finish(asked, prompt, decoded)

        with self._decoder.reading():
            decoded, made = await self._decoding.run(read)
        self._keeps = decoded.kept
        if not decoded.kept:
            self._known.pop(asked.key, None)
        self._decoder.took(decoded.seconds, seconds)
        return made

    async def _decoded(self, ask: wire.Decode, asked: _Asked) -> Answer:
        """The decoder's answer. The embedding goes along only where the decoder does not have it."""
        if asked.key in self._known:
            answer = await self._ask(self._decoder, wire.write_ask(ask))
            if answer.status == 200:
                if asked.key in self._known:  # another prompt may have been told meanwhile that it was dropped
                    self._known.move_to_end(asked.key)
                return answer
            self._known.pop(asked.key, None)  # it was dropped, or the decoder was started anew
        if not self._keeps:
            return await self._with_tensors(ask, asked)
        lock = self._sending.setdefault(asked.key, asyncio.Lock())
        async with lock:  # of many prompts on a new image, one brings it
            if asked.key not in self._known:
                return await self._with_tensors(ask, asked)
        answer = await self._ask(self._decoder, wire.write_ask(ask))
        return answer if answer.status == 200 else await self._with_tensors(ask, asked)

    async def _with_tensors(self, ask: wire.Decode, asked: _Asked) -> Answer:
        body = await self._decoding.run(_decode_ask, ask, asked.embedding, asked.family)
        answer = await self._ask(self._decoder, body)
        if answer.status != 200:
            raise self._decoder.failed("it asks for an embedding that it was sent")
        self._known[asked.key] = None
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return answer

    async def _ask(self, client: EngineClient, body: bytes) -> Answer:
        answer = await client.ask(body)
        if answer.status == 409:
            await self._refresh()
            raise BackendFailed("The engines have changed to another model. Try again in a moment.")
        return answer

    # --- what the engines serve --------------------------------------------------------------------------------------

    def _start_watching(self) -> None:
        if self._watch is None:
            self._watch = asyncio.create_task(self._supervisor.persist("look at engines", self._watching))

    async def _watching(self) -> None:
        """See from time to time how the engines are, and whether one that was left alone is back."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(min(self._reset_s, self._poll_s))
            if not self.failing() and time.monotonic() - looked < self._poll_s:
                continue
            looked = time.monotonic()
            await self._refresh()
            await asyncio.gather(self._encoder.look(), self._decoder.look())

    async def _refresh(self) -> None:
        """Ask both engines what they serve; whoever comes while that is under way waits for it."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._describe_both())
            self._supervisor.watch("describe engines", self._refreshing)
        await asyncio.wait({self._refreshing})

    async def _describe_both(self) -> None:
        clients = [client for client in (self._encoder, self._decoder) if not client.owes_an_answer]
        await asyncio.gather(*(_quietly(client.describe()) for client in clients))
        try:
            serving = agreed(self._encoder.description, self._decoder.description, self._model)
        except BadSettings as error:
            if self._disagreement != str(error):
                log.error("%s", error)
            self._disagreement = str(error)
            return
        self._disagreement = ""
        if serving.version != self.info.version:
            log.warning("the engines serve %s now; it was %s", serving.version, self.info.version)
        at_once = {"encodes_at_once": self.info.encodes_at_once, "decodes_at_once": self.info.decodes_at_once}
        # In one step, with nothing awaited in between.
        self._family, self.info = serving.family, info_of(serving.family, serving.version, serving.note, **at_once)


def connect(encoder: EngineClient, decoder: EngineClient, *, model: str, wait_s: float) -> None:
    """Wait until both engines serve the same model, and know what it is then.

    Blocking: it has an event loop of its own, so it may be called in a thread that has one and in one that has none.

    Args:
        encoder: the encoder.
        decoder: the decoder.
        model: the model's id if it must be that one, else empty.
        wait_s: for how long, in seconds.

    Raises:
        BadSettings: they do not, after that time.
    """

    async def greet() -> None:
        until = time.monotonic() + wait_s
        while True:
            try:
                await asyncio.gather(encoder.describe(), decoder.describe())
                agreed(encoder.description, decoder.description, model)
                await asyncio.gather(encoder.look(), decoder.look())
            except LabelingGroundError as error:
                if time.monotonic() >= until:
                    where = " and ".join(f"{each.address.name} at {each.address}" for each in (encoder, decoder))
                    raise BadSettings(f"The engines {where} are not ready after {wait_s:g} s. {error}") from error
                await asyncio.sleep(0.5)
            else:
                return
            finally:
                await asyncio.gather(encoder.aclose(), decoder.aclose())

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, greet()).result()


def agreed(encoder: wire.Description | None, decoder: wire.Description | None, model: str) -> wire.Description:
    """What both engines serve: the decoder's description, with the notes of both.

    Raises:
        BadSettings: they serve different models, not the one that is wanted, or not the halves that they should.
    """
    if encoder is None or decoder is None:
        raise BadSettings("The engines have not said yet what they serve.")
    if encoder.role is not wire.Role.ENCODER or decoder.role is not wire.Role.DECODER:
        raise BadSettings(
            f"The engine that should encode says it is the {encoder.role}, and the one that should decode says it is "
            f"the {decoder.role}."
        )
    if encoder.version != decoder.version or encoder.family is not decoder.family:
        raise BadSettings(
            f"The encoder serves {encoder.version} and the decoder {decoder.version}: they must be halves of one model."
        )
    if model and encoder.version.model != model:
        raise BadSettings(f"The engines serve {encoder.version.model}, and the setting 'model' wants {model}.")
    note = " ".join(dict.fromkeys(said for said in (encoder.note, decoder.note) if said))
    return dataclasses.replace(decoder, note=note)


def _encode_ask(version: ModelVersion, family: Family, image: Image) -> bytes:
    return wire.write_ask(wire.Encode(version, resize(image.pixels, family)))


def _decode_ask(ask: wire.Decode, embedding: Embedding, family: Family) -> bytes:
    floats = {name: embedding.tensors[name] for name in family.embedding_names}
    sent = {name: x if x.dtype in _FLOATS else x.astype(np.float32) for name, x in floats.items()}
    return wire.write_ask(dataclasses.replace(ask, embedding=sent))


def _key(version: ModelVersion, embedding: Embedding) -> str:
    """Equal for equal embeddings of the same model."""
    hasher = hashlib.sha256(wire.version_text(version).encode())
    if embedding.digest:
        hasher.update(b" " + embedding.digest.encode())
        return hasher.hexdigest()
    for name, tensor in sorted(embedding.tensors.items()):
        hasher.update(json.dumps([name, tensor.dtype.str, tensor.shape]).encode())
        hasher.update(np.ascontiguousarray(tensor).data)
    return hasher.hexdigest()


async def _all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; one failure calls the others off."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _quietly(work: Coroutine[Any, Any, object]) -> None:
    with contextlib.suppress(LabelingGroundError):
        await work
