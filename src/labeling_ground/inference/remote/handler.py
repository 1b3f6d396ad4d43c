"""What an engine server answers: one place, for our own server and for the handlers inside TorchServe."""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from labeling_ground.errors import BackendFailed, BadInput
from labeling_ground.inference.graphs import Engine, FloatArray
from labeling_ground.inference.remote import wire
from labeling_ground.inference.remote.embedding_store import EmbeddingStore

log = logging.getLogger(__name__)


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
        """Answer one ask. Blocks while the engine computes; several threads may ask at once. Raises nothing."""
        try:
            ask = wire.read_ask(body, self.description.family)
            if isinstance(ask, wire.Describe):
                return Reply(200, wire.write_description(self.description))
            if ask.version != self.description.version:
                return _problem(
                    409,
                    "Another model is served",
                    f"This engine serves {self.description.version}, and {ask.version} was asked.",
                    model_version=wire.version_text(self.description.version),
                )
            return self._encode(ask) if isinstance(ask, wire.Encode) else self._decode(ask)
        except BadInput as error:
            return _problem(400, "The ask cannot be read", str(error))
        except Exception as error:
            log.exception("the engine failed")
            first = str(error).strip().splitlines() or [type(error).__name__]
            return _problem(500, "The engine failed", first[0][:500])

    def _encode(self, ask: wire.Encode) -> Reply:
        if self.description.role is not wire.Role.ENCODER:
            raise BadInput("This engine is a decoder: it encodes no images.")
        started = time.perf_counter()
        tensors = self._engine.encode(ask.pixels)
        seconds = time.perf_counter() - started
        return Reply(200, wire.write_encoded(ask.version, wire.Encoded(tensors, seconds)))

    def _decode(self, ask: wire.Decode) -> Reply:
        if self.description.role is not wire.Role.DECODER:
            raise BadInput("This engine is an encoder: it decodes no prompts.")
        kept = False
        if ask.embedding is not None:
            embedding = {name: np.ascontiguousarray(x, np.float32) for name, x in ask.embedding.items()}
            kept = self._kept is not None and self._kept.put(ask.key, embedding)
        else:
            found = self._kept.get(ask.key) if self._kept is not None else None
            if found is None:
                sentence = "This engine does not have the embedding (any more): send its tensors along."
                return _problem(424, "The embedding is missing", sentence, missing="embedding")
            embedding, kept = found, True
        started = time.perf_counter()
        logits, scores = self._run(embedding, ask)
        seconds = time.perf_counter() - started
        if not (np.isfinite(logits).all() and np.isfinite(scores).all()):
            raise BackendFailed("The decoder gave values that are no numbers.")
        if len(scores) == wire.MOST_CANDIDATES:
            indices = chosen(ask, scores)
            logits, scores = logits[indices], scores[indices]
        return Reply(200, wire.write_decoded(ask.version, wire.Decoded(logits, scores, seconds, kept)))

    def _run(self, embedding: Mapping[str, FloatArray], ask: wire.Decode) -> tuple[FloatArray, FloatArray]:
        with self._lock:
            self._decoding += 1
            alone = self._decoding == 1
        try:
            return self._engine.decode(embedding, ask.prompt, alone=alone)
        finally:
            with self._lock:
                self._decoding -= 1


def chosen(ask: wire.Decode, scores: FloatArray) -> list[int]:
    """Those of the four masks that the asker has a use for."""
    wanted = list(ask.candidates or range(len(scores)))
    return [max(wanted, key=lambda i: scores[i])] if ask.best else wanted


def _problem(status: int, title: str, detail: str, **more: str) -> Reply:
    return Reply(status, wire.write_problem(status, title, detail, **more), wire.PROBLEM_TYPE)
