"""An annotator at work, in a real browser against a real server."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from tests.web import formats
from tests.web.conftest import Served
from tests.web.labeler import Labeler, reload

# pycocotools decodes through a class that numpy 2 finds old-fashioned.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
COFFEE = (600, 400)
COUNT_FLIGHTS = """
    window.flights = {seen: 0, now: 0, most: 0, lost: 0};
    const plain = window.fetch;
    window.fetch = async (url, options) => {
        if (!String(url).endsWith("/masks")) return plain(url, options);
        flights.seen += 1;
        flights.most = Math.max(flights.most, ++flights.now);
        try {
            return await plain(url, options);
        } catch (error) {
            if (error.name !== "AbortError") flights.lost += 1;
            throw error;
        } finally {
            flights.now -= 1;
        }
    };
"""
CANVAS = "document.querySelector('#canvas').toDataURL()"


def test_two_objects_are_labeled_by_clicks_and_a_box_and_exported(
    served: Served, context: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """Clicks on and off the object, undo and redo, a box, and the masks are in the file."""
    labeler = Labeler(context.new_page(), served.url)
    labeler.page.screenshot(path=shots / "welcome.png")
    labeler.open(photos["coffee"])
    labeler.click(300, 200, COFFEE)
    assert labeler.page.locator("#badge").get_attribute("data-outcome") in ("miss", "recomputed", "hit", "joined")
    labeler.click(420, 330, COFFEE, button="right")
    labeler.page.screenshot(path=shots / "clicks.png")
    labeler.page.keyboard.press("Control+z")
    labeler.wait()
    labeler.page.keyboard.press("Control+Shift+Z")
    labeler.wait()
    labeler.page.keyboard.press("Enter")
    labeler.page.wait_for_selector("#objects li")
    labeler.drag((380, 300, 560, 390), COFFEE)
    labeler.page.screenshot(path=shots / "box.png")
    labeler.finish()
    assert labeler.objects() == 2
    labeler.page.click("#export")  # as long as no image was marked, the one in work goes along
    labeler.page.locator("#export-summary", has_text="2 objects in 1 image.").wait_for()
    labeler.page.keyboard.press("Escape")
    coco = labeler.coco(tmp_path)
    assert [image["file_name"] for image in coco["images"]] == ["coffee.png"]
    assert [annotation["category_id"] for annotation in coco["annotations"]] == [1, 1]
    for annotation in coco["annotations"]:
        assert coco_masks.area(annotation["segmentation"]) == annotation["area"] > 100
        assert coco_masks.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]


def test_the_work_survives_a_server_that_dies_and_a_page_that_is_reloaded(
    served: Served, context: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """A click on a dead server is answered when it is back; a reload brings all of it back, the open clicks too."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    labeler.click(300, 200, COFFEE)
    labeler.finish()
    served.kill()
    labeler.click_only(450, 250, COFFEE)
    page.wait_for_selector("#banner:has-text('does not answer')")
    page.locator("#waiting-text", has_text="Waiting for the server").wait_for()  # nothing is being computed
    page.screenshot(path=shots / "gone.png")
    labeler.note("#banner")  # the good news stands there for three seconds only
    assert page.locator("#prompt-bar").is_visible()
    served.start()
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    labeler.said("#banner", "is back")
    labeler.finish()
    before = labeler.coco(tmp_path)
    labeler.click(100, 350, COFFEE)
    reload(page)
    labeler.wait_for_start()
    labeler.wait()
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    assert labeler.objects() == 2
    assert labeler.coco(tmp_path) == before
    assert len(before["annotations"]) == 2


