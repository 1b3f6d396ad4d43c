"""Which model answered, to the last bit."""

from dataclasses import dataclass

MODEL_VERSION = r"^([a-z0-9][a-z0-9.-]{0,63})@([0-9a-f]{16,128})$"
"""A model id and a whole digest. Keys have the digest's first 16 digits: of another text these would tell nothing."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Identity of a model: part of every key, so that a prediction of another version is never served.

    Attributes:
        model: the model id, a short name of the catalogue such as ``sam-vit-h``; see ``MODEL_VERSION``.
        digest: hex digest over the weight files (or the algorithm), the preprocessing version and the precision.
    """

    model: str
    digest: str

    def __str__(self) -> str:
        """``model@digest``: what ``model_version`` is in answers and in keys."""
        return f"{self.model}@{self.digest[:16]}"
