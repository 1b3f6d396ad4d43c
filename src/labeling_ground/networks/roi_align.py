"""Features under boxes, where torchvision is not installed: ``torchvision.ops.roi_align`` with its defaults."""

from collections.abc import Sequence

import torch
from torch import Tensor


def roi_align(features: Tensor, boxes: Sequence[Tensor], output_size: int) -> Tensor:
    """The mean of the features in each of ``output_size`` × ``output_size`` cells of each box.

    A cell's mean is taken over as many evenly spaced places, per axis, as it covers feature pixels (rounded up), and a
    feature between pixels is interpolated bilinearly. Both are sums along one axis and then along the other, so a box
    is two matrices around the features.

    Args:
        features: ``[images, channels, height, width]``.
        boxes: for each image ``[n, 4]``, x0, y0, x1, y1 in pixels of the features.
        output_size: cells of a box along each axis.

    Returns:
        ``[all boxes, channels, output_size, output_size]``, in the features' type.
    """
    height, width = features.shape[-2:]
    pooled = []
    for image, of_image in zip(features, boxes, strict=True):
        floats = image.float()
        for x0, y0, x1, y1 in of_image.float():
            down, across = _shares(y0, y1, output_size, height), _shares(x0, x1, output_size, width)
            pooled.append(down @ floats @ across.T)
    if not pooled:
        return features.new_zeros((0, features.shape[1], output_size, output_size))
    return torch.stack(pooled).to(features.dtype)


def _shares(start: Tensor, end: Tensor, cells: int, size: int) -> Tensor:
    """What each of ``size`` pixels weighs in each cell along one axis: ``[cells, size]``."""
    cell = (end - start).clamp(min=1.0) / cells
    places = max(1, int(cell.ceil()))
    at = start + (torch.arange(cells * places, device=start.device) + 0.5) * (cell / places)
    on_it = (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    low = at.floor()
    columns = torch.arange(size, device=start.device)
    share = (at - low)[:, None]
    weights = (columns == low[:, None]) * (1 - share) + (columns == low[:, None] + 1) * share
    return (weights * on_it[:, None]).view(cells, places, size).mean(1)
