"""Labels that other programs wrote, read by the page's modules in node."""

import importlib.util
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from tests.needs import needs, needs_program
from tests.web import formats
from tests.web.exports import SIZE, UNITS, hard_masks

# pycocotools decodes through a class that numpy 2 finds old-fashioned.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
OPEN = [{"id": "a", "names": ["photo.jpg"], "width": SIZE[1], "height": SIZE[0]}]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What the page finds in files of the test's folder."""

    def found(*names: str) -> dict[str, Any]:
        command = [needs_program("node"), str(UNITS / "import.mjs"), json.dumps(OPEN), str(tmp_path), *names]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return found


def masks_of(image: dict[str, Any]) -> list[formats.Pixels]:
    return [np.asarray(coco_masks.decode(one["rle"]), np.bool_) for one in image["objects"]]


def coco_file(segmentations: list[Any]) -> str:
    objects = [
        {"id": n + 1, "image_id": 5, "category_id": 3, "segmentation": one, "bbox": [10, 20, 30, 40], "iscrowd": 0}
        for n, one in enumerate(segmentations)
    ]
    image = {"id": 5, "file_name": "photo.jpg", "width": SIZE[1], "height": SIZE[0]}
    return json.dumps({"images": [image], "categories": [{"id": 3, "name": "cup"}], "annotations": objects})


def test_coco_runs_as_text_and_as_numbers_are_the_same_pixels(
    read: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Compressed by pycocotools, and uncompressed as crowds have them; in a deflated archive."""
    masks = hard_masks()
    plain = []
    for mask in masks:
        flat = mask.ravel(order="F").astype(np.int8)
        ends = np.flatnonzero(np.diff(np.r_[0, flat])).tolist()
        plain.append({"size": list(SIZE), "counts": np.diff([0, *ends, flat.size]).tolist()})
    with zipfile.ZipFile(tmp_path / "coco.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/instances_train.json", coco_file([formats.rle(mask) for mask in masks]))
        archive.writestr("annotations/instances_val.json", coco_file(plain))
    found = read("coco.zip")
    assert found["format"] == "coco-rle"
    for image in found["images"]:
        assert [int((a != b).sum()) for a, b in zip(masks_of(image), masks, strict=True)] == [0] * len(masks)


def test_coco_polygons_are_within_a_pixel_of_pycocotools(read: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Corners between the pixels, two pieces of one object; and a box where there is no segmentation."""
    pieces = [[10.3, 12.7, 60.1, 8.2, 71.9, 55.5, 33.3, 70.4], [80.5, 20.5, 110.2, 25.0, 95.0, 60.6]]
    (tmp_path / "coco.json").write_text(coco_file([pieces, []]))
    both, box = masks_of(read("coco.json")["images"][0])
    wanted = np.asarray(coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(pieces, *SIZE))), np.bool_)
    edge = needs("scipy.ndimage").morphological_gradient(wanted.astype(np.uint8), 3) > 0
    assert not ((both != wanted) & ~edge).any()
    assert (both & wanted).sum() > 0.97 * (both | wanted).sum()
    assert np.array_equal(np.argwhere(box).min(0), [20, 10])
    assert box.sum() == 30 * 40


