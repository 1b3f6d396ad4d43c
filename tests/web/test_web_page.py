"""The rest of the page: several images, lists, languages, keyboard, small screens, plain http, keys."""

import base64
import hashlib
import re
import shutil
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.web import formats
from tests.web.conftest import PLAIN, Served, profile
from tests.web.labeler import Labeler, reload, requests

COFFEE = (600, 400)
HAND_OVER = """([kind, data, name]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], name, {type: name.endsWith("png") ? "image/png" : "image/jpeg"}));
    const event = kind === "paste"
        ? new ClipboardEvent("paste", {clipboardData: files, bubbles: true})
        : new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true});
    document.body.dispatchEvent(event);
}"""
READY = "#thumbs [data-state=ready]"


def uploads(page: Any) -> list[str]:
    """The images that a page sends from now on; the list grows."""
    return requests(page, _is_upload)


def _is_upload(request: Any) -> bool:
    return bool(request.method == "POST" and re.search(r"/v1/images(\?|$)", request.url))


def test_the_next_images_are_prepared_and_no_known_image_is_sent_again(
    chromium: Any, served: Served, context: Any, photos: dict[str, Path], shots: Path
) -> None:
    """While the first one is labeled the others are encoded; a second annotator sends nothing at all."""
    page = context.new_page()
    sent = uploads(page)
    labeler = Labeler(page, served.url)
    labeler.open(photos["coffee"], photos["rocket"], photos["voc"])
    page.locator(READY).nth(2).wait_for()
    assert len(sent) <= 3
    assert page.locator("#position").inner_text() == "1 / 3"
    labeler.click(300, 200, COFFEE)
    labeler.finish()
    page.keyboard.press("d")
    labeler.wait()
    assert page.locator("#position").inner_text() == "2 / 3"
    assert labeler.objects() == 0
    page.screenshot(path=shots / "images.png")
    page.keyboard.press("a")
    labeler.wait()
    assert labeler.objects() == 1
    other = profile(chromium)
    try:
        page = other.new_page()
        sent = uploads(page)
        labeler = Labeler(page, served.url)
        labeler.open(photos["coffee"], photos["rocket"], photos["voc"])
        page.locator(READY).nth(2).wait_for()
        assert sent == []
    finally:
        other.close()


