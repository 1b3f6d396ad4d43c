"""Exports for other programs, read by them: panoptic, Pascal VOC, LabelMe, CVAT, YOLO's boxes, palettes, parts."""

import ast
import base64
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from tests.needs import needs
from tests.web import formats
from tests.web.exports import CLASSES, MADE, SIZE, export, hard_masks, layered

# pycocotools decodes through a class that numpy 2 finds old-fashioned.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PARTS = {"share": 0.3, "seed": 5}
WANTED: list[dict[str, Any]] = [
    {"format": "panoptic"},
    {"format": "voc", "images": True, "parts": PARTS},
    {"format": "labelme", "images": True, "as": "masks"},
    {"format": "cvat"},
    {"format": "masks", "as": "classes"},
    {"format": "yolo", "images": True, "as": "boxes", "parts": PARTS},
    {"format": "coco-rle", "images": True, "parts": PARTS},
]


@pytest.fixture(scope="module")
def hard() -> list[formats.Pixels]:
    return [mask for n, mask in enumerate(hard_masks()) if n != 4]  # not the one that covers the others


@pytest.fixture(scope="module")
def folder(hard: list[formats.Pixels], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, of an image with all objects and two more."""
    images = [("a/photo <1>.png", hard), ("b/photo <1>.png", hard[:1]), ("empty.png", [])]
    return export(tmp_path_factory.mktemp("formats"), images, *WANTED)


def picture(file: Path) -> Any:
    """A PNG's values, in a palette its places."""
    return np.array(needs("PIL.Image").open(file))


def test_panoptic_is_what_its_own_evaluation_takes(folder: Path, hard: list[formats.Pixels]) -> None:
    """With quality 1 against itself, and each segment's area and box as the picture has them."""
    evaluation = needs("panopticapi.evaluation")
    data = json.loads((folder / "panoptic/annotations/panoptic.json").read_text())
    assert [one["file_name"] for one in data["images"]] == ["a/photo _1_.png", "b/photo _1_.png", "empty.png"]
    place = str(folder / "panoptic/annotations/panoptic")
    categories = {one["id"]: one for one in data["categories"]}
    pairs = [(one, json.loads(json.dumps(one))) for one in data["annotations"]]
    quality, _ = evaluation.pq_compute_single_core(0, pairs, place, place, categories).pq_average(categories, None)
    assert quality["pq"] == 1
    [first, *_] = data["annotations"]
    found = needs("panopticapi.utils").rgb2id(picture(Path(place) / first["file_name"]))
    assert np.array_equal(found, layered(hard, [n + 1 for n in range(len(hard))]))
    for one in first["segments_info"]:
        assert one["area"] == (found == one["id"]).sum()
        assert one["bbox"] == list(cv2.boundingRect((found == one["id"]).astype(np.uint8)))
        assert one["attributes"] == {"model": MADE["model"], "model_version": MADE["version"]}
        assert categories[one["category_id"]]["name"] == CLASSES[(one["id"] - 1) % 2]


def test_voc_has_its_palette_its_boxes_and_its_lists(folder: Path, hard: list[formats.Pixels]) -> None:
    root = folder / "voc"
    classes = picture(root / "SegmentationClass/a_photo _1_.png")
    assert np.array_equal(classes, layered(hard, [n % 2 + 1 for n in range(len(hard))]))
    objects = needs("PIL.Image").open(root / "SegmentationObject/a_photo _1_.png")
    assert np.array_equal(np.array(objects), layered(hard, [n + 1 for n in range(len(hard))]))
    assert np.array_equal(np.reshape(objects.getpalette(), (-1, 3)), needs("imgviz").label_colormap())
    about = ElementTree.parse(root / "Annotations/a_photo _1_.xml").getroot()
    assert about.findtext("filename") == "a_photo _1_.png"
    assert (root / "JPEGImages" / "a_photo _1_.png").is_file()
    assert [one.findtext("name") for one in about.iter("object")] == [CLASSES[n % 2] for n in range(len(hard))]
    boxes = [
        [int(str(one.findtext(side))) for side in ("xmin", "ymin", "xmax", "ymax")] for one in about.iter("bndbox")
    ]
    wanted = [cv2.boundingRect(mask.astype(np.uint8)) for mask in hard]
    assert boxes == [[x + 1, y + 1, x + width, y + height] for x, y, width, height in wanted]
    lists = {file.stem: file.read_text().split("\n")[:-1] for file in (root / "ImageSets/Main").iterdir()}
    assert sorted(lists["train"] + lists["val"]) == sorted(lists["trainval"])
    assert (len(lists["train"]), len(lists["val"])) == (2, 1)
    assert "empty" not in (root / "ImageSets/Segmentation/trainval.txt").read_text()
    assert (root / "labels.txt").read_text().splitlines() == ["background", *CLASSES]


def test_labelme_masks_are_the_same_pixels(folder: Path, hard: list[formats.Pixels]) -> None:
    """As LabelMe reads them: a PNG between two corners that both belong to it."""
    read = json.loads((folder / "labelme/a/photo _1_.json").read_text())
    assert (read["imageHeight"], read["imageWidth"]) == SIZE
    assert (folder / "labelme/a" / read["imagePath"]).is_file()
    for shape, mask in zip(read["shapes"], hard, strict=True):
        (x0, y0), (x1, y1) = shape["points"]
        png = np.frombuffer(base64.b64decode(shape["mask"]), np.uint8)
        found = np.zeros(SIZE, np.bool_)
        found[y0 : y1 + 1, x0 : x1 + 1] = np.asarray(cv2.imdecode(png, cv2.IMREAD_UNCHANGED), np.bool_)
        assert np.array_equal(found, mask)
        assert (shape["model"], shape["model_version"]) == (MADE["model"], MADE["version"])


def test_cvat_masks_are_the_same_pixels(folder: Path, hard: list[formats.Pixels]) -> None:
    """Runs along the rows of a box, the first of them background."""
    root = ElementTree.parse(folder / "cvat/annotations.xml").getroot()
    assert [one.text for one in root.iterfind("meta/task/labels/label/name")] == CLASSES
    first = root.findall("image")[0]
    assert first.get("name") == "a/photo _1_.png"
    for mask, wanted in zip(first.iter("mask"), hard, strict=True):
        left, top, width, height = (int(mask.attrib[name]) for name in ("left", "top", "width", "height"))
        runs = [int(run) for run in mask.attrib["rle"].split(",")]
        found = np.zeros(SIZE, np.bool_)
        found[top : top + height, left : left + width] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(
            height, width
        )
        assert np.array_equal(found, wanted)
        assert {one.get("name"): one.text for one in mask} == {"model": MADE["model"], "model_version": MADE["version"]}


def test_a_palette_holds_the_classes(folder: Path, hard: list[formats.Pixels]) -> None:
    read = json.loads((folder / "masks/masks.json").read_text())
    assert read["classes"] == {"1": CLASSES[0], "2": CLASSES[1]}
    found = needs("PIL.Image").open(folder / "masks" / read["masks"][0]["file"])
    assert np.array_equal(np.array(found), layered(hard, [n % 2 + 1 for n in range(len(hard))]))
    assert found.getpalette()[:9] == [0, 0, 0, 255, 0, 0, 0, 255, 0]


@pytest.fixture(scope="module")
def label_paths() -> Callable[[list[str]], list[str]]:
    """The function of YOLO's trainer that says where an image's labels are: it alone, as the rest needs torchvision."""
    package: Any = importlib.util.find_spec("ultralytics") or needs("ultralytics")
    tree = ast.parse((Path(package.origin).parent / "data" / "utils.py").read_text(encoding="utf-8"))
    names = {"img2label_paths"}
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    scope: dict[str, Any] = {"os": __import__("os"), "Path": Path}
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, *tree.body], []), "utils.py", "exec"), scope)
    found: Callable[[list[str]], list[str]] = scope["img2label_paths"]
    return found