def test_every_format_holds_the_same_pixels(
    served: Served, context: Any, photos: dict[str, Path], tmp_path: Path
) -> None:
    """What was labeled comes back from each file, read by the program that it is for."""
    labeler = Labeler(context.new_page(), served.url)
    labeler.open(photos["coffee"])
    labeler.click(300, 200, COFFEE)
    labeler.finish()
    labeler.drag((370, 170, 460, 330), COFFEE)
    labeler.finish()
    wanted = formats.coco(labeler.export("coco-rle", tmp_path))
    assert all(mask.any() for mask in wanted)
    found = {
        "coco-polygons": formats.coco(labeler.export("coco-polygons", tmp_path)),
        "masks": formats.masks(labeler.export("masks", tmp_path)),
        "yolo": yolo_objects(labeler.export("yolo", tmp_path), wanted),
        "labelstudio": formats.label_studio(labeler.export("labelstudio", tmp_path)),
    }
    differ = {form: [int((a != b).sum()) for a, b in zip(masks, wanted, strict=True)] for form, masks in found.items()}
    assert differ == {form: [0, 0] for form in found}


def yolo_objects(path: Path, wanted: list[formats.Pixels]) -> list[formats.Pixels]:
    """Rows of pieces, put together by the object that they are in."""
    folder = path.with_suffix("")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    [rows] = formats.yolo(folder, exact=False).values()
    found = [np.zeros_like(mask) for mask in wanted]
    for _, piece in rows:
        at = max(range(len(wanted)), key=lambda n: (piece & wanted[n]).sum() / wanted[n].sum())
        found[at] |= piece
    return found


