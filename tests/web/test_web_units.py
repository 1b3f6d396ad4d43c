"""The page's modules in node: its own tests, and exports of hard masks read by other programs."""

import io
import json
import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.needs import needs, needs_program
from tests.web import formats
from tests.web.exports import SIZE, UNITS, export, hard_masks

from labeling_ground.api.errors import TABLE
from labeling_ground.codec.image import decode
from labeling_ground.types import Kind

# pycocotools decodes through a class that numpy 2 finds old-fashioned.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
YOLO = {"format": "yolo", "images": True}
STATIC = Path(__file__).parents[2] / "src" / "labeling_ground" / "web" / "static"


def test_the_modules_pass_their_own_tests() -> None:
    node = needs_program("node")
    tests = sorted(str(path) for path in UNITS.glob("*.test.mjs"))
    assert len(tests) >= 6
    done = subprocess.run([node, "--test", *tests], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_page_has_a_place_a_word_and_a_colour_for_each_kind_of_entry() -> None:
    folder = STATIC / "operator"
    figures, words = ((folder / f"{name}.js").read_text("utf-8") for name in ("figures", "words"))
    styles = "".join(path.read_text("utf-8") for path in folder.glob("*.css"))
    listed = re.search(r"KINDS = (\[[^\]]*\])", figures)
    assert listed is not None
    assert set(re.findall(r'"([^"]+)"', listed[1])) == set(Kind)
    for kind in Kind:
        assert re.search(rf'^  "?{kind}"?: \["', words, re.MULTILINE), kind
        assert re.search(rf"\.{kind}[ ,]", styles), kind


def test_each_problem_of_the_server_has_a_sentence_in_the_pages_other_languages() -> None:
    script = (STATIC / "shared" / "problems.js").read_text("utf-8")
    languages = re.findall(r"^  (\w+): \{(.*?)^  \}", script, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in languages] == ["ko"]
    for _, sentences in languages:
        named = set(re.findall(r'^    "?([\w-]+)"?: "[^"]', sentences, re.MULTILINE))
        assert named == {name for _, name, _ in TABLE.values()} | {"malformed-body"}


def test_each_remark_of_the_server_on_an_image_is_said_in_the_pages_language() -> None:
    """Files of which the codec remarks something, and what the page makes of that in Korean: no English is left."""
    image, tifffile = needs("PIL.Image"), needs("tifffile")
    frames = [image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    several = {"save_all": True, "append_images": frames[1:]}
    dark = np.linspace(0, 900, 1200).astype(np.uint16).reshape(30, 40)
    files = [io.BytesIO() for _ in range(5)]
    frames[0].save(files[0], "GIF", **several)
    frames[0].save(files[1], "TIFF", **several)
    image.fromarray(dark).save(files[2], "PNG")
    image.new("RGBA", (40, 30), (255, 255, 255, 9)).save(files[3], "PNG")
    tifffile.imwrite(files[4], np.zeros((30, 40, 5), np.uint8), photometric="rgb")
    notes = [decode(file.getvalue(), image_id="id", max_pixels=10_000).note for file in files]
    said = [note for note in notes if note]
    assert len(said) == len(files)
    script = f"""
        const {{ remarked }} = await import("{STATIC}/shared/problems.js");
        const {{ setLanguage }} = await import("{STATIC}/shared/words.js");
        setLanguage("ko");
        console.log(JSON.stringify({json.dumps(said)}.map(remarked)));
    """
    node = [needs_program("node"), "--input-type=module", "-e", script]
    for text in json.loads(subprocess.run(node, capture_output=True, text=True, check=True, timeout=60).stdout):
        assert re.search("[가-힣]", text)
        assert not re.search("[a-z]{2,}", text)


@pytest.fixture(scope="module")
def hard() -> list[formats.Pixels]:
    return hard_masks()


@pytest.fixture(scope="module")
def exported(hard: list[formats.Pixels], tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [("a/photo.one.jpg", hard[:4]), ("b/photo.one.jpg", hard[4:]), ("empty.png", [])]
    plain = ("coco-rle", "coco-polygons", "masks", "labelstudio")
    return export(tmp_path_factory.mktemp("exported"), images, YOLO, *({"format": form} for form in plain))


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


def test_yolo_rows_fill_the_same_pixels(hard: list[formats.Pixels], tmp_path: Path) -> None:
    """Whichever program fills them, and however many pieces and holes there are."""
    found = formats.yolo(export(tmp_path, [(f"{n}.png", [mask]) for n, mask in enumerate(hard)], YOLO) / "yolo")
    same([np.logical_or.reduce([mask for _, mask in found[f"{n}.png"]]) for n in range(len(hard))], hard)


def test_yolo_with_the_largest_pieces_only(hard: list[formats.Pixels], tmp_path: Path) -> None:
    """One row for each object: of a ring around a dot, the ring."""
    found = formats.yolo(export(tmp_path, [("a.png", hard[1:4])], YOLO | {"pieces": "largest"}) / "yolo")["a.png"]
    assert [number for number, _ in found] == [0, 1, 0]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    ring = hard[1] & (np.hypot(rows - 45, columns - 60) > 10)
    same([found[0][1], found[2][1]], [ring, hard[3]])


@pytest.mark.parametrize("tolerance", [0, 1, 2, 4])
def test_yolo_of_a_large_rugged_mask(tolerance: int, tmp_path: Path) -> None:
    """An outline of many thousand corners is thinned out to what a trainer keeps, and says the same."""
    rng = np.random.default_rng(11)
    rows, columns = np.mgrid[:1500, :2000]
    angle = np.arctan2(rows - 750, columns - 1000)
    blob = np.hypot(rows - 750, columns - 1000) < 500 + 90 * np.sin(7 * angle) + rng.integers(-3, 4, (1500, 2000))
    blob &= np.hypot(rows - 700, columns - 900) > 120
    wanted = np.asarray(cv2.medianBlur(blob.astype(np.uint8), 5) > 0, np.bool_)
    found = formats.yolo(
        export(tmp_path, [("a.png", [wanted])], YOLO | {"tolerance": tolerance}) / "yolo", exact=False
    )["a.png"]
    whole = np.logical_or.reduce([mask for _, mask in found])
    assert (whole & wanted).sum() / (whole | wanted).sum() > 0.98


def test_a_trainer_finds_every_label_file_whatever_the_images_are_called(
    hard: list[formats.Pixels], tmp_path: Path
) -> None:
    """Folders, one called like the data set's own; one stem with two endings; endings and case; strange characters."""
    names = [
        *("set/inner/rocket.jpg", "set/images/rocket.jpg", "rocket.jpg", "rocket.png", "Rocket.PNG"),
        *("no ending", "a.b/c", "what?.jpg", "../up.jpg", "images/rocket.jpg", "images.jpg"),
    ]
    masks = [np.roll(hard[0], 3 * n, axis=1) for n in range(len(names))]
    folder = export(tmp_path, [(name, [mask]) for name, mask in zip(names, masks, strict=True)], YOLO) / "yolo"
    found = formats.yolo(folder)
    assert len(found) == len(names)
    assert list(found)[:4] == ["set/inner/rocket.jpg", "set/images/rocket.jpg", "rocket.jpg", "rocket-2.png"]
    assert (folder / "images/set/labels/rocket.txt").is_file()
    same([rows[0][1] for rows in found.values()], masks)
    labels = [formats.yolo_label(folder / "images" / name) for name in found]
    assert len({str(label).lower() for label in labels}) == len(names)


def test_yolo_without_the_images_says_which_ones_to_rename(hard: list[formats.Pixels], tmp_path: Path) -> None:
    folder = export(tmp_path, [(name, hard[:1]) for name in ("a/x.png", "a/x.jpg")], YOLO | {"images": False}) / "yolo"
    assert json.loads((folder / "renamed.json").read_text()) == {"a/x.jpg": "images/a/x-2.jpg"}
    assert not (folder / "images").exists()
    assert (folder / "train.txt").read_text() == "./images/a/x.png\n./images/a/x-2.jpg\n"


def test_names_survive_and_two_files_of_one_name_are_two(exported: Path) -> None:
    yaml = needs("yaml")
    described = yaml.safe_load((exported / "yolo" / "data.yaml").read_text())
    assert described == {"train": "train.txt", "val": "train.txt", "names": {0: "cup", 1: 'a "b": ü'}}
    found = formats.yolo(exported / "yolo")
    assert list(found) == ["a/photo.one.jpg", "b/photo.one.jpg", "empty.png"]
    assert found["empty.png"] == []
    coco = json.loads((exported / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a/photo.one.jpg", "b/photo.one.jpg", "empty.png"]
    assert {one["id"]: one["name"] for one in coco["categories"]} == {1: "cup", 2: 'a "b": ü'}