def test_label_studios_own_brushes_are_the_same_pixels(read: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """As its converter encodes them; a polygon and a rectangle beside them; the name as uploads have it."""
    package: Any = importlib.util.find_spec("label_studio_sdk") or needs("label_studio_sdk")
    spec = importlib.util.spec_from_file_location("brush", Path(package.origin).parent / "converter" / "brush.py")
    assert spec is not None
    assert spec.loader is not None
    brush = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(brush)
    masks = hard_masks()
    common = {"original_width": SIZE[1], "original_height": SIZE[0], "from_name": "tag", "to_name": "image"}
    packed = [brush.mask2rle(np.where(mask, 255, 0).astype(np.uint8)) for mask in masks]
    results = [{**common, "value": {"format": "rle", "rle": one, "brushlabels": ["cup"]}} for one in packed]
    corners = [[25, 25], [75, 25], [75, 75], [25, 75]]
    results.append({**common, "value": {"points": corners, "polygonlabels": ["plate"]}})
    results.append(
        {**common, "value": {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["plate"]}}
    )
    results.append({**common, "value": {"x": 1, "y": 1, "width": 0.5, "keypointlabels": ["dot"]}})
    task = {"data": {"image": "/data/upload/3/1a2b3c4d-photo.jpg"}, "annotations": [{"result": results}]}
    (tmp_path / "project.json.json").write_text(json.dumps([task]))
    found = read("project.json.json")
    [image] = found["images"]
    assert "photo.jpg" in image["names"]
    assert image["objects"].pop()["points"] == [{"x": 1, "y": 0, "label": 1}]
    *brushes, polygon, rectangle = masks_of(image)
    assert [int((a != b).sum()) for a, b in zip(brushes, masks, strict=True)] == [0] * len(masks)
    inside = np.zeros(SIZE, np.bool_)
    inside[round(SIZE[0] / 4) : round(SIZE[0] * 3 / 4), SIZE[1] // 4 : SIZE[1] * 3 // 4] = True
    assert (polygon ^ inside).sum() <= SIZE[1]
    assert (rectangle ^ inside).sum() <= SIZE[1]
    assert {one["name"] for one in found["classes"]} == {"cup", "plate", "dot"}


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGB"])
def test_pictures_of_masks_are_the_same_pixels(read: Callable[..., dict[str, Any]], tmp_path: Path, mode: str) -> None:
    """As Pillow writes them, with all of PNG's filters: palette, grey, one bit; colours as ids."""
    image = needs("PIL.Image")
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    values = ((rows // 9 + columns // 7) % 3).astype(np.uint8)
    if mode == "1":
        values = (values > 0).astype(np.uint8)
    picture = image.fromarray(values * 255 if mode == "1" else values, "L")
    if mode == "P":
        picture = image.fromarray(values, "P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    picture.convert(mode).save(tmp_path / "photo.png", optimize=True)
    found = read("photo.png")
    wanted = [values == value for value in ((1,) if mode == "1" else (1, 2))]
    masks = masks_of(found["images"][0])
    assert len(masks) == len(wanted)
    for mask in wanted:
        assert any(np.array_equal(mask, one) for one in masks)


def test_rows_of_yolo_are_the_pixels_between_their_corners(read: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A folder as a trainer has it: boxes and polygons in one file, names from data.yaml, windows' line ends."""
    (tmp_path / "labels" / "train").mkdir(parents=True)
    rows = ["1 0.5 0.5 0.25 0.2", "0 0.103 0.107 0.611 0.107 0.611 0.503", ""]
    (tmp_path / "labels" / "train" / "photo.txt").write_text("\r\n".join(rows))
    (tmp_path / "data.yaml").write_text("path: .\nnames: [plate, 'big cup']  # two\n")
    found = read("labels/train/photo.txt", "data.yaml")
    assert found["format"] == "yolo"
    [image] = found["images"]
    assert [one["class"] for one in image["objects"]] == ["big cup", "plate"]
    box, triangle = masks_of(image)
    assert (int(box.sum()), np.argwhere(box).min(0).tolist()) == (30 * 18, [36, 45])
    fill: Any = needs("skimage.measure").grid_points_in_poly
    corners = np.array([[0.107, 0.103], [0.107, 0.611], [0.503, 0.611]]) * SIZE - 0.5
    assert (triangle ^ fill(SIZE, corners)).sum() <= 2


def test_an_archive_that_is_damaged_or_none_says_so(read: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "cut.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("coco.json", coco_file([formats.rle(mask) for mask in hard_masks()]))
    whole = (tmp_path / "cut.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    assert "no ZIP archive" in read("cut.zip")["problem"]
    (tmp_path / "cut.zip").write_bytes(whole[:60] + bytes(40) + whole[100:])
    assert read("cut.zip")["problem"]
