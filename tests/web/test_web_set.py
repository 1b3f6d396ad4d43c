"""A set of photographs at work: how far each is, which come next, and what did not open."""

import contextlib
import hashlib
import json
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from tests.needs import needs
from tests.web.conftest import Served, profile
from tests.web.labeler import Labeler, reload

# pycocotools decodes through a class that numpy 2 finds old-fashioned.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
COFFEE = (600, 400)
VOC = (500, 375)


def every_format(folder: Path) -> list[Path]:
    """One small photograph in each format that the page opens."""
    image = needs("PIL.Image")
    needs("pillow_heif").register_heif_opener()
    pixels = np.full((60, 80, 3), (40, 90, 200), np.uint8)
    for n, ending in enumerate(("heic", "avif", "gif", "tiff")):
        pixels[10:40, 10 : 20 + 5 * n] = (220, 60, 30)
        image.fromarray(pixels).save(folder / f"{n}.{ending}")
    return sorted(folder.iterdir())


def test_images_are_marked_found_and_gone_through_and_failures_are_listed(
    served: Served, context: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """States, the next that is not done, filter, search, a reload; a file that is no image, with the reason."""
    (tmp_path / "broken.heic").write_bytes(b"no image")
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"], photos["rocket"], photos["voc"], tmp_path / "broken.heic")
    states = page.locator("#thumbs button")
    page.locator("#failures", has_text="1 failed").wait_for()
    labeler.click(300, 200, COFFEE)
    page.keyboard.press("Control+Enter")  # finishes the object too
    page.locator("#position", has_text="2 / 3").wait_for()
    page.locator("#progress-text", has_text="1 of 3 done").wait_for()
    page.keyboard.press("g")
    page.locator("#position", has_text="3 / 3").wait_for()
    page.select_option("#state", "review")
    page.locator("#thumbs [data-work=review]").wait_for()
    page.screenshot(path=shots / "states.png")
    works = [states.nth(n).get_attribute("data-work") for n in range(3)]
    assert works == ["done", "nothing", "review"]  # coffee.png, rgb.jpg, rocket.jpg
    reload(page)
    labeler.wait_for_start()
    page.locator("#progress-text", has_text="2 of 3 done").wait_for()
    page.select_option("#filter", "done")
    page.locator("#thumbs li").nth(1).wait_for()  # what is done, and what is open
    assert page.locator("#thumbs li").count() == 2
    page.select_option("#filter", "all")
    page.fill("#find", "ROCK")
    page.locator("#thumbs .name", has_text="coffee").wait_for(state="detached")
    page.fill("#find", "")
    page.locator("#thumbs li").nth(2).wait_for()
    page.keyboard.press("Escape")
    page.locator("#thumbs button").nth(0).click()
    page.click("#next-open")
    page.locator("#image-name", has_text="rocket.jpg").wait_for()
    page.set_input_files("#files", str(tmp_path / "broken.heic"))
    page.click("#failures")
    said = page.locator("#failures-list").inner_text()
    assert "broken.heic" in said
    assert "not an image file" in said
    page.screenshot(path=shots / "failures.png")
    page.click("#remove-failures")
    page.locator("#failures").wait_for(state="hidden")


def test_formats_that_browsers_do_not_show_open_too(served: Served, context: Any, tmp_path: Path) -> None:
    """HEIC and TIFF as the server decodes them, AVIF and GIF by whichever can."""
    labeler = Labeler(context.new_page(), served.url)
    files = every_format(tmp_path)
    labeler.open(*files)
    labeler.page.locator("#thumbs li").nth(len(files) - 1).wait_for()
    assert labeler.page.locator("#failures").is_hidden()
    assert sorted(labeler.page.locator("#thumbs .name").all_inner_texts()) == [file.name for file in files]


def test_everything_is_found_picked_merged_and_kept(served: Served, context: Any, shots: Path, tmp_path: Path) -> None:
    """Two disks on green: both are found, merged, and kept as one object by Enter; one undo takes it back."""
    rows, columns = np.mgrid[:90, :140]
    pixels = np.full((90, 140, 3), (40, 110, 50), np.uint8)
    disks = [np.hypot(rows - 45, columns - x) < 25 for x in (35, 105)]
    for disk in disks:
        pixels[disk] = (220, 40, 30)
    needs("PIL.Image").fromarray(pixels).save(tmp_path / "disks.png")
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(tmp_path / "disks.png")
    page.click("#everything")
    page.wait_for_selector("#found-bar")
    page.wait_for_selector("#found-progress", state="hidden")
    size = (140, 90)
    labeler.click_only(35, 45, size)
    labeler.click_only(105, 45, size)
    page.locator("#found-text", has_text="2 picked").wait_for()
    page.screenshot(path=shots / "everything.png")
    page.keyboard.press("m")
    page.locator("#found-text", has_text="1 picked").wait_for()
    page.keyboard.press("Enter")
    page.locator("#objects li").wait_for()
    page.keyboard.press("Escape")
    page.locator("#found-bar").wait_for(state="hidden")
    [annotation] = labeler.coco(tmp_path)["annotations"]
    found = np.asarray(coco_masks.decode(annotation["segmentation"]), np.bool_)
    assert found[45, 35]
    assert found[45, 105]
    assert (found & ~disks[0] & ~disks[1]).sum() < 0.1 * found.sum()
    page.locator("#canvas").focus()
    page.keyboard.press("Control+z")
    page.locator("#objects li").wait_for(state="detached")


HANGS = "onmessage = () => setInterval(() => postMessage({step: 'images', done: 1, of: 3}), 20);"


def test_what_is_done_is_exported_in_parts_with_its_photographs_and_an_export_can_be_called_off(
    served: Served, context: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """By default what is done and where nothing is; the choices stay; Cancel ends what is being made."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"], photos["rocket"], photos["voc"])
    labeler.click(300, 200, COFFEE)
    labeler.finish()
    page.keyboard.press("Control+Enter")
    page.keyboard.press("g")
    page.locator("#position", has_text="3 / 3").wait_for()
    labeler.wait()
    page.click("#export")
    page.check("input[name=format][value=coco-rle]")
    page.locator("#export-summary", has_text="1 object in 2 images. 1 image in another state is left out.").wait_for()
    page.check("#export-images")
    page.select_option("#export-validation", "10")
    page.fill("#export-seed", "7")
    page.evaluate("document.querySelector('#hover').click()")  # the page is drawn anew while the field has the focus
    page.locator("#export-summary", has_text="1 image validates.").wait_for()
    page.screenshot(path=shots / "export-set.png")
    headers = {"Content-Type": "text/javascript", "Cross-Origin-Embedder-Policy": "require-corp"}
    page.route("**/export/worker.js", lambda route: route.fulfill(headers=headers, body=HANGS))
    page.click("#download")
    page.locator("#export-summary", has_text="Image 1 of 3").wait_for()
    assert page.locator("#export-progress").get_attribute("value") == "1"
    page.click("#cancel-export")
    page.locator("#export-summary", has_text="1 object in 2 images").wait_for()
    page.unroute("**/export/worker.js")
    reload(page)
    labeler.wait_for_start()
    page.click("#export")
    page.wait_for_selector("#export-dialog[open]")
    assert page.locator("#export-seed").input_value() == "7"
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "set.zip")
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        names = archive.namelist()
        files = {part: json.loads(archive.read(f"annotations/instances_{part}.json")) for part in ("train", "val")}
        pictures = {Path(name).name: archive.read(name) for name in names if name.startswith("images/")}
    assert pictures == {photos[name].name: photos[name].read_bytes() for name in ("coffee", "voc")}
    assert sorted(len(data["images"]) for data in files.values()) == [1, 1]
    [annotation] = [one for data in files.values() for one in data["annotations"]]
    assert set(annotation["attributes"]) == {"model", "model_version"}


def is_encoded(served: Served, photo: Path) -> bool:
    image_id = hashlib.sha256(photo.read_bytes()).hexdigest()
    with urllib.request.urlopen(f"{served.url}v1/images/{image_id}", timeout=60) as answer:
        return bool(json.load(answer)["encoded"])


def wait_until_encoded(served: Served, photo: Path) -> None:
    give_up = time.monotonic() + 60
    while not is_encoded(served, photo):
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_images_that_come_next_and_whose_embeddings_are_gone_are_encoded_before_they_are_opened(
    served: Served, context: Any, photos: dict[str, Path]
) -> None:
    """The page says which images come; a server that was restarted has their files, and their embeddings no more."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    page.uncheck("#hover")
    labeler.open(photos["coffee"], photos["rocket"], photos["voc"])
    page.locator("#thumbs [data-state=ready]").nth(2).wait_for()
    labeler.click(300, 200, COFFEE)
    page.keyboard.press("Enter")
    forget = urllib.request.Request(f"{served.url}v1/cache?model=classical", method="DELETE")
    urllib.request.urlopen(forget, timeout=60).close()
    served.kill()
    served.start()
    assert not is_encoded(served, photos["voc"])
    with page.expect_request("**/v1/upcoming") as told:
        reload(page)
    names = ("coffee", "voc", "rocket")  # coffee.png, rgb.jpg, rocket.jpg
    ids = [hashlib.sha256(photos[name].read_bytes()).hexdigest() for name in names]
    assert told.value.post_data_json == {"images": ids}
    labeler.click(20, 380, COFFEE)
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    wait_until_encoded(served, photos["voc"])
    page.keyboard.press("d")
    page.locator("#image-name", has_text="rgb.jpg").wait_for()
    labeler.click(250, 150, VOC)
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    wait_until_encoded(served, photos["rocket"])
    with page.expect_request("**/v1/upcoming") as told:
        page.evaluate("document.querySelector('#prepare').click()")
    assert told.value.post_data_json == {"images": []}


def bring(page: Any, file: Path, mode: str = "add") -> str:
    """Import a file; returns what the dialog says of it."""
    page.set_input_files("#import-files", str(file))
    page.locator("#start-import").wait_for()
    page.select_option("#import-mode", mode)
    page.click("#start-import")
    page.locator("#start-import").wait_for(state="hidden")
    said: str = page.locator("#import-summary").inner_text()
    page.wait_for_function("() => document.activeElement.matches('#import-dialog .close')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#import-dialog", state="hidden")
    return said


def test_work_goes_from_one_browser_to_another_and_back(
    served: Served, chromium: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """A project with its photographs; without them, to be opened later; other labels in place of ours."""
    with contextlib.closing(profile(chromium, viewport={"width": 1280, "height": 800}, locale="en-US")) as first:
        labeler = Labeler(first.new_page(), served.url)
        labeler.open(photos["coffee"], photos["rocket"])
        labeler.click(300, 200, COFFEE)
        labeler.finish()
        labeler.drag((370, 170, 460, 330), COFFEE)
        labeler.finish()
        labeler.page.keyboard.press("Control+Enter")
        labeler.page.keyboard.press("g")
        wanted = labeler.coco(tmp_path)
        whole = labeler.export("project", tmp_path, None).rename(tmp_path / "whole.zip")
        labeler.page.click("#export")
        labeler.page.uncheck("#export-images")
        labeler.page.keyboard.press("Escape")
        bare = labeler.export("project", tmp_path, None).rename(tmp_path / "bare.zip")
        yolo = labeler.export("yolo", tmp_path).rename(tmp_path / "yolo.zip")
    assert bare.stat().st_size < 100_000 < whole.stat().st_size
    with contextlib.closing(profile(chromium, viewport={"width": 1280, "height": 800}, locale="en-US")) as second:
        labeler = Labeler(second.new_page(), served.url)
        page = labeler.page
        page.set_input_files("#files", str(whole))  # what Open photos is given, or what is dropped
        page.locator("#import-summary", has_text="Project file, with 2 images.").wait_for()
        page.screenshot(path=shots / "import.png")
        page.click("#start-import")
        page.locator("#import-summary", has_text="2 objects in 2 images are here now.").wait_for()
        page.locator("#start-import").wait_for(state="hidden")
        page.keyboard.press("Escape")
        page.locator("#progress-text", has_text="2 of 2 done").wait_for()
        assert page.locator("#failures").is_hidden()
        assert labeler.coco(tmp_path) == wanted
        assert "0 objects" not in bring(page, whole)  # once more adds nothing
        assert labeler.coco(tmp_path) == wanted
        assert "2 images are here now" in bring(page, yolo, "replace")
        rows = labeler.coco(tmp_path)
        unions = [coco_masks.merge([one["segmentation"] for one in data["annotations"]]) for data in (wanted, rows)]
        assert unions[0] == unions[1]
        page.locator("#canvas").focus()
    with contextlib.closing(profile(chromium, viewport={"width": 1280, "height": 800}, locale="en-US")) as third:
        labeler = Labeler(third.new_page(), served.url)
        page = labeler.page
        assert "2 objects in 2 images" in bring(page, bare)
        reload(page)
        labeler.wait_for_start()
        page.locator("#failures", has_text="2 photos missing").wait_for()
        page.screenshot(path=shots / "missing.png")
        labeler.open(photos["coffee"], photos["rocket"])
        page.locator("#progress-text", has_text="2 of 2 done").wait_for()
        page.locator("#failures").wait_for(state="hidden")
        assert labeler.objects() == 2
        assert labeler.coco(tmp_path) == wanted
