"""``roi_align`` from its definition, one sample at a time: the slow and plain reference."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def at(plane: NDArray[np.float64], y: float, x: float) -> float:
    """A bilinear sample; 0 a pixel and more away from the plane."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = (y - top if below > top else 0.0), (x - left if right > left else 0.0)
    upper = plane[top, left] * (1 - across) + plane[top, right] * across
    lower = plane[below, left] * (1 - across) + plane[below, right] * across
    return float(upper * (1 - down) + lower * down)


def of_box(features: NDArray[np.float64], box: tuple[float, ...], cells: int) -> NDArray[np.float64]:
    """``[channels, cells, cells]``: corners are not shifted, a box has a pixel at least, samples follow its size."""
    x0, y0, x1, y1 = box
    width, height = max(x1 - x0, 1.0) / cells, max(y1 - y0, 1.0) / cells
    rows, columns = math.ceil(height), math.ceil(width)
    made = np.zeros((len(features), cells, cells))
    for channel, plane in enumerate(features):
        for i in range(cells):
            for j in range(cells):
                samples = [
                    at(plane, y0 + height * (i + (m + 0.5) / rows), x0 + width * (j + (n + 0.5) / columns))
                    for m in range(rows)
                    for n in range(columns)
                ]
                made[channel, i, j] = sum(samples) / len(samples)
    return made


def roi_align(features: Any, boxes: Any, output_size: int) -> Any:
    """With the tensors and the arguments of ``torchvision.ops.roi_align``."""
    import torch

    made = [
        of_box(image.double().numpy(), tuple(box.tolist()), output_size)
        for image, own in zip(features, boxes, strict=True)
        for box in own
    ]
    return torch.from_numpy(np.stack(made)).to(features.dtype)
