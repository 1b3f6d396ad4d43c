"""The page's modules in node: its own tests, and exports of hard masks read by other programs."""

import json
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.needs import needs, needs_program
from tests.web import formats

# pycocotools decodes through a class that numpy 2 finds old-fashioned.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
UNITS = Path(__file__).parent / "units"
SIZE = (90, 120)


def test_the_modules_pass_their_own_tests() -> None:
    node = needs_program("node")
    tests = sorted(str(path) for path in UNITS.glob("*.test.mjs"))
    assert len(tests) >= 6
    done = subprocess.run([node, "--test", *tests], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def hard() -> list[formats.Pixels]:
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


@pytest.fixture(scope="module")
def exported(hard: list[formats.Pixels], tmp_path_factory: pytest.TempPathFactory) -> Path:
    node = needs_program("node")
    folder = tmp_path_factory.mktemp("exported")
    height, width = SIZE
    objects = [
        {"id": str(i), "classId": "12"[i % 2], "name": "", "rle": formats.rle(mask)} for i, mask in enumerate(hard)
    ]
    labeled = {
        "classes": [{"id": "1", "name": "cup"}, {"id": "2", "name": 'a "b": ü'}],
        "images": [
            {"id": "x", "name": "a/photo.one.jpg", "width": width, "height": height, "objects": objects[:4]},
            {"id": "y", "name": "b/photo.one.jpg", "width": width, "height": height, "objects": objects[4:]},
            {"id": "z", "name": "empty.png", "width": width, "height": height, "objects": []},
        ],
    }
    (folder / "set.json").write_text(json.dumps(labeled))
    done = subprocess.run(
        [node, str(UNITS / "export.mjs"), str(folder / "set.json"), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


def same(found: list[formats.Pixels], wanted: list[formats.Pixels]) -> None:
    assert [mask.shape for mask in found] == [mask.shape for mask in wanted]
    assert [int((a != b).sum()) for a, b in zip(found, wanted, strict=True)] == [0] * len(wanted)


@pytest.mark.parametrize("name", ["coco.json", "coco-polygons.json"])
def test_pycocotools_reads_the_same_pixels(exported: Path, hard: list[formats.Pixels], name: str) -> None:
    same(formats.coco(exported / name), hard)


def test_png_masks_are_the_same_pixels(exported: Path, hard: list[formats.Pixels]) -> None:
    same(formats.masks(exported / "masks.zip"), hard)


def test_label_studio_brushes_are_the_same_pixels(exported: Path, hard: list[formats.Pixels]) -> None:
    same(formats.label_studio(exported / "label-studio.json"), hard)


def test_label_studios_own_converter_reads_the_same_pixels(exported: Path, hard: list[formats.Pixels]) -> None:
    found = formats.label_studio_by_itself(exported / "label-studio.json")
    classes = ["cup", 'a "b": ü']
    assert list(found) == [f"{n // 4} tag-{classes[n % 2]}-{n % 4 // 2}" for n in range(len(hard))]
    same(list(found.values()), hard)


def test_yolo_polygons_fill_the_same_pixels(exported: Path, hard: list[formats.Pixels]) -> None:
    same(formats.yolo(exported / "yolo.zip", SIZE), hard)


def test_names_survive_and_two_files_of_one_name_are_two(exported: Path) -> None:
    yaml = needs("yaml")
    with zipfile.ZipFile(exported / "yolo.zip") as archive:
        assert yaml.safe_load(archive.read("data.yaml"))["names"] == {0: "cup", 1: 'a "b": ü'}
        labels = {name: archive.read(name) for name in archive.namelist() if name.startswith("labels/")}
    assert sorted(labels) == ["labels/a_photo.one.txt", "labels/b_photo.one.txt", "labels/empty.txt"]
    assert labels["labels/empty.txt"] == b""
    coco = json.loads((exported / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a/photo.one.jpg", "b/photo.one.jpg", "empty.png"]
    assert {one["id"]: one["name"] for one in coco["categories"]} == {1: "cup", 2: 'a "b": ü'}