def test_objects_are_named_classed_hidden_edited_and_deleted(
    served: Served, context: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """What the list does is in the file; text of the user is never markup."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    for name in ("cup", "<b>saucer</b>"):
        page.fill("#add-class input", name)
        page.press("#add-class input", "Enter")
    assert page.locator("#classes li").count() == 3
    page.locator("#canvas").focus()
    page.keyboard.press("2")
    labeler.click(300, 200, COFFEE)
    labeler.finish()
    page.keyboard.press("3")
    labeler.drag((80, 60, 500, 390), COFFEE)
    labeler.finish()
    page.screenshot(path=shots / "classes.png")
    first = page.locator("#objects li").nth(0)
    first.locator(".pick").dblclick()
    first.locator("input").fill("my cup")
    first.locator("input").press("Enter")
    coco = labeler.coco(tmp_path)
    assert [one["name"] for one in coco["categories"]] == ["object", "cup", "<b>saucer</b>"]
    assert [one["category_id"] for one in coco["annotations"]] == [2, 3]
    assert [one["attributes"].get("name") for one in coco["annotations"]] == ["my cup", None]
    first = page.locator("#objects li").nth(0)
    first.get_by_role("button", name="Hide").click()
    assert "off" in (first.get_attribute("class") or "")
    first.get_by_role("button", name="Show").click()
    first.get_by_role("button", name="Edit again").click()
    labeler.click(320, 300, COFFEE)
    labeler.finish()
    assert labeler.objects() == 2
    again = labeler.coco(tmp_path)
    assert again["annotations"][0]["attributes"]["name"] == "my cup"
    page.locator("#objects li").nth(1).get_by_role("button", name="Delete").click()
    assert labeler.objects() == 1
    page.keyboard.press("Control+z")
    assert labeler.objects() == 2
    labeler.note("#hint")
    page.get_by_role("button", name="Delete the class cup").click()
    labeler.said("#hint", "still has objects")
    assert page.locator("#classes li").count() == 3


def test_a_click_on_an_objects_row_selects_it_and_keys_go_on(
    served: Served, context: Any, photos: dict[str, Path]
) -> None:
    """«2» is its class then, not its name; F2 and a double click name it; CapsLock changes no key."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    page.fill("#add-class input", "cup")
    page.press("#add-class input", "Enter")
    labeler.click(300, 200, COFFEE)
    labeler.finish()
    page.locator("#objects li .pick").click()
    page.keyboard.press("1")
    page.locator("#objects li .pick", has_text="object 1").wait_for()
    page.keyboard.press("2")
    page.locator("#objects li .pick", has_text="cup 1").wait_for()
    page.keyboard.press("F2")
    page.keyboard.type("mine")
    page.keyboard.press("Enter")
    page.locator("#objects li .pick", has_text="mine").wait_for()
    page.locator("#objects li .pick").dblclick()
    page.keyboard.type("no")
    page.keyboard.press("Escape")
    page.locator("#objects li .pick", has_text="mine").wait_for()
    page.locator("#canvas").focus()
    capitals = {"key": "P", "code": "KeyP", "bubbles": True, "cancelable": True}  # CapsLock on, no Shift
    page.evaluate("how => document.querySelector('#canvas').dispatchEvent(new KeyboardEvent('keydown', how))", capitals)
    page.wait_for_selector("#hover:not(:checked)")
    assert page.locator("#thumbs button").get_attribute("title") == "coffee.png, In work, 1 object, ready"


def test_two_files_with_the_same_bytes_are_both_named_and_exported(
    served: Served, context: Any, photos: dict[str, Path], tmp_path: Path
) -> None:
    """In folders, with one stem; the data set of both is found by a trainer, from anywhere."""
    root = tmp_path / "set"
    for name, source in (("a/x.jpg", "rocket"), ("b/x.jpg", "rocket"), ("b/x.png", "coffee"), ("bare.jpg", "voc")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos[source], root / name)
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.note("#hint")
    page.set_input_files("#folder-files", str(root))
    labeler.said("#hint", "set/b/x.jpg is the same file as set/a/x.jpg")
    page.locator("#position", has_text="1 / 3").wait_for()
    labeler.wait()
    assert page.locator("#image-name").inner_text() == "set/a/x.jpg = set/b/x.jpg"
    labeler.click(320, 250, (640, 427))
    labeler.finish()
    page.keyboard.press("d")
    labeler.wait()
    labeler.click(300, 200, COFFEE)
    labeler.finish()
    page.click("#export")
    page.check("input[name=format][value=yolo]")
    page.check("#export-working")
    said = "3 objects in 3 images. 1 image in another state is left out."
    page.locator("#export-summary", has_text=said).wait_for()
    page.keyboard.press("Escape")
    with zipfile.ZipFile(labeler.export("yolo", tmp_path, ("working",))) as archive:
        archive.extractall(tmp_path / "unpacked")
    found = formats.yolo(tmp_path / "unpacked", exact=False)
    assert {name: {mask.shape for _, mask in rows} for name, rows in found.items()} == {
        "set/a/x.jpg": {(427, 640)},
        "set/b/x.jpg": {(427, 640)},
        "set/b/x-2.png": {(400, 600)},
    }
    assert (tmp_path / "unpacked" / "images" / "set/a/x.jpg").read_bytes() == photos["rocket"].read_bytes()


def test_an_object_can_be_labeled_without_a_mouse(
    served: Served, context: Any, photos: dict[str, Path], shots: Path
) -> None:
    """Arrow keys move a cross, the space bar clicks there, B sets the corners of a box."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    page.locator("#canvas").focus()
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Space")
    labeler.wait()
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    page.screenshot(path=shots / "keyboard.png")
    shown = page.locator("#candidate").inner_text()
    page.keyboard.press("c")
    assert page.locator("#candidate").inner_text() != shown
    page.keyboard.press("Enter")
    page.locator("#objects li").nth(0).wait_for()
    page.keyboard.press("b")
    for _ in range(5):
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
    page.keyboard.press("b")
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    page.keyboard.press("Enter")
    page.locator("#objects li").nth(1).wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Delete")
    assert labeler.objects() == 1
    page.keyboard.press("u")
    page.keyboard.press("Space")  # as the mouse does: a point by itself, without the model
    page.locator("#objects li").nth(1).wait_for()
    assert page.locator("#prompt-bar").is_hidden()
    page.keyboard.press("q")
    page.click("#everything")
    page.locator("#found-progress").wait_for(state="hidden")
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")  # picks among what was found
    page.locator("#found-text", has_text="1 picked").wait_for()
    page.keyboard.press("Enter")
    page.locator("#objects li").nth(2).wait_for()


def test_the_page_speaks_korean_and_helps(
    served: Served, chromium: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """By the browser's language, or as chosen; the choice stays. What the server refuses is said in it, too."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos["rocket"].read_bytes()[:5000])
    korean = profile(chromium, viewport={"width": 1280, "height": 800}, locale="ko-KR")
    try:
        labeler = Labeler(korean.new_page(), served.url)
        page = labeler.page
        assert page.locator("html").get_attribute("lang") == "ko"
        labeler.note("#hint")
        labeler.open(photos["coffee"], broken)
        labeler.said("#hint", "broken.jpg: 이미지 파일이 손상되었습니다.")
        page.click("#failures")
        page.locator(
            "#failures-list", has_text="서버 메시지: The JPEG file of 640 × 427 pixels is truncated"
        ).wait_for()
        page.keyboard.press("Escape")
        labeler.click(300, 200, COFFEE)
        page.screenshot(path=shots / "korean.png")
        page.keyboard.press("?")
        page.wait_for_selector("#help-dialog[open]")
        page.screenshot(path=shots / "help-ko.png")
        page.keyboard.press("Escape")
        page.select_option("#language", "en")
        assert page.locator("#finish").inner_text().startswith("Finish")
        reload(page)
        labeler.wait_for_start()
        assert page.locator("html").get_attribute("lang") == "en"
        labeler.wait()
        page.locator("#canvas").focus()
        page.keyboard.press("?")
        page.screenshot(path=shots / "help-en.png")
        page.keyboard.press("Escape")
        page.keyboard.press("s")
        page.screenshot(path=shots / "export.png")
    finally:
        korean.close()


def test_a_phone_can_label(served: Served, chromium: Any, photos: dict[str, Path], shots: Path) -> None:
    """Taps, a long press for what does not belong, and the lists behind a button."""
    phone = profile(chromium, viewport={"width": 390, "height": 780}, device_scale_factor=2, has_touch=True)
    try:
        labeler = Labeler(phone.new_page(), served.url)
        page = labeler.page
        page.screenshot(path=shots / "phone-welcome.png")
        labeler.open(photos["coffee"])
        for _ in range(10):
            page.touchscreen.tap(*labeler.place(300, 200, COFFEE))
            labeler.wait()
            if page.locator("#prompt-bar[data-mask=yes]").is_visible():
                break
            page.tap("#undo")  # where this machine stood still, the tap became a long press
        page.wait_for_selector("#prompt-bar[data-mask=yes]")
        page.screenshot(path=shots / "phone.png")
        page.tap("#finish")
        page.tap("#panel-switch")
        page.locator("#objects li").nth(0).wait_for()
        page.screenshot(path=shots / "phone-panel.png")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
        for part in ("#open-folder", "#import", "#language", "#to-cache"):  # the header has no room for them
            page.locator(f"#panel {part}").scroll_into_view_if_needed()
            assert page.locator(part).is_visible()
        page.set_viewport_size({"width": 1280, "height": 780})
        header = "[...document.querySelectorAll('header :is(button, select, a)')].map(({id}) => id)"
        assert page.evaluate(header)[:3] == ["open", "open-folder", "import"]
        assert page.evaluate(header)[-4:] == ["language", "to-cache", "help", "panel-switch"]
    finally:
        phone.close()


def test_plain_http_in_the_office_works_too(served: Served, context: Any, photos: dict[str, Path]) -> None:
    """Where browsers offer no cryptography the page computes the image id by itself: the same one."""
    page = context.new_page()
    labeler = Labeler(page, served.url.replace("127.0.0.1", PLAIN))
    assert page.evaluate("[isSecureContext, typeof crypto.subtle]") == [False, "undefined"]
    labeler.open(photos["coffee"])
    labeler.click(300, 200, COFFEE)
    labeler.finish()
    assert labeler.objects() == 1


@pytest.mark.slow
def test_a_large_image_stays_smooth(served: Served, context: Any, tmp_path: Path, shots: Path) -> None:
    """4000 × 3000 pixels: opened, labeled, zoomed and moved, down to single pixels."""
    rows, columns = np.mgrid[:3000, :4000]
    picture = np.full((3000, 4000, 3), (90, 120, 60), np.uint8)
    picture[np.hypot(rows - 1500, columns - 2000) < 900] = (40, 60, 220)
    photo = tmp_path / "large.jpg"
    cv2.imwrite(str(photo), picture)
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photo)
    labeler.click(2000, 1500, (4000, 3000))
    labeler.finish()
    page.mouse.move(*labeler.place(2000, 600, (4000, 3000)))
    for _ in range(12):
        page.mouse.wheel(0, -200)
    page.keyboard.down("Space")
    page.mouse.down()
    page.mouse.move(500, 500, steps=5)
    page.mouse.up()
    page.keyboard.up("Space")
    page.screenshot(path=shots / "large-zoomed.png")
    page.keyboard.press("0")
    assert labeler.objects() == 1
    [annotation] = labeler.coco(tmp_path)["annotations"]
    assert annotation["area"] == pytest.approx(np.pi * 900**2, rel=0.02)


