"""Asks on their way to one engine: several in one request where it takes them, each embedding and each trunk once."""

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np

from labeling_ground.inference.remote import concept_wire, envelope, wire
from labeling_ground.inference.remote.client import Answer, EngineClient, OtherModel, RetryBudget
from labeling_ground.inference.remote.pool import rendezvous
from labeling_ground.pools import Pool
from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import LOW_RES, Frame
from labeling_ground.types import Embedding, Priority

_FLOATS = (np.float16, np.float32)
_HEAD_BYTES = 1 << 14
"""More than the head of a request of several asks has."""
DECODED_BYTES = wire.MOST_CANDIDATES * LOW_RES * LOW_RES * 4 + _HEAD_BYTES
"""What the answer to one decode has at most."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One embedding, or one trunk, in one call."""

    family: Family
    embedding: Embedding
    key: str

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors that an engine needs."""
        return tuple(self.family.trunk_shapes if "trunk" in self.embedding.tensors else self.family.embedding_shapes)

    @property
    def frame(self) -> Frame:
        """How the model's square lies over the image."""
        return self.family.frame(self.embedding.height, self.embedding.width)


def takes(client: EngineClient) -> int:
    """How many asks an engine takes in one request."""
    return 1 if client.description is None else client.description.together


def carries(client: EngineClient, answer_bytes: int) -> int:
    """The same, where each answer has up to so many bytes: an answer, too, has a bound."""
    return max(1, min(takes(client), client.limits.most_bytes // answer_bytes))


def together(clients: Iterable[EngineClient]) -> int:
    """How many asks each of several engines takes in one request."""
    return min(map(takes, clients), default=1)


def home(clients: Iterable[EngineClient], key: str) -> str:
    """The address of the engine that asks of this key go to while all are well; empty if there is none."""
    return next(iter(rendezvous(key, (client.address.url for client in clients))), "")


async def ask_all(
    client: EngineClient, attempt: RetryBudget, bodies: Sequence[bytes], priority: Priority
) -> list[Answer]:
    """The answers to asks that travel in one request, in their order.

    Raises:
        OtherModel: the engine serves another model.
        BackendFailed, Overloaded: as ``EngineClient.ask``; also where the engine refuses one of several.
    """
    if len(bodies) == 1:
        return [await client.ask(bodies[0], attempt)]
    if sum(map(len, bodies)) + _HEAD_BYTES > client.limits.most_bytes:
        half = len(bodies) // 2
        first = await ask_all(client, attempt, bodies[:half], priority)
        return first + await ask_all(client, attempt, bodies[half:], priority)
    answer = await client.ask(envelope.write_several(bodies, priority), attempt)
    with client.reading():
        replies = envelope.read_replies(answer.body, len(bodies))
    answers = [client.judge(*reply) for reply in replies]
    if any(each.status == 409 for each in answers):
        raise OtherModel
    return answers


OfImage = wire.Decode | concept_wire.OfTrunk
"""What is asked of an embedding, or of a trunk."""


async def ask_of_images(
    client: EngineClient,
    attempt: RetryBudget,
    asks: Sequence[tuple[OfImage, Asked]],
    priority: Priority,
    pool: Pool,
) -> list[Answer]:
    """A decoder's answers, of as many asks as it takes together. Embeddings go along only where it has them not.

    Raises:
        OtherModel, BackendFailed, Overloaded: as ``ask_all``.
    """
    sent = client.sent
    missing = {asked.key for _, asked in asks if asked.key not in sent}
    async with AsyncExitStack() as sending:
        if missing and sent.keeps:
            for key in sorted(missing):  # of many prompts on a new image, one brings it
                await sending.enter_async_context(sent.lock(key))
            missing = {key for key in missing if key not in sent}
            if not missing:
                await sending.aclose()
        answers = await _send(client, attempt, asks, missing, priority, pool)
    # Dropped meanwhile, or the decoder was started anew.
    lost = [number for number, answer in enumerate(answers) if answer.status != 200]
    if any(asks[number][1].key in missing for number in lost):
        raise client.failed("it asks for an embedding that it was sent")
    if lost:
        some = [asks[number] for number in lost]
        again = await _send(client, attempt, some, {asked.key for _, asked in some}, priority, pool)
        if any(answer.status != 200 for answer in again):
            raise client.failed("it asks for an embedding that it was sent")
        for number, answer in zip(lost, again, strict=True):
            answers[number] = answer
    return answers


async def _send(
    client: EngineClient,
    attempt: RetryBudget,
    asks: Sequence[tuple[OfImage, Asked]],
    bring: set[str],
    priority: Priority,
    pool: Pool,
) -> list[Answer]:
    """Send the asks, each embedding of ``bring`` with the first ask about it; note what the decoder has after that."""
    bodies = []
    left = set(bring)
    for ask, asked in asks:
        if asked.key in left:
            left.discard(asked.key)
            client.sent.times += 1
            bodies.append(await pool.run(_with_tensors, ask, asked, priority))
        else:
            bodies.append(concept_wire.write_ask(ask, priority))
    answers = await ask_all(client, attempt, bodies, priority)
    for (_, asked), answer in zip(asks, answers, strict=True):
        if answer.status != 200:
            client.sent.discard(asked.key)
        elif asked.key in bring:
            client.sent.add(asked.key)
        else:
            client.sent.used(asked.key)
    return answers


def _with_tensors(ask: OfImage, asked: Asked, priority: Priority) -> bytes:
    floats = {name: asked.embedding.tensors[name] for name in asked.names}
    sent = {name: x if x.dtype in _FLOATS else x.astype(np.float32) for name, x in floats.items()}
    return concept_wire.write_ask(dataclasses.replace(ask, embedding=sent), priority)
