"""The families of models, as far as their numbers differ."""

import math
from enum import StrEnum

from labeling_ground.sam.geometry import Frame, longest_side, stretched


class Family(StrEnum):
    """Which conventions a model follows. The value stands in the metadata of exported files."""

    SAM = "sam"
    """SAM ViT-B, L and H, and MobileSAM, which differs from them in its encoder only."""
    SAM2 = "sam2"
    """SAM 2 and 2.1."""
    EFFICIENT_SAM = "efficient-sam"
    """EfficientSAM Ti and S."""

    def frame(self, height: int, width: int) -> Frame:
        """The square over an image of this many rows and columns."""
        return longest_side(height, width) if self is Family.SAM else stretched(height, width)

    @property
    def takes_mask_input(self) -> bool:
        """Whether a prompt may hold an earlier prediction's low-res logits."""
        return self is not Family.EFFICIENT_SAM

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What a prompt may hold, as ``ModelInfo`` says it."""
        return ("points", "box", "mask") if self.takes_mask_input else ("points", "box")

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the tensors that make up an embedding, as exported encoders give and decoders take them."""
        shapes: dict[str, tuple[int, ...]] = {"image_embeddings": (1, 256, 64, 64)}
        if self is Family.SAM2:
            shapes |= {"high_res_features_0": (1, 32, 256, 256), "high_res_features_1": (1, 64, 128, 128)}
        return shapes

    def embedding_bytes(self, floats: int) -> int:
        """Bytes of an embedding whose floats take so many bytes each."""
        return floats * sum(math.prod(shape) for shape in self.embedding_shapes.values())

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """The names alone, in the order in which encoders give the tensors."""
        return tuple(self.embedding_shapes)
