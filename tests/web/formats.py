"""Reads what the page exports with the programs that it is for: each object's mask, by format."""

import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from skimage.measure import grid_points_in_poly
from tests.needs import needs

Pixels = NDArray[np.bool_]


def coco(path: Path) -> list[Pixels]:
    """With pycocotools, RLE or polygons."""
    data = COCO(str(path))
    return [np.asarray(data.annToMask(data.anns[key]), np.bool_) for key in sorted(data.anns)]


def masks(path: Path) -> list[Pixels]:
    """PNGs in a zip, in the order of its list."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        files = [one["file"] for one in json.loads(archive.read("masks.json"))]
        images = [cv2.imdecode(np.frombuffer(archive.read(file), np.uint8), cv2.IMREAD_UNCHANGED) for file in files]
    for image in images:
        assert image is not None
        assert set(np.unique(image)) <= {0, 255}
    return [np.asarray(image, np.bool_) for image in images]


def yolo(folder: Path, *, exact: bool = True) -> dict[str, list[tuple[int, Pixels]]]:
    """A YOLO data set that was unpacked, as its trainers find and read it: each row's class and mask, by image.

    The list of images is ``train.txt``, whose ``./`` is the list's own folder. An image's label file is found by
    replacing the last folder ``images`` by ``labels`` and the ending by ``.txt``. Corners are shares of the image's
    size; they are cut to whole pixels and filled with OpenCV, as trainers do. Filling at the pixels' middles finds the
    same if it is ``exact``.
    """
    listed = (folder / "train.txt").read_text().splitlines()
    return {name.removeprefix("./images/"): _yolo_rows(folder / name, exact=exact) for name in listed}


def yolo_label(image: Path) -> Path:
    """Where a trainer looks for an image's labels."""
    before, after = str(image).rsplit("/images/", 1)
    return Path(f"{before}/labels/{after.rsplit('.', 1)[0]}.txt")


def _yolo_rows(image: Path, *, exact: bool) -> list[tuple[int, Pixels]]:
    pixels = cv2.imread(str(image))
    assert pixels is not None, image
    fill: Any = grid_points_in_poly  # not typed
    size: tuple[int, int] = pixels.shape[:2]
    found: list[tuple[int, Pixels]] = []
    for line in yolo_label(image).read_text().splitlines():
        number, *numbers = line.split()
        assert 6 <= len(numbers) <= 2000
        assert all(0 <= float(one) <= 1 for one in numbers)
        corners = np.array(numbers, np.float32).reshape(-1, 2) * np.array((size[1], size[0]), np.float32)
        mask = cv2.fillPoly(np.zeros(size, np.uint8), [corners.astype(np.int32)], color=(1,)) > 0
        if exact and len(numbers) < 200:
            assert np.array_equal(fill(size, corners[:, ::-1] - 0.5), mask)
        found.append((int(number), mask))
    return found


def label_studio(path: Path) -> list[Pixels]:
    """Brush masks, by a decoder written from the format's description."""
    found = []
    for task in json.loads(path.read_text()):
        for region in task["annotations"][0]["result"]:
            assert region["value"]["format"] == "rle"
            shape = (region["original_height"], region["original_width"], 4)
            values = brush(region["value"]["rle"]).reshape(shape)
            assert set(np.unique(values)) <= {0, 255}
            found.append(values[:, :, 3] > 0)
    return found


def label_studio_by_itself(path: Path) -> dict[str, Pixels]:
    """Brush masks, by Label Studio's own converter: by tag, label, and how many with these came before."""
    brushes = _label_studios_brushes()
    found: dict[str, Pixels] = {}
    for number, task in enumerate(json.loads(path.read_text())):
        regions = task["annotations"][0]["result"]
        # As its converter flattens them before it comes to brushes.
        flat = [{**{key: region[key] for key in region if key != "value"}, **region["value"]} for region in regions]
        layers = brushes.decode_from_annotation("tag", flat)
        found |= {f"{number} {name}": np.asarray(layer > 0, np.bool_) for name, layer in layers.items()}
    return found


def _label_studios_brushes() -> Any:
    """Its module on brushes, loaded alone: it needs NumPy and Pillow, and the rest of the package 70 packages more."""
    package: Any = importlib.util.find_spec("label_studio_sdk") or needs("label_studio_sdk")
    spec = importlib.util.spec_from_file_location("brush", Path(package.origin).parent / "converter" / "brush.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def brush(packed: list[int]) -> NDArray[np.uint8]:
    """Values of a brush RLE: a bit stream of runs, each with one value repeated or with all its values."""
    bits = np.unpackbits(np.array(packed, np.uint8))
    at = 0

    def read(many: int) -> int:
        nonlocal at
        value = int("".join(map(str, bits[at : at + many])), 2)
        at += many
        return value

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out = np.zeros(total, np.uint8)
    filled = 0
    while filled < total:
        repeats = read(1)
        length = read(sizes[read(2)]) + 1
        out[filled : filled + length] = read(word) if repeats else [read(word) for _ in range(length)]
        filled += length
    assert len(bits) - at < 8
    return out


def rle(pixels: Pixels) -> dict[str, Any]:
    """A mask as the page holds it."""
    packed = coco_masks.encode(np.asfortranarray(pixels, np.uint8))
    return {"size": packed["size"], "counts": packed["counts"].decode("ascii")}
