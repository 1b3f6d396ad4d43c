"""Two tabs at one address: one of them works, the other says so."""

import time
from pathlib import Path
from typing import Any

from tests.web.conftest import PATIENCE_S, PLAIN, Served
from tests.web.labeler import Labeler, arrive, go, reload

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
    page.locator("#elsewhere-who", has_text="coffee.png is open there; last changed at").wait_for()
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

    def take_back() -> None:
        with first.page.expect_navigation():
            first.page.click("#take-over")

    arrive(first.page, take_back, served.url)
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
    reload(first.page)
    first.wait_for_start()
    assert not first.page.locator(ELSEWHERE).is_visible()
    page = context.new_page()
    go(page, served.url)
    page.wait_for_selector(ELSEWHERE)
    first.page.close()
    page.wait_for_selector("html[data-started=yes]", state="attached")
    assert not page.locator(ELSEWHERE).is_visible()
    page.locator("#image-name", has_text="coffee.png").wait_for()


def test_the_last_step_before_a_tab_dies_is_kept(served: Served, context: Any, photos: dict[str, Path]) -> None:
    """Also where the page comes to nothing more after it: here it does not give up the processor, and is closed."""
    labeler = Labeler(context.new_page(), served.url)
    labeler.open(photos["coffee"])
    labeler.click(300, 200, COFFEE)
    labeler.page.wait_for_selector("#prompt-bar[data-mask=yes]")
    last = "document.querySelector('#finish').click(); document.cookie = 'finished=yes'; for (;;);"
    labeler.page.evaluate(f"setTimeout(() => {{ {last} }}, 0)")
    give_up = time.monotonic() + PATIENCE_S
    while not context.cookies():  # asks the browser: the page answers nothing any more
        assert time.monotonic() < give_up
        time.sleep(0.1)
    labeler.page.close()
    again = Labeler(context.new_page(), served.url)
    again.wait()
    assert again.objects() == 1


def test_on_plain_http_too_one_tab_works_at_a_time(served: Served, context: Any, photos: dict[str, Path]) -> None:
    """Where browsers have no locks: the second tab says which image is open in the first, and takes over when asked."""
    url = served.url.replace("127.0.0.1", PLAIN)
    first = Labeler(context.new_page(), url)
    assert first.page.evaluate("navigator.locks === undefined")
    first.open(photos["coffee"])
    page = context.new_page()
    go(page, url)
    page.wait_for_selector(ELSEWHERE)
    page.locator("#elsewhere-who", has_text="coffee.png is open there").wait_for()
    page.click("#take-over")
    first.page.wait_for_selector(ELSEWHERE)
    Labeler(page, None).wait_for_start()
    page.locator("#image-name", has_text="coffee.png").wait_for()