def test_a_server_with_keys_is_asked_with_one(context: Any, photos: dict[str, Path], tmp_path: Path) -> None:
    """The page asks for the key once, keeps it for this tab, and goes on."""
    closed = Served(tmp_path, LABELING_GROUND_API_KEYS="open sesame")
    closed.start()
    try:
        labeler = Labeler(context.new_page(), closed.url)
        page = labeler.page
        page.set_input_files("#files", str(photos["coffee"]))
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "open sesame")
        page.keyboard.press("Enter")
        labeler.wait()
        labeler.click(300, 200, COFFEE)
        labeler.finish()
        assert labeler.objects() == 1
    finally:
        closed.kill()


def test_what_is_no_photo_is_said_and_harms_nothing(
    served: Served, context: Any, photos: dict[str, Path], tmp_path: Path
) -> None:
    """A broken image among good ones is named; the others are opened."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image at all")
    labeler = Labeler(context.new_page(), served.url)
    labeler.note("#hint")  # it is said for eight seconds, and encoding may take longer
    labeler.open(broken, photos["coffee"])
    labeler.said("#hint", "broken.png")
    assert labeler.page.locator("#position").inner_text() == "1 / 1"


def test_photos_come_by_drop_by_paste_and_by_folder(
    served: Served, context: Any, photos: dict[str, Path], tmp_path: Path
) -> None:
    """Whichever way, and twice the same is once."""
    (tmp_path / "set" / "inner").mkdir(parents=True)
    shutil.copy(photos["rocket"], tmp_path / "set" / "inner" / "rocket.jpg")
    (tmp_path / "set" / "notes.txt").write_text("no photo")
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    for kind, name in (("drop", "coffee"), ("paste", "voc"), ("drop", "voc")):
        data = base64.b64encode(photos[name].read_bytes()).decode()
        page.evaluate(HAND_OVER, [kind, data, photos[name].name])
        page.locator("#position", has_text="1 / 1" if name == "coffee" else "2 / 2").wait_for()
        labeler.wait()
    page.set_input_files("#folder-files", str(tmp_path / "set"))
    page.locator("#position", has_text="3 / 3").wait_for()
    assert page.locator("#image-name").inner_text() == "set/inner/rocket.jpg"


def test_an_image_that_the_server_forgot_is_sent_again(served: Served, context: Any, photos: dict[str, Path]) -> None:
    """A purge in the middle of the work costs the annotator some waiting."""
    labeler = Labeler(context.new_page(), served.url)
    labeler.open(photos["rocket"])
    sent = uploads(labeler.page)
    image_id = hashlib.sha256(photos["rocket"].read_bytes()).hexdigest()
    with urllib.request.urlopen(
        urllib.request.Request(f"{served.url}v1/images/{image_id}", method="DELETE"), timeout=60
    ) as answer:
        assert answer.status == 200
    labeler.click(320, 250, (640, 427))
    labeler.page.wait_for_selector("#prompt-bar[data-mask=yes]")
    assert len(sent) == 1


def test_a_fast_annotator_finishes_before_the_mask_is_there(
    served: Served, context: Any, photos: dict[str, Path]
) -> None:
    """Enter right after the click counts; and Enter after a button was clicked does not press that button again."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    labeler.click_only(310, 190, COFFEE)
    page.keyboard.press("Enter")
    page.locator("#objects li").nth(0).wait_for()
    page.click("#undo")
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    page.keyboard.press("Enter")
    page.locator("#objects li").nth(0).wait_for()
    page.click("#remove-image")
    page.click("#ask-yes")
    page.wait_for_selector("#welcome", state="visible")
    reload(page)
    labeler.wait_for_start()
    assert page.locator("#welcome").is_visible()


