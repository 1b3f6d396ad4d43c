"""SAM 2's image encoder as one graph from pixels to what a click needs, from the weights of a ``Sam2Model``.

It is the reference's computation (``sam2/modeling/backbones``, ``sam2_image_predictor.py``: ``set_image``) with what
does not depend on the image done beforehand:

- the positions, a bicubic enlargement of 7 or 14 squared to 256 squared, are a constant of the graph: left in it, they
  cost every engine time at each start;
- the two finest levels go through two convolutions of one pixel each with nothing in between; a product of matrices is
  a matrix, so they are one. ``Pyramid`` does so for EdgeTAM too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE_4 = 256
"""Rows and columns of the finest level."""


@dataclass(frozen=True, slots=True)
class Size:
    """What the shapes of the weights do not tell (``sam2/configs``).

    Attributes:
        name: as the authors' configurations have it.
        heads: attention heads in the first stage; they double with each stage.
        windows: sides of the attention windows, by stage.
        whole: the blocks that see the whole image.
    """

    name: str
    heads: int
    windows: tuple[int, int, int, int]
    whole: tuple[int, ...]


SIZES: Mapping[tuple[int, tuple[int, ...]], Size] = MappingProxyType(
    {
        (96, (1, 2, 7, 2)): Size("hiera_t", 1, (8, 4, 14, 7), (5, 7, 9)),
        (96, (1, 2, 11, 2)): Size("hiera_s", 1, (8, 4, 14, 7), (7, 10, 13)),
        (112, (2, 3, 16, 3)): Size("hiera_b+", 2, (8, 4, 14, 7), (12, 16, 20)),
        (144, (2, 6, 36, 4)): Size("hiera_l", 2, (8, 4, 16, 8), (23, 33, 43)),
    }
)
"""Width of the first stage and blocks of each stage, which the shapes of the weights tell → the rest."""


class Pyramid(nn.Module):
    """Four levels of a trunk to the three tensors of an embedding.

    Args:
        convolutions: one of one pixel for each level, the coarsest level's first.
        sam: a ``transformers.Sam2Model`` with the decoder's weights.
    """

    def __init__(self, convolutions: Sequence[nn.Conv2d], sam: Any) -> None:
        super().__init__()
        self.coarsest, self.coarse = convolutions[0], convolutions[1]
        with torch.no_grad():
            self.middle = _merged(convolutions[2], sam.mask_decoder.conv_s1)
            self.fine = _merged(convolutions[3], sam.mask_decoder.conv_s0)
            self.register_buffer("no_memory", sam.no_memory_embedding.detach().view(1, -1, 1, 1).clone())
        self.no_memory: Tensor

    def join(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The trunk's levels, 256² to 32² places, the finest first → ``[B, 256, 64, 64]``, ``[B, 32, 256, 256]`` and
        ``[B, 64, 128, 128]``."""
        fine, middle, coarse, coarsest = levels
        above = functional.interpolate(self.coarsest(coarsest), scale_factor=2.0, mode="nearest")
        return self.coarse(coarse) + above + self.no_memory, self.fine(fine), self.middle(middle)


class HieraEncoder(Pyramid):
    """Pixels to the three tensors of an embedding.

    Args:
        sam: a ``transformers.Sam2Model``.
    """

    def __init__(self, sam: Any) -> None:
        super().__init__(sam.vision_encoder.neck.convs, sam)
        backbone = sam.vision_encoder.backbone
        self.patches, self.blocks = backbone.patch_embed, backbone.blocks
        self.ends = frozenset(backbone.stage_ends)
        with torch.no_grad():
            self.register_buffer("positions", backbone._get_pos_embed((STRIDE_4, STRIDE_4)).clone())
        self.positions: Tensor

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode.

        Args:
            image: ``float32 [1, 3, 1024, 1024]``, normalised.

        Returns:
            ``[1, 256, 64, 64]``, ``[1, 32, 256, 256]`` and ``[1, 64, 128, 128]``.
        """
        places = self.patches(image) + self.positions
        levels = []
        for i, block in enumerate(self.blocks):
            places = block(places)
            if i in self.ends:
                levels.append(places.permute(0, 3, 1, 2))
        return self.join(levels)


def _merged(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Two convolutions of one pixel as one."""
    outer, inner = second.weight.flatten(1).double(), first.weight.flatten(1).double()
    both = nn.Conv2d(first.in_channels, second.out_channels, 1)
    both.weight.copy_((outer @ inner)[:, :, None, None])
    both.bias.copy_(outer @ first.bias.double() + second.bias)
    return both
