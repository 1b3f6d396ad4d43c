"""A working day's way over the page: click, fix by hand, finish early, reload, go on in another window."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.web.conftest import Served
from tests.web.labeler import Labeler, go, reload

from labeling_ground.codec.mask import from_rle

COFFEE = (600, 400)
ROCKET = (640, 427)
_PASTE = """text => {
    const clipboardData = new DataTransfer();
    clipboardData.setData("text", text);
    const field = document.querySelector("#add-class input");
    field.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true}));
}"""
_PRESS = """([key, code]) => document.activeElement.dispatchEvent(
    new KeyboardEvent("keydown", {key, code, shiftKey: key === "H", bubbles: true, cancelable: true}))"""


def drawn(labeler: Labeler, places: list[tuple[int, int]], **how: Any) -> None:
    """Draw with what is in hand along places of the coffee."""
    mouse = labeler.page.mouse
    mouse.move(*labeler.place(*places[0], COFFEE))
    mouse.down(**how)
    for place in places[1:]:
        mouse.move(*labeler.place(*place, COFFEE), steps=5)
    mouse.up(**how)


def masks_in(labeler: Labeler, folder: Path) -> dict[str, list[NDArray[np.bool_]]]:
    """The pixels of what is exported, by the image's name."""
    coco = labeler.coco(folder)
    found: dict[str, list[NDArray[np.bool_]]] = {}
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    for one in coco["annotations"]:
        rle = one["segmentation"]
        found.setdefault(names[one["image_id"]], []).append(from_rle(rle["size"], rle["counts"]))
    return found


