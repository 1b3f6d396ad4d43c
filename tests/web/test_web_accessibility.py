"""The pages can be used by everybody, as far as axe can tell: names, roles, contrast, order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.needs import needs
from tests.web.conftest import Served, profile
from tests.web.labeler import Labeler, go

DESK = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"}
PHONE = {
    "viewport": {"width": 390, "height": 800},
    "locale": "ko-KR",
    "color_scheme": "light",
    "reduced_motion": "reduce",
}


def violations(page: Any) -> list[str]:
    """What axe finds wrong with a page, each with the elements that it is wrong with."""
    found = needs("axe_playwright_python.sync_playwright").Axe().run(page).response["violations"]
    return [f"{one['id']}: {[node['html'][:160] for node in one['nodes']]}" for one in found]


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def page(request: pytest.FixtureRequest, chromium: Any) -> Iterator[Any]:
    context = profile(chromium, **request.param)
    yield context.new_page()
    context.close()


def overlapping(page: Any) -> list[Any]:
    """Pairs of things in the labeling page's header that lie over each other."""
    headed = "[...document.querySelectorAll('header :is(.icon, .labeled, #position), #badge')]"
    seen = f"{headed}.filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect())"
    boxes = page.evaluate(f"{seen}.map((b) => [b.left, b.top, b.right, b.bottom])")
    return [
        (one, other)
        for i, one in enumerate(boxes)
        for other in boxes[:i]
        if min(one[2], other[2]) - max(one[0], other[0]) > 1 and min(one[3], other[3]) - max(one[1], other[1]) > 1
    ]


def test_the_labeling_page(served: Served, page: Any, photos: dict[str, Path], shots: Path) -> None:
    labeler = Labeler(page, served.url)
    assert violations(page) == []
    labeler.open(photos["coffee"])
    export = page.locator("#export").bounding_box()
    labeler.click(300, 200, (600, 400))
    assert violations(page) == []
    assert page.locator("#export").bounding_box() == export  # the badge moves nothing
    labeler.finish()
    for button, dialog in (("#export", "#export-dialog"), ("#help", "dialog[open]")):
        page.click(button)
        page.wait_for_selector(dialog)
        assert violations(page) == []
        page.keyboard.press("Escape")
        page.wait_for_selector(dialog, state="hidden")
    page.screenshot(path=shots / f"accessible-{page.viewport_size['width']}.png")
    page.click("#everything")
    page.wait_for_selector("#found-bar")
    buttons = page.locator("#found-bar button").all()
    assert len({button.bounding_box()["y"] for button in buttons}) == 1
    page.click("#found-close")
    assert overlapping(page) == []
    page.click("#undo")  # the object is in the making again
    for width, height in ((320, 640), (360, 740), (844, 390), (1024, 768), (1100, 690), (1280, 800), (1440, 900)):
        page.set_viewport_size({"width": width, "height": height})
        finish = page.locator("#finish").bounding_box()
        assert finish["x"] + finish["width"] <= width
        assert page.evaluate("document.querySelector('header').scrollWidth") == width
        assert page.locator("#canvas").bounding_box()["height"] >= 170
        assert overlapping(page) == []
        rows = {page.locator(part).bounding_box()["y"] for part in ("#state", "#done", "#progress-text")}
        assert max(rows) - min(rows) < 30 or width == 320  # one row
    panel = "((panel) => panel.scrollHeight - panel.clientHeight)(document.querySelector('#panel'))"
    assert page.evaluate(panel) == 0  # in the largest of these windows nothing of it is out of sight


def test_the_operators_page(served: Served, page: Any) -> None:
    go(page, served.url + "cache")
    page.wait_for_selector("html[data-started=yes]", state="attached")
    assert violations(page) == []