def test_yolos_own_trainer_finds_the_boxes(
    folder: Path, hard: list[formats.Pixels], label_paths: Callable[[list[str]], list[str]]
) -> None:
    """In two parts; each label file where the trainer looks for it, each row a class and a box."""
    root = folder / "yolo"
    described = needs("yaml").safe_load((root / "data.yaml").read_text())
    assert (described["train"], described["val"]) == ("train.txt", "val.txt")
    listed = {part: (root / f"{part}.txt").read_text().splitlines() for part in ("train", "val")}
    assert (len(listed["train"]), len(listed["val"])) == (2, 1)
    images = [str(root / name) for name in listed["train"] + listed["val"]]
    labels = dict(zip((name.removeprefix(f"{root}/") for name in images), label_paths(images), strict=True))
    assert all(Path(name).is_file() for name in [*images, *labels.values()])
    rows = np.loadtxt(labels["images/a/photo _1_.png"])
    assert rows[:, 0].tolist() == [n % 2 for n in range(len(hard))]
    size = np.array([SIZE[1], SIZE[0]])
    corners = np.hstack([(rows[:, 1:3] - rows[:, 3:5] / 2) * size, rows[:, 3:5] * size])
    assert np.allclose(corners, [cv2.boundingRect(mask.astype(np.uint8)) for mask in hard], atol=1e-4)
    assert [one.stem for one in map(Path, labels.values())].count("empty") == 1


def test_coco_in_parts_has_a_file_for_each_and_the_images(folder: Path, hard: list[formats.Pixels]) -> None:
    root = folder / "coco-rle"
    found = {}
    for part in ("train", "val"):
        file = root / "annotations" / f"instances_{part}.json"
        data = json.loads(file.read_text())
        found[part] = [image["file_name"] for image in data["images"]]
        assert all((root / "images" / name).is_file() for name in found[part])
        by_image = formats.coco(file)
        assert len(by_image) == len(data["annotations"])
        assert all(one["attributes"]["model_version"] == MADE["version"] for one in data["annotations"])
    assert sorted(found["train"] + found["val"]) == ["a/photo _1_.png", "b/photo _1_.png", "empty.png"]
    assert len(found["val"]) == 1


@pytest.mark.parametrize("tolerance", [0, 2])
def test_coco_polygons_stay_within_their_tolerance(tolerance: int, tmp_path: Path) -> None:
    """A disk of 60 pixels: exact ones give it back, others leave it by no more than a ring of that width."""
    rows, columns = np.mgrid[:200, :200]
    disk = np.asarray(np.hypot(rows - 100, columns - 100) < 60)
    [found] = formats.coco(
        export(tmp_path, [("a.png", [disk])], {"format": "coco-polygons", "tolerance": tolerance})
        / "coco-polygons.json"
    )
    near = np.asarray(np.abs(np.hypot(rows - 100, columns - 100) - 60) <= tolerance + 1)
    assert not ((found != disk) & ~near).any()
    assert (found != disk).any() == (tolerance > 0)
    corners = json.loads((tmp_path / "coco-polygons.json").read_text())["annotations"][0]["segmentation"][0]
    assert (len(corners) < 60) == (tolerance > 0)