def test_everything_that_can_be_pressed_has_a_name(served: Served, context: Any, photos: dict[str, Path]) -> None:
    """For those who hear the page; and the keyboard reaches every tool."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    labeler.click(300, 200, COFFEE)
    labeler.finish()
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input:not([hidden]), select, canvas, section[id], nav, aside")]
            .filter((one) => one.checkVisibility() && !one.labels?.length
                && !one.getAttribute("aria-label") && !one.textContent.trim())
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    reached = set()
    page.locator("#open").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.tool || ''"))
    assert {"export", "language", "help", "minus", "box", "undo", "zoom-in", "canvas", "opacity"} <= reached


def speckled(path: Path, seed: int, size: tuple[int, int] = (60, 80)) -> Path:
    """A photo of (height, width) that no server has seen."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    pixels[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = (20, 30, 200)
    assert cv2.imwrite(str(path), pixels)
    return path


def test_preparing_can_be_switched_off_and_on(served: Served, context: Any, tmp_path: Path) -> None:
    """Off: only what is being labeled is sent. On: the next ones follow."""
    few = [speckled(tmp_path / f"{n}.png", 100 + n) for n in range(4)]
    page = context.new_page()
    sent = uploads(page)
    labeler = Labeler(page, served.url)
    page.uncheck("#prepare")
    labeler.open(*few)
    page.locator("#thumbs li").nth(3).wait_for()
    page.locator(READY).nth(0).wait_for()
    page.wait_for_timeout(300)
    assert len(sent) == 1
    page.check("#prepare")
    page.locator(READY).nth(2).wait_for()
    assert len(sent) == 3
    assert page.locator("#thumbs [data-state=new]").count() == 1


