"""What the page draws is what the server segments."""

import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.needs import needs
from tests.web import formats
from tests.web.conftest import Served
from tests.web.labeler import Labeler, reload

SIZE = (300, 420)
"""(width, height), upright."""


def scene(seed: int) -> NDArray[np.uint8]:
    """A red disk upper left on green, upright, BGR."""
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    pixels = np.full((SIZE[1], SIZE[0], 3), (40, 110 + seed, 50), np.uint8)
    pixels[np.hypot(rows - 100, columns - 90) < 60] = (30, 40, 220)
    return pixels


def turned_webp(folder: Path) -> Path:
    """A WebP that lies on its side and says so in EXIF, as browsers do not read it."""
    return turned(folder / "turned.webp", lossless=True)


def turned_avif(folder: Path) -> Path:
    """An AVIF that lies on its side and says so, as browsers read it, but not OpenCV, with which trainers read it."""
    return turned(folder / "turned.avif", quality=95)


def turned(file: Path, **options: Any) -> Path:
    """Orientation 6: turn clockwise to see it upright."""
    image = needs("PIL.Image")
    exif = image.Exif()
    exif[0x0112] = 6
    image.fromarray(np.ascontiguousarray(np.rot90(scene(1)[:, :, ::-1]))).save(file, exif=exif, **options)
    return file


def tiff(folder: Path) -> Path:
    """A format that Chromium does not show."""
    assert cv2.imwrite(str(folder / "scan.tif"), scene(2))
    return folder / "scan.tif"


@pytest.mark.parametrize("make", [turned_webp, turned_avif, tiff])
def test_the_picture_is_the_servers(served: Served, context: Any, tmp_path: Path, shots: Path, make: Any) -> None:
    """Upright: a click on the disk finds the disk, the export has the size that is seen, after a reload too."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(make(tmp_path))
    for again in (False, True):
        if again:
            reload(page)
            labeler.wait_for_start()
            labeler.wait()
        page.screenshot(path=shots / f"picture-{make.__name__}.png")
        labeler.begin(90 + 5 * again, 100, SIZE)
        labeler.finish()
        coco = labeler.coco(tmp_path)
        assert [(one["width"], one["height"]) for one in coco["images"]] == [SIZE]
        x, y, width, height = coco["annotations"][-1]["bbox"]
        assert np.hypot(x + width / 2 - 90, y + height / 2 - 100) < 10
        assert coco["annotations"][-1]["segmentation"]["size"] == [SIZE[1], SIZE[0]]
    with zipfile.ZipFile(labeler.export("yolo", tmp_path)) as archive:
        archive.extractall(tmp_path / "yolo")
    [(name, rows)] = formats.yolo(tmp_path / "yolo", exact=False).items()
    assert (Path(name).suffix, len(rows)) == (".jpg", 2)
    drawn = cv2.imread(str(tmp_path / "yolo/images" / name))
    assert drawn is not None
    red = drawn[:, :, 2] > 130
    assert (red & rows[0][1]).sum() / (red | rows[0][1]).sum() > 0.9


def test_a_file_that_neither_can_read_is_named(served: Served, context: Any, tmp_path: Path) -> None:
    """With what the server says of it; the others are opened."""
    broken = tmp_path / "broken.tif"
    broken.write_bytes(tiff(tmp_path).read_bytes()[:200])
    labeler = Labeler(context.new_page(), served.url)
    labeler.note("#hint")
    labeler.open(broken, turned_webp(tmp_path))
    labeler.said("#hint", "broken.tif: ")
    assert labeler.page.locator("#position").inner_text() == "1 / 1"


def test_a_dark_16_bit_image_is_stretched(served: Served, context: Any, tmp_path: Path, shots: Path) -> None:
    """10 bits in 16: the note says so, and with the switch the disk is seen and found; that stays."""
    photo = tmp_path / "ten-bits.png"
    assert cv2.imwrite(str(photo), scene(3).astype(np.uint16) * 4)
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photo)
    page.locator("#model", has_text="of its range").wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/masks") else None)
    page.check("#stretch")
    labeler.wait()
    for _ in range(100):  # until the next frames
        if brightness(page) > 30:
            break
        page.wait_for_timeout(50)
    assert brightness(page) > 30
    page.screenshot(path=shots / "stretched.png")
    labeler.click(90, 100, SIZE)
    labeler.finish()
    x, y, width, height = labeler.coco(tmp_path)["annotations"][0]["bbox"]
    assert np.hypot(x + width / 2 - 90, y + height / 2 - 100) < 10
    assert all("~stretch-0.5-99.5/" in url for url in asked)
    reload(page)
    labeler.wait_for_start()
    labeler.wait()
    assert page.is_checked("#stretch")
    page.locator("#objects li .pick").click()
    page.uncheck("#stretch")
    labeler.wait()
    page.locator("#model", has_text="of its range").wait_for()


def brightness(page: Any) -> float:
    """Mean of the middle of the canvas, 0 to 255."""
    values = page.evaluate(
        """() => {
            const canvas = document.querySelector("#canvas");
            const copy = new OffscreenCanvas(64, 64);
            const context = copy.getContext("2d");
            context.drawImage(canvas, canvas.width / 2 - 100, canvas.height / 2 - 150, 200, 200, 0, 0, 64, 64);
            return JSON.stringify([...context.getImageData(0, 0, 64, 64).data.filter((_, i) => i % 4 < 3)]);
        }"""
    )
    return float(np.mean(json.loads(values)))
