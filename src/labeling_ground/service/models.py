"""A model that is served: its backend, the queues in front of both halves, and whether these answer."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import Backend
from labeling_ground.service.asks import Ask, bind
from labeling_ground.service.engine_health import EngineHealth
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import Embedding, Image, ModelVersion, Prediction, Prompt


class ServedModel:
    """Encodes images and decodes prompts by the model version that an ask is bound to, and by no other.

    Args:
        backend: the model.
        encode_lane: queue in front of the encoder.
        decode_lane: queue in front of the decoder.
        health: counts the model's failures.
    """

    def __init__(self, backend: Backend, encode_lane: FairQueue, decode_lane: FairQueue, health: EngineHealth) -> None:
        self.backend = backend
        self.encode_lane = encode_lane
        self.decode_lane = decode_lane
        self.health = health
        encode_lane.on_late = partial(health.late, "encoder")
        decode_lane.on_late = partial(health.late, "decoder")

    def bind(self, tenant: str, image_id: str) -> Ask:
        """A request on one image, to be answered by the model version that is served now."""
        return bind(tenant, image_id, self.backend.info.version, self.backend.info.note)

    def check(self, version: ModelVersion) -> None:
        """See that the backend still serves what a key was made for; one in another process may change its model.

        To be called right before the backend, with nothing awaited in between: a call keeps to the version that it
        begins with.

        Raises:
            BackendFailed: it serves another one by now.
        """
        if self.backend.info.version != version:
            raise BackendFailed("The model was changed in the middle of this request. Try again in a moment.")

    async def encode(self, version: ModelVersion, image: Image) -> Embedding:
        """The image's embedding by this version, checked. The caller has a place in the encoder's queue.

        Raises:
            BackendFailed: the model serves another version by now, did not answer, or its answer is none.
        """
        self.check(version)
        with self.health.call("encoder"):
            embeddings = await self.backend.encode([image])
            return _check_embedding(embeddings, image.width, image.height)

    async def decode(self, version: ModelVersion, embedding: Embedding, prompt: Prompt) -> Prediction:
        """The prediction for one prompt by this version, checked. The caller has a place in the decoder's queue.

        Raises:
            BackendFailed: the model serves another version by now, did not answer, or its answer is none.
        """
        self.check(version)
        async with self.decode_lane.timed():
            with self.health.call("decoder"):
                predictions = await self.backend.decode([(embedding, prompt)])
                return _check_prediction(predictions, embedding.width, embedding.height)


def _check_embedding(embeddings: Sequence[Embedding], width: int, height: int) -> Embedding:
    if len(embeddings) != 1:
        raise BackendFailed("The encoder did not answer each image.")
    [embedding] = embeddings
    if (embedding.width, embedding.height) != (width, height) or not embedding.tensors:
        raise BackendFailed("The encoder's answer does not belong to this image.")
    for name, tensor in embedding.tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            raise BackendFailed(f"The encoder's answer holds values that are no numbers ({name}).")
    return embedding


def _check_prediction(predictions: Sequence[Prediction], width: int, height: int) -> Prediction:
    if len(predictions) != 1 or not predictions[0].masks:
        raise BackendFailed("The decoder gave no mask.")
    for mask in predictions[0].masks:
        if mask.pixels.shape != (height, width) or mask.logits.shape != (256, 256) or mask.pixels.dtype != np.bool_:
            raise BackendFailed("The decoder's mask does not have the image's size, or is none.")
        if not (math.isfinite(mask.score) and np.isfinite(mask.logits).all()):
            raise BackendFailed("The decoder's answer holds values that are no numbers.")
    return predictions[0]
