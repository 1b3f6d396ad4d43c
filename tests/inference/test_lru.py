"""Embeddings at hand between clicks."""

import threading
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.inference.toy_engine import VERSION, ToyEngine

from labeling_ground.inference.lru import Lru
from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.prompts import PromptTensors
from labeling_ground.types import Embedding, Point, Prompt


def test_what_is_held_is_made_once_and_the_least_recently_used_makes_room() -> None:
    held: Lru[str] = Lru(30)
    made: list[str] = []

    def get(digest: str, size: int = 10) -> str:
        def make() -> tuple[str, int]:
            made.append(digest)
            return f"value of {digest}", size

        return held.get(digest, make)

    assert [get(name) for name in "abcaba"] == [f"value of {name}" for name in "abcaba"]
    assert made == ["a", "b", "c"]
    get("d")  # c was used longest ago
    assert (len(held), held.bytes) == (3, 30)
    get("a"), get("b")
    assert made == ["a", "b", "c", "d"]
    get("c")
    assert made[-1] == "c"
    assert held.bytes == 30


def test_without_a_digest_and_beyond_the_budget_nothing_is_held() -> None:
    held: Lru[str] = Lru(30)
    assert held.get("", lambda: ("unknown", 10)) == "unknown"
    assert held.get("large", lambda: ("large", 31)) == "large"
    assert (len(held), held.bytes) == (0, 0)


def test_many_threads_keep_to_the_budget() -> None:
    held: Lru[str] = Lru(100)

    def work(offset: int) -> None:
        for i in range(300):
            digest = str((i * 7 + offset) % 23)
            assert held.get(digest, lambda digest=digest: (digest, 10)) == digest  # type: ignore[misc]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held.bytes == 10 * len(held) == 100


class Noting(ToyEngine):
    """Notes which floats it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[NDArray[np.float32]] = []

    def decode(
        self, embedding: Mapping[str, NDArray[np.float32]], prompt: PromptTensors, *, alone: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.given.append(embedding["image_embeddings"])
        return super().decode(embedding, prompt, alone=alone)


@pytest.mark.anyio
@pytest.mark.parametrize(("images", "same"), [(2, True), (1, False), (0, False)])
async def test_floats_are_kept_between_clicks_in_as_many_bytes_as_the_operator_allows(images: int, same: bool) -> None:
    """Clicks on two images in turns."""
    engine = Noting()
    made = np.zeros((1, 256, 64, 64), np.float16)
    backend = SamBackend(engine, VERSION, "", decode_threads=1, floats_bytes=images * 2 * made.nbytes)
    for digest in "abab":
        await backend.decode([(Embedding({"image_embeddings": made}, 48, 64, digest), Prompt((Point(9.0, 9.0, 1),)))])
    assert (engine.given[2] is engine.given[0]) is same
    assert (engine.given[3] is engine.given[1]) is same
    await backend.aclose()