def test_a_slow_upload_is_seen(served: Served, context: Any, tmp_path: Path, shots: Path) -> None:
    """With a bar, and clicks made meanwhile are answered when the image is there."""
    photo = speckled(tmp_path / "heavy.png", 7, (700, 900))
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    limits = {"offline": False, "latency": 5, "downloadThroughput": -1, "uploadThroughput": 40_000}
    session.send("Network.emulateNetworkConditions", limits)
    page.set_input_files("#files", str(photo))
    page.wait_for_selector("#waiting:has-text('Uploading') progress")
    labeler.click_only(330, 260, (900, 700))
    page.screenshot(path=shots / "uploading.png")
    session.send("Network.emulateNetworkConditions", {**limits, "uploadThroughput": -1})
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    labeler.wait()
    labeler.finish()
    assert labeler.objects() == 1


def test_a_click_on_a_zoomed_image_is_on_the_pixel_that_one_sees(
    served: Served, context: Any, photos: dict[str, Path]
) -> None:
    """Zooming keeps the pixel under the pointer where it is."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    page.mouse.move(*labeler.place(420, 130, COFFEE))
    for _ in range(6):
        page.mouse.wheel(0, -240)
    page.keyboard.press("p")
    with page.expect_request(lambda request: request.url.endswith("/masks")) as asked:
        page.mouse.click(*labeler.place(420, 130, COFFEE))
    [point] = asked.value.post_data_json["points"]
    assert point == {"x": 420, "y": 130, "label": 1}
    labeler.wait()
    with page.expect_request(lambda request: request.url.endswith("/masks")) as asked:
        page.keyboard.down("Alt")
        page.mouse.click(*labeler.place(425, 130, COFFEE))
        page.keyboard.up("Alt")
    assert [one["label"] for one in asked.value.post_data_json["points"]] == [1, 0]
