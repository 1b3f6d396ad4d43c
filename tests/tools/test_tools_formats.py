"""The labeling page's exports, read by LabelMe, by CVAT's decoder of masks, and by supervision (Pascal VOC, YOLO)."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.web.exports import CLASSES, export, hard_masks

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parent / "drivers" / "formats.py"
MASKS = [mask for n, mask in enumerate(hard_masks()) if n != 4]  # none that covers the others


@pytest.fixture
def read(tool: Callable[[str], Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What a reader finds in an export of one image with these masks."""

    def found(reader: str, masks: list[Any], **options: Any) -> dict[str, Any]:
        python = tool("formats")
        form = options["format"]
        export(tmp_path, [("photo.png", masks)], options | {"images": True})
        subprocess.run([python, DRIVER, reader, tmp_path / form, tmp_path / "found.npz"], check=True, timeout=600)
        return dict(np.load(tmp_path / "found.npz"))

    return found


def boxes() -> list[list[int]]:
    """Each mask's box; the last two are the first column and row behind it."""
    found = [cv2.boundingRect(mask.astype(np.uint8)) for mask in MASKS]
    return [[x, y, x + width, y + height] for x, y, width, height in found]


def names() -> list[str]:
    return [f"photo.png/{n} {CLASSES[n % 2]}" for n in range(len(MASKS))]


@pytest.mark.parametrize("n", range(len(MASKS)))
def test_labelme_reads_masks_exactly(read: Callable[..., dict[str, Any]], n: int) -> None:
    found = read("labelme", MASKS[n : n + 1], format="labelme", **{"as": "masks"})
    assert list(found) == [f"photo.png/0 {CLASSES[0]}"]
    assert np.array_equal(found[f"photo.png/0 {CLASSES[0]}"], MASKS[n])


@pytest.mark.parametrize("n", [0, 1, 3, 5])
def test_labelme_reads_polygons_within_a_pixel(read: Callable[..., dict[str, Any]], n: int) -> None:
    """Its rasterizer draws each outline one pixel wide."""
    [found] = read("labelme", MASKS[n : n + 1], format="labelme").values()
    wide = cv2.dilate(MASKS[n].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    narrow = cv2.erode(MASKS[n].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (found <= wide).all()
    assert (found >= narrow).all()


def test_cvats_decoder_reads_the_same_pixels(read: Callable[..., dict[str, Any]]) -> None:
    found = read("cvat", MASKS, format="cvat")
    assert list(found) == names()
    for mask, wanted in zip(found.values(), MASKS, strict=True):
        assert np.array_equal(mask, wanted)


def test_supervision_reads_the_boxes_of_pascal_voc(read: Callable[..., dict[str, Any]]) -> None:
    found = read("voc", MASKS, format="voc")
    assert list(found) == names()
    assert np.array_equal(np.array(list(found.values())), boxes())


def test_supervision_reads_the_boxes_of_yolo(read: Callable[..., dict[str, Any]]) -> None:
    found = read("yolo", MASKS, format="yolo", **{"as": "boxes"})
    assert list(found) == names()
    assert np.allclose(np.array(list(found.values())), boxes(), atol=1e-3)
