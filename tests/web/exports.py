"""Exports that node makes of masks, without a page."""

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tests.needs import needs_program
from tests.web.formats import Pixels, rle

UNITS = Path(__file__).parent / "units"
SIZE = (90, 120)
MADE = {"model": "sam-vit-h", "version": "0123abcd"}
CLASSES = ["cup", 'a "b": ü']


def hard_masks() -> list[Pixels]:
    """Pieces, holes, islands in holes, corners that touch, one pixel, everything, long runs."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    far = np.hypot(rows - 45, columns - 60)
    one = np.zeros(SIZE, np.bool_)
    one[13, 77] = True
    return [
        far < 30,
        (far < 40) & (far > 20) | (far < 8),
        rng.random(SIZE) < 0.1,
        one,
        np.ones(SIZE, np.bool_),
        (rows + columns) % 2 == 0,
        np.roll(far < 30, 70, axis=1),
    ]


def layered(masks: list[Pixels], values: list[int]) -> Any:
    """Masks as one picture of their values, the later on top."""
    picture = np.zeros(SIZE, np.int64)
    for mask, value in zip(masks, values, strict=True):
        picture[mask] = value
    return picture


def export(folder: Path, named: list[tuple[str, list[Pixels]]], *wanted: dict[str, Any]) -> Path:
    """Exports of images with these names and masks in a folder: options with the ``format``; archives are unpacked."""
    node = needs_program("node")
    listed = []
    for i, (name, masks) in enumerate(named):
        height, width = masks[0].shape if masks else SIZE
        file = folder / f"image-{i}.png"
        assert cv2.imwrite(str(file), np.full((height, width, 3), 10 * i, np.uint8))
        objects = [
            {"id": f"{i}-{n}", "classId": "12"[n % 2], "name": "", "rle": rle(mask), **MADE}
            for n, mask in enumerate(masks)
        ]
        listed.append(
            {"id": str(i), "name": name, "width": width, "height": height, "file": str(file), "objects": objects}
        )
    labeled = {
        "classes": [
            {"id": "1", "name": CLASSES[0], "colour": "#ff0000"},
            {"id": "2", "name": CLASSES[1], "colour": "#00ff00"},
        ],
        "images": listed,
    }
    (folder / "set.json").write_text(json.dumps(labeled))
    command = [node, str(UNITS / "export.mjs"), str(folder / "set.json"), str(folder), json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for packed in folder.glob("*.zip"):
        with zipfile.ZipFile(packed) as archive:
            assert archive.testzip() is None
            archive.extractall(packed.with_suffix(""))
    return folder
