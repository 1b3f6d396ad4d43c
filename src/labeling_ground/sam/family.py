"""The families of models, as far as their numbers differ."""

from enum import StrEnum

from labeling_ground.sam.geometry import Frame, longest_side, stretched


class Family(StrEnum):
    """Which conventions a model follows. The value stands in the metadata of exported files."""

    SAM = "sam"
    """SAM ViT-B, L and H, and MobileSAM, which differs from them in its encoder only."""
    SAM2 = "sam2"
    """SAM 2 and 2.1."""

    def frame(self, height: int, width: int) -> Frame:
        """The square over an image of this many rows and columns."""
        return longest_side(height, width) if self is Family.SAM else stretched(height, width)

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """Names of the tensors that make up an embedding, as exported encoders give and decoders take them.

        SAM: ``[1, 256, 64, 64]``. SAM 2 adds ``[1, 32, 256, 256]`` and ``[1, 64, 128, 128]``.
        """
        if self is Family.SAM:
            return ("image_embeddings",)
        return ("image_embeddings", "high_res_features_0", "high_res_features_1")
