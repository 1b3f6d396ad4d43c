"""What an engine server answers: one place, for our own server and for the handlers inside TorchServe."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, cast

import numpy as np

from labeling_ground.errors import BackendFailed, BadInput, BadPrompt, ForeignTensors
from labeling_ground.inference.backend import FLOOR_SCORE
from labeling_ground.inference.concepts import ConceptEngine
from labeling_ground.inference.graphs import Engine, FloatArray, decode_all, encode_all
from labeling_ground.inference.remote import concept_wire, envelope, wire
from labeling_ground.inference.remote.concept_wire import OfTrunk, Text, Wanted
from labeling_ground.inference.remote.embedding_store import EmbeddingStore
from labeling_ground.types import Embedding, ModelVersion

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, before it is HTTP.

    Attributes:
        status: 200, or that of an error.
        body: safetensors, or a problem.
        media_type: of the body.
        headers: more of them.
    """

    status: int
    body: bytes
    media_type: str = wire.MEDIA_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


class InferenceHandler:
    """One engine, or one half of one, and what it was asked to keep.

    Args:
        engine: what computes; a ``ConceptEngine`` where the model finds concepts. Of an encoder only ``encode`` and
            ``trunk`` are called, of a decoder only the others.
        description: what it serves.
        kept: embeddings of the clicks before; ``None`` for an encoder.
    """

    def __init__(self, engine: Engine, description: wire.Description, kept: EmbeddingStore | None) -> None:
        self.description = description
        self._engine = engine
        self._kept = kept
        self._lock = threading.Lock()
        self._decoding = 0

    def answer(self, body: bytes) -> Reply:
        """The answer to one request; see ``answer_all``."""
        return self.answer_all([body])[0]

    def answer_all(self, bodies: Sequence[bytes]) -> list[Reply]:
        """The answers to requests, each of one ask or of several; what they ask is computed together.

        Blocks while the engine computes; several threads may ask at once. Raises nothing: each ask has its own answer,
        and one that is bad spoils no other.
        """
        asked: list[list[bytes]] = []
        replies: list[Reply | None] = []
        for body in bodies:
            bad = None
            inner = [body]
            if envelope.read_head(body).ask == "several":
                try:
                    inner = envelope.read_several(body)
                except BadInput as error:
                    inner, bad = [], _problem(400, "The asks cannot be read", str(error))
            asked.append(inner)
            replies.append(bad)
        flat = iter(self._answers([one for inner in asked for one in inner]))
        for number, inner in enumerate(asked):
            own = [next(flat) for _ in inner]
            if inner == [bodies[number]]:
                replies[number] = own[0]
            elif inner:
                replies[number] = Reply(200, envelope.write_replies([(one.status, one.body) for one in own]))
        return [reply for reply in replies if reply is not None]

    def _answers(self, bodies: Sequence[bytes]) -> list[Reply]:
        """The answers to single asks, computed together."""
        replies: dict[int, Reply] = {}
        encodes: dict[int, wire.Encode] = {}
        texts: dict[int, Text] = {}
        of_images: dict[int, wire.Decode | OfTrunk] = {}
        for number, body in enumerate(bodies):
            try:
                ask = concept_wire.read_ask(body, self.description.family)
                if isinstance(ask, wire.Describe):
                    replies[number] = Reply(200, wire.write_description(self.description))
                elif ask.version != self.description.version:
                    replies[number] = self._other_model(ask.version)
                elif isinstance(ask, wire.Encode):
                    self._check_role(wire.EngineRole.ENCODER, "This engine is a decoder: it encodes no images.")
                    encodes[number] = ask
                else:
                    self._check_role(wire.EngineRole.DECODER, "This engine is an encoder: it decodes no prompts.")
                    if isinstance(ask, Text):
                        texts[number] = ask
                    else:
                        of_images[number] = ask
            except BadInput as error:
                replies[number] = _problem(400, "The ask cannot be read", str(error))
        for is_trunk in (False, True):
            some = {number: ask for number, ask in encodes.items() if ask.is_trunk is is_trunk}
            replies |= self._computed(some, self._encode)
        replies |= self._computed(texts, self._texts)
        replies |= self._of_images(of_images)
        return [replies[number] for number in range(len(bodies))]

    def _of_images(self, asks: Mapping[int, wire.Decode | OfTrunk]) -> dict[int, Reply]:
        """The answers to what is asked of embeddings and trunks. One that an ask brings is there for all of them, also
        if it is not kept."""
        replies: dict[int, Reply] = {}
        found: dict[str, tuple[Mapping[str, FloatArray], bool]] = {}
        for ask in asks.values():
            if ask.embedding is not None and ask.key not in found:
                embedding = {name: np.ascontiguousarray(x, np.float32) for name, x in ask.embedding.items()}
                found[ask.key] = embedding, self._kept is not None and self._kept.put(ask.key, embedding)
        decodes: dict[int, tuple[wire.Decode, Mapping[str, FloatArray], bool]] = {}
        derived: dict[int, tuple[OfTrunk, Mapping[str, FloatArray], bool]] = {}
        for number, ask in asks.items():
            if ask.key not in found and self._kept is not None and (kept := self._kept.get(ask.key)) is not None:
                found[ask.key] = kept, True
            if ask.key in found and isinstance(ask, OfTrunk):
                derived[number] = ask, *found[ask.key]
            elif ask.key in found:
                decodes[number] = ask, *found[ask.key]  # type: ignore[assignment]
            else:
                sentence = "This engine does not have the embedding (any more): send its tensors along."
                replies[number] = _problem(424, "The embedding is missing", sentence, missing="embedding")
        return replies | self._computed(decodes, self._decode) | self._computed(derived, self._derive)

    def _computed(self, asks: Mapping[int, T], work: Callable[[Sequence[T]], list[Reply]]) -> dict[int, Reply]:
        """What ``work`` replies to the asks, by number: to all at once, or to each where that fails."""
        try:
            return dict(zip(asks, work(list(asks.values())), strict=True)) if asks else {}
        except Exception as error:
            if len(asks) > 1:
                return {number: self._computed({number: ask}, work)[number] for number, ask in asks.items()}
            if isinstance(error, BadPrompt):
                return dict.fromkeys(asks, _problem(422, "The phrase cannot be read", str(error), unreadable="phrase"))
            if isinstance(error, ForeignTensors):
                return dict.fromkeys(asks, _problem(400, "The ask cannot be read", str(error)))
            log.exception("the engine failed")
            first = str(error).strip().splitlines() or [type(error).__name__]
            return dict.fromkeys(asks, _problem(500, "The engine failed", first[0][:500]))

    def _encode(self, asks: Sequence[wire.Encode]) -> list[Reply]:
        started = time.perf_counter()
        if asks[0].is_trunk:
            made = [{"trunk": self._concepts.trunk(ask.pixels)} for ask in asks]
        else:
            made = encode_all(self._engine, [ask.pixels for ask in asks])
        share_s = (time.perf_counter() - started) / len(asks)
        return [
            Reply(200, wire.write_encoded(ask.version, wire.Encoded(tensors, share_s)))
            for ask, tensors in zip(asks, made, strict=True)
        ]

    @property
    def _concepts(self) -> ConceptEngine:
        return cast("ConceptEngine", self._engine)  # no other engine serves a family that finds them

    def _texts(self, asks: Sequence[Text]) -> list[Reply]:
        def text(ask: Text) -> Mapping[str, FloatArray]:
            return {"text": self._concepts.text(ask.phrase)}

        return [self._timed(ask.version, partial(text, ask)) for ask in asks]

    def _derive(self, asks: Sequence[tuple[OfTrunk, Mapping[str, FloatArray], bool]]) -> list[Reply]:
        replies = []
        for ask, tensors, kept in asks:
            trunk = Embedding(tensors, ask.height, ask.width, digest=ask.key)
            replies.append(self._timed(ask.version, partial(self._of_trunk, ask, trunk), kept=kept))
        return replies

    def _of_trunk(self, ask: OfTrunk, trunk: Embedding) -> Mapping[str, FloatArray]:
        if ask.wanted is Wanted.EMBED:
            return self._concepts.embed(trunk)
        if ask.wanted is Wanted.EXEMPLARS:
            return {"exemplars": self._concepts.exemplars(trunk, ask.exemplars)}
        found = self._concepts.detect(trunk, ask.text, ask.shown, least=FLOOR_SCORE)
        return {"scores": found.scores, "boxes": found.boxes, "logits": found.logits}

    @staticmethod
    def _timed(version: ModelVersion, make: Callable[[], Mapping[str, FloatArray]], *, kept: bool = False) -> Reply:
        started = time.perf_counter()
        made = make()
        if not all(np.isfinite(tensor).all() for tensor in made.values()):
            raise BackendFailed("The engine gave values that are no numbers.")
        return Reply(200, wire.write_encoded(version, wire.Encoded(made, time.perf_counter() - started, kept)))

    def _decode(self, asks: Sequence[tuple[wire.Decode, Mapping[str, FloatArray], bool]]) -> list[Reply]:
        with self._lock:
            self._decoding += 1
            alone = self._decoding == 1
        started = time.perf_counter()
        try:
            made = decode_all(self._engine, [(embedding, ask.prompt) for ask, embedding, _ in asks], alone=alone)
        finally:
            with self._lock:
                self._decoding -= 1
        share_s = (time.perf_counter() - started) / len(asks)
        replies = []
        for (ask, _, kept), (logits, scores) in zip(asks, made, strict=True):
            if not (np.isfinite(logits).all() and np.isfinite(scores).all()):
                raise BackendFailed("The decoder gave values that are no numbers.")
            if len(scores) == wire.MOST_CANDIDATES:
                indices = chosen(ask, scores)
                logits, scores = logits[indices], scores[indices]
            replies.append(Reply(200, wire.write_decoded(ask.version, wire.Decoded(logits, scores, share_s, kept))))
        return replies

    def _check_role(self, role: wire.EngineRole, sentence: str) -> None:
        if self.description.role is not role:
            raise BadInput(sentence)

    def _other_model(self, asked: ModelVersion) -> Reply:
        return _problem(
            409,
            "Another model is served",
            f"This engine serves {self.description.version}, and {asked} was asked.",
            model_version=wire.version_text(self.description.version),
        )


def chosen(ask: wire.Decode, scores: FloatArray) -> list[int]:
    """Those of the four masks that the asker has a use for."""
    wanted = list(ask.candidates or range(len(scores)))
    return [max(wanted, key=lambda i: scores[i])] if ask.best else wanted


def _problem(status: int, title: str, detail: str, **more: str) -> Reply:
    return Reply(status, wire.write_problem(status, title, detail, **more), wire.PROBLEM_TYPE)
