"""The families of models, as far as their numbers differ."""

import math
from enum import StrEnum

from labeling_ground.sam.geometry import SIDE, Frame, longest_side, stretched


class Family(StrEnum):
    """Which conventions a model follows. The value stands in the metadata of exported files."""

    SAM = "sam"
    """SAM ViT-B, L and H, and MobileSAM, which differs from them in its encoder only."""
    SAM_HQ = "sam-hq"
    """SAM-HQ ViT-B, L and H: SAM with one token more, which makes outlines finer."""
    SAM2 = "sam2"
    """SAM 2 and 2.1, and EdgeTAM, which differs from them in its encoder only."""
    EFFICIENT_TAM = "efficient-tam"
    """EfficientTAM Ti and S: SAM 2's rules, without its finer features."""
    EFFICIENT_SAM = "efficient-sam"
    """EfficientSAM Ti and S."""
    SAM3 = "sam3"
    """SAM 3. Its clicks follow SAM 2's rules, on a square and low-res logits of other sizes."""

    @property
    def side(self) -> int:
        """Rows and columns of the square that the encoder reads, in pixels."""
        return 1008 if self is Family.SAM3 else SIDE

    def frame(self, height: int, width: int) -> Frame:
        """The square over an image of this many rows and columns."""
        return (longest_side if self.reads_as_sam else stretched)(height, width, self.side)

    @property
    def reads_as_sam(self) -> bool:
        """Whether images and prompts are written, and masks upsampled, by the first SAM's rules."""
        return self in (Family.SAM, Family.SAM_HQ)

    @property
    def decides_as_sam2(self) -> bool:
        """Whether prompts are written, and one of a decoder's candidates is chosen, by SAM 2's rules."""
        return self in (Family.SAM2, Family.EFFICIENT_TAM, Family.SAM3)

    @property
    def takes_mask_input(self) -> bool:
        """Whether a prompt may hold an earlier prediction's low-res logits."""
        return self is not Family.EFFICIENT_SAM

    @property
    def finds_concepts(self) -> bool:
        """Whether all instances of a phrase, or of what exemplars show, are found too."""
        return self is Family.SAM3

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What a prompt may hold, as ``ModelInfo`` says it."""
        prompts = ("points", "box", "mask") if self.takes_mask_input else ("points", "box")
        return (*prompts, "text", "exemplars") if self.finds_concepts else prompts

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the tensors that make up an embedding, as exported encoders give and decoders take them."""
        grid = 72 if self is Family.SAM3 else 64
        shapes: dict[str, tuple[int, ...]] = {"image_embeddings": (1, 256, grid, grid)}
        if self in (Family.SAM2, Family.SAM3):
            shapes["high_res_features_0"] = (1, 32, 4 * grid, 4 * grid)
            shapes["high_res_features_1"] = (1, 64, 2 * grid, 2 * grid)
        if self is Family.SAM_HQ:
            shapes["hq_features"] = (1, 32, 4 * grid, 4 * grid)
        return shapes

    @property
    def trunk_shapes(self) -> dict[str, tuple[int, ...]]:
        """The same of a trunk; empty where a family has none."""
        return {"trunk": (1, 72 * 72, 1024)} if self.finds_concepts else {}

    def embedding_bytes(self, floats: int) -> int:
        """Bytes of an embedding whose floats take so many bytes each."""
        return floats * sum(math.prod(shape) for shape in self.embedding_shapes.values())

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """The names alone, in the order in which encoders give the tensors."""
        return tuple(self.embedding_shapes)
