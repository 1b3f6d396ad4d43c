"""The port behind which every engine stands."""

from collections.abc import Sequence
from typing import Protocol

from labeling_ground.types import Embedding, Image, ModelVersion, Prediction, Prompt


class Backend(Protocol):
    """One model, served by one engine.

    Both calls may run at any time and side by side, must not block the event loop, and depend on their arguments
    only: an embedding is a value, never a state that the engine keeps. They raise ``BackendFailed`` (or an
    ``Overloaded`` from a remote engine), never return half a result, and treat cancellation as «no longer wanted».
    """

    version: ModelVersion
    note: str
    """A sentence for every answer where the model's quality needs one; empty for a real SAM."""

    async def encode(self, image: Image) -> Embedding:
        """The costly half: depends on the image only."""
        ...

    async def decode(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
        """The cheap half: one prediction a prompt, in the prompts' order.

        The embedding may come out of the cache, where its floats were kept in half precision.
        """
        ...

    async def aclose(self) -> None:
        """Give threads, devices and connections back."""
        ...


def takes_mask_input(backend: Backend) -> bool:
    """Whether prompts may hold an earlier prediction's low-res logits; engines that say nothing of it take them."""
    return bool(getattr(backend, "takes_mask_input", True))
