"""EfficientTAM's image encoder, for loading official checkpoints and exporting them.

Architecture: Xiong et al. 2024 (EfficientTAM), in the form that ``efficient_track_anything/modeling/backbones`` gives
it: a plain ViT (ViTDet, without relative positions) and SAM's neck. The modules bear the checkpoint's names, so that it
loads as it is but for two constants; only inference is here, and nothing that videos need.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from labeling_ground.networks.tinyvit import LayerNorm2d
from labeling_ground.networks.windows import in_windows

SIZES: Mapping[tuple[int, int], str] = MappingProxyType({(192, 12): "efficienttam_ti", (384, 12): "efficienttam_s"})
"""Width and blocks, which the shapes of the weights tell → the authors' name."""
GRID, PATCH = 64, 16
_HEAD, _WINDOW, _WHOLE_EVERY = 64, 14, 3
"""Width of a head, side of a window, and which blocks see the whole image: each third (``configs/efficienttam``)."""


class SelfAttention(nn.Module):
    """Attention among the places of a window, heads of 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // _HEAD
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[windows, places, width]``, same out."""
        windows, places, width = x.shape
        q, k, v = self.qkv(x).view(windows, places, 3, self.heads, _HEAD).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(windows, places, width))


class Mlp(nn.Module):
    """Widen to four times, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self.layers[1](functional.gelu(self.layers[0](x)))


class Block(nn.Module):
    """Attention in windows of this side, then an MLP."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = SelfAttention(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[images, height, width, channels]``, same out."""
        x = x + in_windows(self.norm1(x), self.side, self.attn)
        return x + self.mlp(self.norm2(x))


class EfficientTamEncoder(nn.Module):
    """Pixels to the one tensor of an embedding.

    Its weights are the checkpoint's ``image_encoder.*``, with ``positions`` (what ``enlarged`` makes of
    ``trunk.pos_embed``) and ``no_memory`` (``no_mem_embed``, which stands for «no frame before this one»).

    Args:
        width: channels of the trunk, a multiple of 64.
        blocks: how many.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        whole = _WHOLE_EVERY - 1
        patches = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        stack = nn.ModuleList(Block(width, GRID if i % _WHOLE_EVERY == whole else _WINDOW) for i in range(blocks))
        self.trunk = nn.ModuleDict({"patch_embed": patches, "blocks": stack})
        neck = nn.Sequential()
        neck.add_module("conv_1x1", nn.Conv2d(width, 256, 1, bias=False))
        neck.add_module("norm_0", LayerNorm2d(256))
        neck.add_module("conv_3x3", nn.Conv2d(256, 256, 3, padding=1, bias=False))
        neck.add_module("norm_1", LayerNorm2d(256))
        self.neck = nn.ModuleDict({"convs": nn.ModuleList([neck])})
        self.register_buffer("positions", torch.zeros(1, GRID, GRID, width))
        self.register_buffer("no_memory", torch.zeros(1, 256, 1, 1))
        self.positions: Tensor
        self.no_memory: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """``float32 [B, 3, 1024, 1024]`` normalised → ``float32 [B, 256, 64, 64]``."""
        x = self.trunk["patch_embed"]["proj"](image).permute(0, 2, 3, 1) + self.positions
        for block in self.trunk["blocks"]:
            x = block(x)
        return self.neck["convs"][0](x.permute(0, 3, 1, 2)) + self.no_memory


def enlarged(learned: Tensor) -> Tensor:
    """The trunk's positions from the learned ones: ``[1, 1 + 14², width]`` → ``[1, 64, 64, width]``.

    The first of the learned ones is of a token that was used in pretraining only. Done once and not for each image:
    a bicubic enlargement in a graph costs some engines minutes at each start.
    """
    places = learned[:, 1:]
    side = math.isqrt(places.shape[1])
    square = places.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    return functional.interpolate(square, (GRID, GRID), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
