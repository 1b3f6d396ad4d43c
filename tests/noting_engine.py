"""An engine that notes its calls in a file, for tests of servers of several processes; and what they compare with."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.doubles import TENANT, ToyBackend, click, send, serving

from labeling_ground.types import Embedding, Image, Prediction

ENCODE_S = 1.0
MOST_S = 60.0
"""So late may something happen there; who waits for another server in vain waits for twice as long."""
ENCODED_AT = "LABELING_GROUND_TEST_ENCODES"
HELD_WHILE = "LABELING_GROUND_TEST_HELD_WHILE"


class NotingBackend(ToyBackend):
    """Takes its time, and longer while there is a file that says so; and notes each call in another, so that calls of
    processes that were killed are counted too."""

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        self._note("encode")
        await self._held()
        return await super().encode(images)

    async def decode(self, asks: Any) -> list[Prediction]:
        self._note("decode")
        await self._held()
        return await super().decode(asks)

    async def _held(self) -> None:
        while _is_held():  # noqa: ASYNC110 -- another process ends it
            await asyncio.sleep(0.01)

    def _note(self, what: str) -> None:
        with Path(os.environ[ENCODED_AT]).open("a", encoding="ascii") as file:
            file.write(f"{what} {os.getpid()}\n")


def _is_held() -> bool:
    return Path(os.environ[HELD_WHILE]).exists()


def create(*, encode_threads: int, decode_threads: int) -> ToyBackend:
    """What the servers here run."""
    del encode_threads, decode_threads
    return NotingBackend(encode_s=ENCODE_S, decode_s=ENCODE_S / 5)


async def undisturbed(file: bytes) -> list[str]:
    """The right masks for the click, computed in one process with nothing around it."""
    async with serving(ToyBackend()) as alone:
        image_id = await send(alone, file)
        [answer] = await alone.masks(TENANT, image_id, [click()])
    return [counts_of(found.counts) for found in answer.prediction.masks]


def masks_of(answer: dict[str, Any]) -> list[str]:
    return [counts_of(found["rle"]["counts"]) for found in answer["masks"]]


def counts_of(counts: str | bytes) -> str:
    return counts if isinstance(counts, str) else counts.decode()
