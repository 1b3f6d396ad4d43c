"""One request, bound to what it is about."""

from dataclasses import dataclass

from labeling_ground.key import ImageKeys
from labeling_ground.types import EverythingOptions, ModelVersion


@dataclass(frozen=True, slots=True)
class Ask:
    """A request's tenant and image, and the model version that answers it, bound once, at its beginning.

    The backend may change its model while a request is under way. All keys of the request come from here, and so does
    the version in its answer: an answer names the version that made it.

    Attributes:
        keys: tenant and image.
        version: the model version that was served when the request began.
        model_note: what to know of that model's answers; empty where there is nothing to say.
    """

    keys: ImageKeys
    version: ModelVersion
    model_note: str

    @property
    def embedding(self) -> str:
        """Key of the image's embedding."""
        return self.keys.embedding(self.version)

    def mask(self, prompt_digest: str) -> str:
        """Key of the masks and scores for one prompt."""
        return self.keys.mask(self.version, prompt_digest)

    def logits(self, prompt_digest: str) -> str:
        """Key of the low-res logits for one prompt."""
        return self.keys.logits(self.version, prompt_digest)

    def everything(self, options: EverythingOptions) -> str:
        """Key of all masks that a grid of points gives under these options."""
        return self.keys.everything(self.version, options)
