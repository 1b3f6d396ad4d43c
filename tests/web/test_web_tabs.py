"""Two tabs at one address: one of them works, the other says so."""

from pathlib import Path
from typing import Any

from tests.web.conftest import Served
from tests.web.labeler import Labeler, go

COFFEE = (600, 400)
ELSEWHERE = "#elsewhere-dialog[open]"


def test_the_second_tab_waits_and_takes_over_when_asked(
    served: Served, context: Any, photos: dict[str, Path], shots: Path
) -> None:
    """It finds the other's work there; the first one stops, and can take it back with what was done meanwhile."""
    first = Labeler(context.new_page(), served.url)
    first.open(photos["coffee"])
    first.click(300, 200, COFFEE)
    first.finish()
    page = context.new_page()
    go(page, served.url)
    page.wait_for_selector(ELSEWHERE)
    page.screenshot(path=shots / "elsewhere.png")
    for _ in range(3):
        page.keyboard.press("Escape")
    page.wait_for_selector(ELSEWHERE)
    assert not first.page.locator(ELSEWHERE).is_visible()
    page.click("#take-over")
    first.page.wait_for_selector(ELSEWHERE)
    second = Labeler(page, None)
    second.wait_for_start()
    second.wait()
    assert second.objects() == 1
    second.click(100, 350, COFFEE)
    second.finish()
    first.page.bring_to_front()
    with first.page.expect_navigation():
        first.page.click("#take-over")
    first.wait_for_start()
    first.wait()
    assert first.objects() == 2
    page.wait_for_selector(ELSEWHERE)


def test_the_second_tab_goes_on_by_itself_when_the_first_is_closed(
    served: Served, context: Any, photos: dict[str, Path]
) -> None:
    """And a tab that is alone is asked nothing."""
    first = Labeler(context.new_page(), served.url)
    first.open(photos["coffee"])
    first.page.reload()
    first.wait_for_start()
    assert not first.page.locator(ELSEWHERE).is_visible()
    page = context.new_page()
    go(page, served.url)
    page.wait_for_selector(ELSEWHERE)
    first.page.close()
    page.wait_for_selector("html[data-started=yes]", state="attached")
    assert not page.locator(ELSEWHERE).is_visible()
    assert page.locator("#image-name").inner_text() == "coffee.png"