def test_a_slow_way_to_the_server_costs_waiting_and_nothing_else(
    served: Served, context: Any, photos: dict[str, Path], shots: Path
) -> None:
    """With 300 ms of latency a second click overtakes the first, and the newest answer is the one that stays."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    slow(context, page, 300)
    labeler.note("#waiting")
    labeler.click_only(300, 200, COFFEE)
    labeler.click_only(320, 250, COFFEE)
    page.screenshot(path=shots / "waiting.png")
    labeler.said("#waiting", "Computing")
    labeler.wait()
    labeler.finish()
    assert labeler.objects() == 1
    *_, click = page.evaluate("performance.getEntriesByName('click-to-mask').map(e => e.duration)")
    assert click >= 300


def test_a_place_in_the_queue_is_read_out_when_it_is_another_one(
    served: Served, context: Any, photos: dict[str, Path]
) -> None:
    """The seconds beside it change with each look at the server, and are for eyes only."""
    places = [3, 3, 3, 2, 2]

    def queue(route: Any) -> None:
        if not places:
            route.continue_()
            return
        waits = {"known": True, "encoded": False, "encoding": True, "use_preview": False, "note": None}
        size = {"width": COFFEE[0], "height": COFFEE[1]}
        found = waits | size | {"place": places.pop(0), "seconds_expected": 10.0 + len(places)}
        route.fulfill(json=found)

    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    page.route("**/v1/images/*waiting=true", queue)
    for part in ("#waiting-text", "#waiting-more"):
        labeler.note(part)
    labeler.open(photos["coffee"])
    heard, seen = (page.evaluate(f"window.said['#waiting-{part}']") for part in ("text", "more"))
    assert [text for text in heard if "queue" in text] == ["Number 3 in the queue", "Number 2 in the queue"]
    assert [text for text in seen if "about" in text] == [f"about {n} s" for n in (14, 13, 12, 11, 10)]
    assert page.locator("#waiting-text").get_attribute("role") == "status"
    assert page.locator("#waiting-more").get_attribute("aria-hidden") == "true"


def test_the_preview_asks_for_one_mask_at_a_time(served: Served, context: Any, photos: dict[str, Path]) -> None:
    """However the pointer moves, one request is in flight at most, and what is under it is shown in the end."""
    context.add_init_script(COUNT_FLIGHTS)
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    slow(context, page, 120)
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")  # the image is drawn
    blank = page.evaluate(CANVAS)
    for step in range(400):
        page.mouse.move(*labeler.place(200 + 10 * (step % 14), 200, COFFEE))
        page.wait_for_timeout(75)
        if step >= 13 and page.evaluate("window.flights.seen") >= 2:
            break
    shown = f"([blank, lost]) => window.flights.lost > lost || (window.flights.now === 0 && {CANVAS} !== blank)"
    for x in range(335, 350):
        lost = page.evaluate("window.flights.lost")
        page.mouse.move(*labeler.place(x, 200, COFFEE))
        page.wait_for_function(shown, arg=[blank, lost])
        if page.evaluate("window.flights.lost") == lost:
            break
    seen, most = page.evaluate("[window.flights.seen, window.flights.most]")
    assert seen >= 2
    assert most == 1
    page.keyboard.press("p")
    page.wait_for_function(f"blank => {CANVAS} === blank", arg=blank)


def test_a_proxys_time_outs_cost_waiting_and_nothing_else(
    served: Served, context: Any, photos: dict[str, Path], tmp_path: Path
) -> None:
    """Each request of the page is answered 504 at first, as by a proxy in front of a slow server."""
    refused: set[str] = set()

    def refuse_once(route: Any) -> None:
        asked = f"{route.request.method} {route.request.url.split('/v1/')[1][:6]} {route.request.url[-6:]}"
        if asked in refused:
            route.continue_()
        else:
            refused.add(asked)
            route.fulfill(status=504, content_type="text/html", body="<h1>504 Gateway Time-out</h1>")

    labeler = Labeler(context.new_page(), served.url)
    labeler.page.route("**/v1/images**", refuse_once)
    labeler.page.route("**/v1/images/**", refuse_once)
    photo = tmp_path / "new.jpg"
    photo.write_bytes(photos["rocket"].read_bytes() + b"so that no server has seen it")
    labeler.open(photo)
    labeler.click(320, 250, (640, 427))
    labeler.finish()
    assert labeler.objects() == 1
    assert "POST images =false" in refused


def slow(context: Any, page: Any, milliseconds: int) -> None:
    """Add latency to every request of a page."""
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": milliseconds, "downloadThroughput": -1, "uploadThroughput": -1},
    )


def test_fast_hands_lose_no_label(
    served: Served, context: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """At 800 ms of latency: click, Enter, click, Enter, next image at once; each object gets its own mask."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"], photos["rocket"])
    alone = []
    for x, y in ((300, 200), (100, 350)):
        labeler.click(x, y, COFFEE)
        labeler.finish()
        [annotation] = labeler.coco(tmp_path)["annotations"]
        alone.append(annotation["area"])
        page.locator("#objects li").get_by_role("button", name="Delete").click()
    slow(context, page, 800)
    for x, y in ((300, 200), (100, 350)):
        labeler.click_only(x, y, COFFEE)
        page.keyboard.press("Enter")
    assert labeler.objects() == 2
    page.screenshot(path=shots / "fast-hands.png")
    page.keyboard.press("d")
    page.locator("#position", has_text="2 / 2").wait_for()
    page.locator("#thumbs li").nth(0).locator(".count", has_text="2").wait_for()
    page.keyboard.press("a")
    page.locator("#position", has_text="1 / 2").wait_for()
    page.locator("#objects li").nth(1).wait_for()  # before that there is no spinner, either
    page.wait_for_selector("#objects .spinner", state="detached")
    assert [one["area"] for one in labeler.coco(tmp_path)["annotations"]] == alone


def test_a_reload_keeps_early_finishes_and_the_chosen_candidate(
    served: Served, context: Any, photos: dict[str, Path], tmp_path: Path
) -> None:
    """What was finished before its mask was there gets the mask after a reload; a chosen candidate stays chosen."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"])
    labeler.click(300, 200, COFFEE)
    page.keyboard.press("c")
    chosen = page.locator("#candidate").inner_text()
    reload(page)
    labeler.wait_for_start()
    page.locator("#candidate", has_text=chosen).wait_for()
    labeler.finish()
    before = labeler.coco(tmp_path)["annotations"][0]
    page.locator("#objects li").get_by_role("button", name="Edit again").click()
    reload(page)
    labeler.wait_for_start()
    labeler.finish()
    assert labeler.coco(tmp_path)["annotations"][0] == before
    page.route("**/masks", lambda _route: None)  # no answer comes any more
    labeler.click_only(100, 350, COFFEE)
    page.keyboard.press("Enter")
    page.locator("#objects .spinner").wait_for()
    page.unroute("**/masks")
    reload(page)
    labeler.wait_for_start()
    page.wait_for_selector("#objects .spinner", state="detached")
    assert len(labeler.coco(tmp_path)["annotations"]) == 2
