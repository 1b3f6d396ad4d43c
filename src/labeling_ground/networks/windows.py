"""Attention in windows: an image's places are parted into squares, which do not see each other."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional


def in_windows(places: Tensor, side: int, mix: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to each window: ``[images, height, width, channels]``, same out.

    Padding up to whole windows is zeros and takes part, as in ViTDet and TinyViT.

    Args:
        places: the image's places.
        side: rows and columns of a window.
        mix: ``[windows, side², channels]`` → the same shape.
    """
    images, height, width, channels = places.shape
    below, right = -height % side, -width % side
    rows, columns = (height + below) // side, (width + right) // side
    padded = functional.pad(places, (0, 0, 0, right, 0, below)) if below or right else places
    split = padded.view(images, rows, side, columns, side, channels).transpose(2, 3)
    mixed = mix(split.reshape(-1, side * side, channels)).view(images, rows, columns, side, side, channels)
    return mixed.transpose(2, 3).reshape(images, rows * side, columns * side, channels)[:, :height, :width]
