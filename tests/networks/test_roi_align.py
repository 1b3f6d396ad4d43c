from typing import Any

import numpy as np
import pytest
from tests.needs import needs
from tests.sam.roi_align_reference import roi_align as by_definition

torch = needs("torch")

BOXES = [
    (0.0, 0.0, 18.0, 12.0),
    (2.3, 1.7, 9.1, 8.2),
    (5.0, 5.0, 5.0, 5.0),  # no area: one pixel is taken for it
    (4.0, 3.0, 4.4, 3.1),
    (-3.0, -2.0, 4.0, 5.0),  # hangs over the edge
    (14.0, 9.0, 30.0, 25.0),
    (-9.0, -9.0, -5.0, -5.0),  # lies beside it
    (0.0, 0.0, 70.0, 3.0),
]


def features() -> Any:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, 12, 18)).astype(np.float32))


@pytest.mark.parametrize("cells", [1, 2, 7])
def test_it_is_what_the_definition_says(cells: int) -> None:
    from labeling_ground.networks.roi_align import roi_align

    boxes = [torch.tensor(BOXES), torch.tensor(BOXES[1:4])]
    made = roi_align(features(), boxes, cells)
    assert made.shape == (11, 3, cells, cells)
    assert (made - by_definition(features(), boxes, cells)).abs().max() < 1e-5


def test_it_is_torchvisions() -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not needed, only compared with")
    from labeling_ground.networks.roi_align import roi_align

    boxes = [torch.tensor(BOXES), torch.tensor(BOXES[1:4])]
    assert (roi_align(features(), boxes, 7) - torchvision.ops.roi_align(features(), boxes, 7)).abs().max() < 1e-5


def test_no_box_is_no_feature_and_half_precision_stays() -> None:
    from labeling_ground.networks.roi_align import roi_align

    none = roi_align(features().half(), [torch.zeros(0, 4), torch.zeros(0, 4)], 7)
    assert (none.shape, none.dtype) == ((0, 3, 7, 7), torch.float16)
    half = roi_align(features().half(), [torch.tensor(BOXES[:2]), torch.zeros(0, 4)], 7)
    assert half.dtype == torch.float16
    assert (half.float() - by_definition(features(), [torch.tensor(BOXES[:2]), []], 7)).abs().max() < 1e-2
