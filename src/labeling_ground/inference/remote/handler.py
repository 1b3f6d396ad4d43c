"""What an engine server answers: one place, for our own server and for the handlers inside TorchServe."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from labeling_ground.errors import BackendFailed, BadInput
from labeling_ground.inference.graphs import Engine, FloatArray, decode_all, encode_all
from labeling_ground.inference.remote import envelope, wire
from labeling_ground.inference.remote.embedding_store import EmbeddingStore
from labeling_ground.types import ModelVersion

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
        engine: what computes. Of an encoder only ``encode`` is called, of a decoder only ``decode``.
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
        decodes: dict[int, wire.Decode] = {}
        for number, body in enumerate(bodies):
            try:
                ask = wire.read_ask(body, self.description.family)
                if isinstance(ask, wire.Describe):
                    replies[number] = Reply(200, wire.write_description(self.description))
                elif ask.version != self.description.version:
                    replies[number] = self._other_model(ask.version)
                elif isinstance(ask, wire.Encode):
                    self._check_role(wire.Role.ENCODER, "This engine is a decoder: it encodes no images.")
                    encodes[number] = ask
                else:
                    self._check_role(wire.Role.DECODER, "This engine is an encoder: it decodes no prompts.")
                    decodes[number] = ask
            except BadInput as error:
                replies[number] = _problem(400, "The ask cannot be read", str(error))
        replies |= self._computed(encodes, self._encode) | self._decoded(decodes)
        return [replies[number] for number in range(len(bodies))]

    def _decoded(self, asks: Mapping[int, wire.Decode]) -> dict[int, Reply]:
        """The answers to decodes. An embedding that one of them brings is there for all of them, also if it is not
        kept."""
        replies: dict[int, Reply] = {}
        found: dict[str, tuple[Mapping[str, FloatArray], bool]] = {}
        for ask in asks.values():
            if ask.embedding is not None and ask.key not in found:
                embedding = {name: np.ascontiguousarray(x, np.float32) for name, x in ask.embedding.items()}
                found[ask.key] = embedding, self._kept is not None and self._kept.put(ask.key, embedding)
        ready: dict[int, tuple[wire.Decode, Mapping[str, FloatArray], bool]] = {}
        for number, ask in asks.items():
            if ask.key not in found and self._kept is not None and (kept := self._kept.get(ask.key)) is not None:
                found[ask.key] = kept, True
            if ask.key in found:
                ready[number] = ask, *found[ask.key]
            else:
                sentence = "This engine does not have the embedding (any more): send its tensors along."
                replies[number] = _problem(424, "The embedding is missing", sentence, missing="embedding")
        return replies | self._computed(ready, self._decode)

    def _computed(self, asks: Mapping[int, T], work: Callable[[Sequence[T]], list[Reply]]) -> dict[int, Reply]:
        """What ``work`` replies to the asks, by number: to all at once, or to each where that fails."""
        try:
            return dict(zip(asks, work(list(asks.values())), strict=True)) if asks else {}
        except Exception as error:
            if len(asks) > 1:
                return {number: self._computed({number: ask}, work)[number] for number, ask in asks.items()}
            log.exception("the engine failed")
            first = str(error).strip().splitlines() or [type(error).__name__]
            return dict.fromkeys(asks, _problem(500, "The engine failed", first[0][:500]))

    def _encode(self, asks: Sequence[wire.Encode]) -> list[Reply]:
        started = time.perf_counter()
        made = encode_all(self._engine, [ask.pixels for ask in asks])
        share_s = (time.perf_counter() - started) / len(asks)
        return [
            Reply(200, wire.write_encoded(ask.version, wire.Encoded(tensors, share_s)))
            for ask, tensors in zip(asks, made, strict=True)
        ]

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

    def _check_role(self, role: wire.Role, sentence: str) -> None:
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
