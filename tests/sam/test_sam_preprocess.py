import numpy as np
import pytest
from PIL import Image as Pillow
from tests.needs import needs

from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import (
    SAM_MEAN,
    SAM_STD,
    normalise_sam,
    preprocess,
    resize,
    resize_sam,
    stretch_sam2,
)


def noise(height: int, width: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(601, 801), (1500, 700), (30, 20), (1, 7), (1024, 512)])
def test_resizing_is_pillows_on_whole_numbers(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    resized = resize_sam(pixels)
    frame = Family.SAM.frame(*size)
    assert resized.dtype == np.uint8
    assert resized.shape == (frame.inner_height, frame.inner_width, 3)
    expected = Pillow.fromarray(pixels).resize((frame.inner_width, frame.inner_height), Pillow.Resampling.BILINEAR)
    assert (resized == np.asarray(expected)).all()


def test_padding_comes_after_normalising_and_is_right_and_below() -> None:
    pixels = np.full((512, 1024, 3), (10, 100, 200), np.uint8)
    square = normalise_sam(pixels)
    assert square.shape == (1, 3, 1024, 1024)
    assert square.dtype == np.float32
    assert square[0, :, 0, 0] == pytest.approx((np.array([10, 100, 200]) - SAM_MEAN) / SAM_STD)
    assert (square[0, :, :512] == square[0, :, :1, :1]).all()
    assert (square[0, :, 512:] == 0).all()


def test_red_comes_first() -> None:
    square = preprocess(np.full((4, 4, 3), (255, 0, 0), np.uint8), Family.SAM)
    assert square[0, 0, 0, 0] > 2
    assert square[0, 1, 0, 0] < -2


@pytest.mark.parametrize("size", [(601, 801), (2000, 700), (30, 20), (1, 7), (1024, 1024)])
def test_sam_2s_resizing_is_the_references_on_floats(size: tuple[int, int]) -> None:
    torch = needs("torch")
    pixels = noise(*size)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    resized = torch.nn.functional.interpolate(image, (1024, 1024), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(x)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = ((resized - mean) / std).numpy()
    assert np.abs(stretch_sam2(pixels) - expected).max() < 1e-4


@pytest.mark.parametrize("size", [(601, 801), (2000, 700), (30, 20), (1, 7), (1024, 1024)])
def test_efficient_sams_resizing_is_its_graphs(size: tuple[int, int]) -> None:
    torch = needs("torch")
    pixels = noise(*size)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    expected = torch.nn.functional.interpolate(image, (1024, 1024), mode="bilinear").numpy()
    made = preprocess(pixels, Family.EFFICIENT_SAM)
    assert made.shape == (1, 3, 1024, 1024)
    assert np.abs(made - expected).max() < 1e-4
    again = preprocess(resize(pixels, Family.EFFICIENT_SAM), Family.EFFICIENT_SAM)
    assert (again == made).all()


@pytest.mark.parametrize("size", [(601, 801), (2000, 700), (30, 20), (1, 7), (1008, 1008)])
def test_sam_3s_resizing_is_on_whole_numbers(size: tuple[int, int]) -> None:
    """As in ``Sam3ImageProcessor``, which resizes bytes with antialiasing; Pillow's rounding may be off by one."""
    torch = needs("torch")
    pixels = noise(*size)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(image, (1008, 1008), mode="bilinear", antialias=True)
    made = preprocess(pixels, Family.SAM3)
    assert np.abs(made - (resized.float().numpy() / 255 - 0.5) / 0.5).max() <= 1.001 / 127.5
    assert (preprocess(resize(pixels, Family.SAM3), Family.SAM3) == made).all()


@pytest.mark.parametrize("size", [(601, 801), (1500, 700), (1, 37)])
def test_the_square_is_the_references(size: tuple[int, int]) -> None:
    torch = needs("torch")
    from tests.sam.references import sam, segment_anything

    pixels = noise(*size)
    transform = segment_anything().SamPredictor(sam()).transform
    resized = torch.as_tensor(transform.apply_image(pixels)).permute(2, 0, 1)[None]
    expected = sam().preprocess(resized).numpy()
    assert np.abs(preprocess(pixels, Family.SAM) - expected).max() < 1e-5
