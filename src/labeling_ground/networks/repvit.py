"""EdgeTAM's image encoder: RepViT-M1 and SAM 2's pyramid, for loading the official checkpoint and exporting it.

Architecture: Wang et al. 2023 (RepViT), which has the place of SAM 2's trunk in the authors' ``edgetam.yaml``. The
modules bear the checkpoint's names, so that it loads as it is. For inference each batch norm becomes part of the
convolution before it, and the three branches that mix places become one convolution.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from labeling_ground.networks.hiera import Pyramid

WIDTHS = (48, 96, 192, 384)
DEPTHS = (2, 2, 14, 2)


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch norm; ``c`` and ``bn`` are the checkpoint's names."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(outputs))

    def fused(self) -> nn.Conv2d:
        """One convolution that computes the same."""
        convolution, norm = self
        return fuse_conv_bn_eval(convolution.eval(), norm.eval())


class PlaceMixer(nn.Module):
    """Each channel for itself: a 3 × 3 convolution, one of 1 × 1, and the places as they are, added up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = ConvNorm(width, width, 3, groups=width)
        self.conv1 = ConvNorm(width, width, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self.conv(x) + self.conv1(x) + x

    def fused(self) -> nn.Conv2d:
        """One convolution that computes the same."""
        both, point = self.conv.fused(), self.conv1.fused()
        with torch.no_grad():
            both.weight[:, :, 1, 1] += point.weight[:, :, 0, 0] + 1
            both.bias += point.bias
        return both


class ChannelMixer(nn.Module):
    """Widen to twice the channels, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, 2 * width)
        self.conv2 = ConvNorm(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self.conv2(functional.gelu(self.conv1(x)))


class SqueezeExcite(nn.Module):
    """Weighs each channel by what all channels' means say; between them is a quarter of the width, in eights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(8, (width // 4 + 4) // 8 * 8)
        self.fc1, self.fc2 = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        means = x.mean((2, 3), keepdim=True)
        return x * self.fc2(functional.relu(self.fc1(means))).sigmoid()


class RepVitBlock(nn.Module):
    """Mixes places, weighs channels where it has ``excite``, mixes channels."""

    def __init__(self, width: int, *, excite: bool) -> None:
        super().__init__()
        self.token_mixer = PlaceMixer(width)
        self.se = SqueezeExcite(width) if excite else nn.Identity()
        self.channel_mixer = ChannelMixer(width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        x = self.se(self.token_mixer(x))
        return x + self.channel_mixer(x)


class Downsample(nn.Module):
    """Between stages: half the rows and columns, another width."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.pre_block = RepVitBlock(width, excite=False)
        self.spatial_downsample = ConvNorm(width, width, 3, 2, groups=width)
        self.channel_downsample = ConvNorm(width, out)
        self.ffn = ChannelMixer(out)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, width, h, w]`` → ``[B, out, h/2, w/2]``."""
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn(x)


class Stage(nn.Module):
    """Blocks of one width, every other one with excitation, after the step from the stage before."""

    def __init__(self, index: int) -> None:
        super().__init__()
        width = WIDTHS[index]
        self.downsample = Downsample(WIDTHS[index - 1], width) if index else nn.Identity()
        self.blocks = nn.Sequential(*(RepVitBlock(width, excite=i % 2 == 0) for i in range(DEPTHS[index])))

    def forward(self, x: Tensor) -> Tensor:
        """The stage before's output → this one's."""
        return self.blocks(self.downsample(x))


class Network(nn.Module):
    """RepViT-M1 and the pyramid's convolutions, to be loaded with the checkpoint's ``image_encoder.*``."""

    def __init__(self) -> None:
        super().__init__()
        width = WIDTHS[0]
        stem = nn.Sequential()
        stem.add_module("conv1", ConvNorm(3, width // 2, 3, 2))
        stem.add_module("act1", nn.GELU())
        stem.add_module("conv2", ConvNorm(width // 2, width, 3, 2))
        stages = {f"stages_{i}": Stage(i) for i in range(len(WIDTHS))}
        self.trunk = nn.ModuleDict({"body": nn.ModuleDict({"stem": stem, **stages})})
        levels = [nn.ModuleDict({"conv": nn.Conv2d(width, 256, 1)}) for width in WIDTHS[::-1]]
        self.neck = nn.ModuleDict({"convs": nn.ModuleList(levels)})


class EdgeTamEncoder(Pyramid):
    """Pixels to the three tensors of an embedding.

    Args:
        network: with its weights; its convolutions become parts of this.
        sam: a ``transformers.Sam2Model`` with the decoder's weights.
    """

    def __init__(self, network: Network, sam: Any) -> None:
        super().__init__([level["conv"] for level in network.neck["convs"]], sam)
        _fuse(network.trunk)
        stem, *self_stages = network.trunk["body"].values()
        self.stem, self.stages = stem, nn.ModuleList(self_stages)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised ``[B, 3, 1024, 1024]`` → ``[B, 256, 64, 64]``, ``[B, 32, 256, 256]`` and ``[B, 64, 128, 128]``."""
        x = self.stem(image)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return self.join(levels)


def _fuse(module: nn.Module) -> None:
    """Replace each batch norm, and each sum of branches, by the convolution that it can be part of. In place."""
    for name, child in list(module.named_children()):
        if isinstance(child, ConvNorm | PlaceMixer):
            setattr(module, name, child.fused())
        else:
            _fuse(child)