def test_a_day_at_the_page(served: Served, context: Any, photos: dict[str, Path], shots: Path, tmp_path: Path) -> None:
    """Nothing is lost on the way, and what was fixed by hand is what comes out."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    bodies: list[dict[str, Any]] = []
    page.on("request", lambda one: bodies.append(one.post_data_json) if one.url.endswith("/masks") else None)
    page.uncheck("#hover")
    labeler.open(photos["coffee"], photos["rocket"])

    # The second click starts from the mask of the first.
    labeler.click(300, 200, COFFEE)
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    labeler.click(200, 150, COFFEE)
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    assert [set(body.get("mask_input", {})) for body in bodies] == [set(), {"prediction_id", "index"}]

    # Brush, eraser and undo, step by step; then a click starts from what the hand made.
    page.keyboard.press("f")
    drawn(labeler, [(40, 60), (90, 60)])
    page.locator("#candidate", has_text="by hand").wait_for()
    drawn(labeler, [(60, 60), (61, 60)], button="right")
    page.screenshot(path=shots / "brush.png")
    page.keyboard.press("Control+z")
    page.keyboard.press("q")
    labeler.click(10, 390, COFFEE, button="right")
    page.wait_for_function("document.querySelector('#prompt-bar').dataset.mask === 'yes'")
    assert set(bodies[-1]["mask_input"]) == {"rle"}
    assert from_rle(size=[400, 600], counts=bodies[-1]["mask_input"]["rle"]["counts"])[60, 60]
    page.keyboard.press("Control+z")
    page.keyboard.press("Enter")
    assert labeler.objects() == 1

    # Masks are late: each Enter finishes its own object, also on the next image and over a reload.
    held: list[Any] = []
    page.route("**/masks", lambda route: held.append(route))  # and let nothing of it go on
    labeler.click_only(500, 300, COFFEE)
    page.keyboard.press("Enter")
    labeler.click_only(60, 350, COFFEE)
    page.keyboard.press("Enter")
    page.keyboard.press("d")
    labeler.page.locator("#image-name", has_text="rocket.jpg").wait_for()
    page.wait_for_selector("#waiting", state="hidden")
    labeler.click_only(320, 200, ROCKET)
    page.keyboard.press("Enter")
    page.click("#export")
    page.check("#export-working")
    page.locator(
        "#export-summary", has_text="Not finished, and not in the file: coffee.png (2), rocket.jpg (1)."
    ).wait_for()
    page.keyboard.press("Escape")
    page.unroute("**/masks")
    reload(page)
    labeler.wait_for_start()
    page.keyboard.press("a")
    page.wait_for_selector("#objects li:nth-child(3)")
    page.wait_for_selector("#objects .spinner", state="detached")
    before = masks_in(labeler, tmp_path)
    assert [len(masks) for masks in before.values()] == [3, 1]
    by_hand = before["coffee.png"][0]
    assert by_hand[60, 40:90].all()
    assert not by_hand[60, 120]
    assert all(mask.any() for masks in before.values() for mask in masks)

    # What is in the making survives a reload as it is, and the work goes on in another window.
    page.keyboard.press("l")
    drawn(labeler, [(20, 200), (80, 200), (80, 260), (20, 260)])
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    many = len(bodies)
    reload(page)
    labeler.wait_for_start()
    page.locator("#candidate", has_text="by hand").wait_for()
    other = context.new_page()
    go(other, served.url)
    other.wait_for_selector("#elsewhere-dialog[open]")
    other.click("#take-over")
    again = Labeler(other, None)
    again.wait_for_start()
    again.finish()
    assert len(bodies) == many  # nothing was asked again
    after = masks_in(again, tmp_path)
    assert [len(masks) for masks in after.values()] == [4, 1]
    assert all((a == b).all() for a, b in zip(after["coffee.png"], before["coffee.png"], strict=False))
    lasso = after["coffee.png"][3]
    assert (int(lasso.sum()), bool(lasso[230, 50])) == (60 * 60, True)


def test_objects_are_picked_combined_and_carried_on(
    served: Served, context: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """On the picture, by the mouse and by keys that hold on a Korean keyboard too; what is locked stays as it is."""
    labeler = Labeler(context.new_page(), served.url)
    page = labeler.page
    labeler.open(photos["coffee"], photos["rocket"])
    page.evaluate(_PASTE, "cup\nsaucer\n")
    assert page.input_value("#add-class input") == "cup, saucer"
    page.press("#add-class input", "Enter")
    page.get_by_role("button", name="Rename saucer").click()
    page.keyboard.type("cup")
    page.keyboard.press("Enter")
    page.locator("#hint", has_text="There is a class cup already").wait_for()
    page.keyboard.press("2")  # goes to the page, and not into the field
    assert page.input_value("#add-class input") == ""
    page.keyboard.press("i")
    for box in ((100, 100, 200, 200), (150, 150, 250, 250), (400, 50, 450, 100)):
        labeler.drag(box, COFFEE)
    page.keyboard.press("u")
    labeler.click_only(500, 350, COFFEE)
    page.wait_for_selector("#objects li:nth-child(4)")
    page.check("#labels")
    page.keyboard.press("q")
    labeler.click_only(175, 175, COFFEE)
    page.wait_for_selector("#objects li:nth-child(2).on")
    labeler.click_only(175, 175, COFFEE)
    page.wait_for_selector("#objects li:nth-child(1).on")
    page.screenshot(path=shots / "objects.png")
    page.keyboard.down("Shift")
    labeler.click_only(240, 240, COFFEE)
    page.keyboard.up("Shift")
    page.locator("#selected-count", has_text="2 selected").wait_for()
    page.evaluate(_PRESS, ["Process", "KeyM"])  # as a Korean input method sends it
    page.wait_for_selector("#objects li:nth-child(4)", state="detached")
    page.evaluate(_PRESS, ["H", "KeyH"])  # locked
    page.keyboard.press("Delete")
    page.locator("#hint", has_text="locked").wait_for()
    labeler.click_only(425, 75, COFFEE)
    page.keyboard.press("Control+d")
    page.wait_for_selector("#objects li:nth-child(4)")
    page.keyboard.press("i")
    labeler.drag((400, 50, 450, 99), COFFEE)
    page.locator("#hint", has_text="nearly the same as cup").wait_for()
    page.keyboard.press("Control+z")
    [merged, single, *rest] = masks_in(labeler, tmp_path)["coffee.png"]
    assert [int(mask.sum()) for mask in (single, *rest)] == [2500, 2500]
    assert 17_000 < int(merged.sum()) < 18_000  # 100 × 100 twice, less what both cover, as exactly as a hand draws
    page.keyboard.press("q")
    labeler.click_only(425, 75, COFFEE)
    page.wait_for_selector("#objects li.on")
    page.keyboard.press("Shift+D")
    page.locator("#hint", has_text="rocket.jpg has another size").wait_for()
