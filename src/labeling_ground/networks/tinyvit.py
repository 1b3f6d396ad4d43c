"""MobileSAM's image encoder, a TinyViT of 6 million weights, for loading official checkpoints and exporting them.

Architecture: Wu et al. 2022 (TinyViT), in the form that ``mobile_sam/modeling/tiny_vit_sam.py`` gives it: four stages
of width 64, 128, 160 and 320, the last two at stride 16, then SAM's neck. The modules bear the checkpoint's names, so
that it loads as it is; only inference is here. The original needs packages that cannot be installed beside a CPU build
of torch; the tests compare with it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from labeling_ground.networks.windows import in_windows

DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch norm; ``c`` and ``bn`` are the checkpoint's names."""
    layer = nn.Sequential()
    layer.add_module("c", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False))
    layer.add_module("bn", nn.BatchNorm2d(outputs))
    return layer


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of ``[batch, channels, height, width]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        x = functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return x.permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """Two strided convolutions: stride 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(_conv(3, width // 2, 3, 2), nn.GELU(), _conv(width // 2, width, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        """``[1, 3, side, side]`` → ``[1, width, side/4, side/4]``."""
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck: widen, convolve each channel, narrow, add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(width, 4 * width)
        self.conv2 = _conv(4 * width, 4 * width, 3, groups=4 * width)
        self.conv3 = _conv(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        y = functional.gelu(self.conv2(functional.gelu(self.conv1(x))))
        return functional.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    """Between stages: another width, half the rows and columns (not before the last stage)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1 = _conv(width, out)
        self.conv2 = _conv(out, out, 3, 1 if out == DIMS[-1] else 2, groups=out)
        self.conv3 = _conv(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """``[1, width, h, w]`` → ``[1, out, h/2, w/2]``."""
        return self.conv3(functional.gelu(self.conv2(functional.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Attention within a window, with one learned bias a head for each distance ``(|dy|, |dx|)``."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        places = torch.arange(window * window)
        rows, columns = places // window, places % window
        away = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.register_buffer("away", away, persistent=False)
        self.away: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """``[windows, window², width]``, same out. Each head's q, k and v lie side by side."""
        windows, places, width = x.shape
        qkv = self.qkv(self.norm(x)).view(windows, places, self.heads, 3 * (width // self.heads))
        q, k, v = qkv.permute(0, 2, 1, 3).chunk(3, dim=-1)
        scores = (q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5 + self.attention_biases[:, self.away]
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(windows, places, width))


class Mlp(nn.Module):
    """Norm, widen to four times, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self.fc2(functional.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    """Window attention, a 3 × 3 convolution of each channel, an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = _conv(width, width, 3, groups=width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, width, h, w]``, same out."""
        x = self.local_conv(x + in_windows(x.permute(0, 2, 3, 1), self.window, self.attn).permute(0, 3, 1, 2))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.mlp(tokens)
        return tokens.transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """Blocks of one width, and the step to the next."""

    def __init__(self, index: int) -> None:
        super().__init__()
        width = DIMS[index]
        self.blocks = nn.ModuleList(
            MBConv(width) if index == 0 else Block(width, HEADS[index], WINDOWS[index]) for _ in range(DEPTHS[index])
        )
        if index + 1 < len(DIMS):
            self.downsample = PatchMerging(width, DIMS[index + 1])

    def forward(self, x: Tensor) -> Tensor:
        """``[1, width, h, w]`` → the next stage's input."""
        for block in self.blocks:
            x = block(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class TinyViT(nn.Module):
    """The encoder, to be loaded with the checkpoint's ``image_encoder.*`` (its unused classifier left out)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(DIMS[0])
        self.layers = nn.ModuleList(Stage(i) for i in range(len(DIMS)))
        self.neck = nn.Sequential(
            nn.Conv2d(DIMS[-1], 256, 1, bias=False),
            LayerNorm2d(256),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            LayerNorm2d(256),
        )

    def forward(self, image: Tensor) -> Tensor:
        """``float32 [1, 3, 1024, 1024]`` normalised → ``float32 [1, 256, 64, 64]``."""
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        return self.neck(x)
