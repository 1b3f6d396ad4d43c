"""An annotator's hands: what the browser tests do to the page."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_NOTE = """selector => {
    const element = document.querySelector(selector);
    const said = (window.said ??= {})[selector] = [];
    const note = () => said.push(element.textContent);
    new MutationObserver(note).observe(element, {subtree: true, childList: true, characterData: true});
}"""


@contextlib.contextmanager
def dropped(page: Any) -> Iterator[list[str]]:
    """What the browser drops of what the page asks for in the block.

    When the machine's network changes, as it does when a container starts, Chromium drops what is on its way, also on
    loopback.
    """
    found: list[str] = []

    def note(request: Any) -> None:
        if was_dropped(request):
            found.append(request.url)

    page.on("requestfailed", note)
    try:
        yield found
    finally:
        page.remove_listener("requestfailed", note)


def was_dropped(request: Any) -> bool:
    """Whether the browser dropped it; see ``dropped``."""
    return "ERR_NETWORK_CHANGED" in (request.failure or "")


def requests(page: Any, wanted: Callable[[Any], bool]) -> list[str]:
    """The addresses that a page asks from now on; the list grows. What the browser drops is not among them."""
    sent: list[Any] = []
    addresses: list[str] = []

    def note(request: Any) -> None:
        if wanted(request):
            sent.append(request)
            addresses.append(request.url)

    def forget(request: Any) -> None:
        if request in sent and was_dropped(request):
            del addresses[sent.index(request)]
            sent.remove(request)

    page.on("request", note)
    page.on("requestfailed", forget)
    return addresses


def go(page: Any, url: str) -> None:
    """Open an address."""
    arrive(page, lambda: page.goto(url), url)  # until it is loaded, its modules too


def reload(page: Any) -> None:
    """Open the same address again."""
    arrive(page, page.reload, page.url)


def arrive(page: Any, leave: Callable[[], Any], url: str) -> None:
    """Do what leads to an address and waits for it, and go there again where something was dropped on its way."""
    for again in range(5):
        with dropped(page) as missing:
            try:
                if again:
                    page.goto(url)
                else:
                    leave()
            except Exception as error:
                if "ERR_NETWORK_CHANGED" not in str(error):
                    raise
                missing.append(url)
        if not missing:
            return
    raise AssertionError(f"the network changed each time: {missing}")


STATES = ("unbegun", "working", "review", "done", "nothing", "skipped")
"""How far the work on an image can be."""


class Labeler:
    """Works on one page. Points are pixels of the image that is open."""

    def __init__(self, page: Any, url: str | None) -> None:
        """Open the address, unless the page is open already (``None``)."""
        self.page = page
        if url is not None:
            go(page, url)
            self.wait_for_start()

    def wait_for_start(self) -> None:
        """Until the page has restored what it kept."""
        self.page.wait_for_selector("html[data-started=yes]", state="attached")

    def open(self, *photos: Path) -> None:
        """Through the file picker, and wait until clicks can be answered."""
        self.page.set_input_files("#files", [str(photo) for photo in photos])
        self.page.wait_for_selector("#welcome", state="hidden")
        self.wait()

    def wait(self) -> None:
        """Until nothing is being waited for."""
        self.page.wait_for_selector("#waiting", state="hidden")

    def note(self, selector: str) -> None:
        """From now on note what an element says, however short the time for which it says it."""
        self.page.evaluate(_NOTE, selector)

    def said(self, selector: str, text: str) -> None:
        """Wait until an element that is noted has said something."""
        has = "([selector, text]) => window.said[selector].some((one) => one.includes(text))"
        self.page.wait_for_function(has, arg=[selector, text])

    def place(self, x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
        """Where a pixel of an image of ``size`` (width, height) is on the screen, before anybody zoomed."""
        frame = self.page.locator("#canvas").bounding_box()
        scale = min((frame["width"] - 32) / size[0], (frame["height"] - 84) / size[1], 4)
        left = frame["x"] + (frame["width"] - size[0] * scale) / 2
        top = frame["y"] + 16 + (frame["height"] - 84 - size[1] * scale) / 2
        return left + (x + 0.5) * scale, top + (y + 0.5) * scale

    def click_only(self, x: float, y: float, size: tuple[int, int], **how: Any) -> None:
        """Click and wait for nothing."""
        self.page.mouse.click(*self.place(x, y, size), **how)

    def click(self, x: float, y: float, size: tuple[int, int], **how: Any) -> None:
        """Click, and wait for the mask."""
        self.click_only(x, y, size, **how)
        self.wait()

    def begin(self, x: float, y: float, size: tuple[int, int]) -> None:
        """Click where an object is to begin, with Alt where it lies on another one, and wait for the mask."""
        keyboard = self.page.keyboard
        self.page.mouse.move(*self.place(x, y, size))
        is_on_another = "picks" in (self.page.locator("#canvas").get_attribute("class") or "")
        if is_on_another:
            keyboard.down("Alt")
        self.click(x, y, size)
        if is_on_another:
            keyboard.up("Alt")

    def drag(self, box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
        """Drag a box, and wait for the mask."""
        self.page.mouse.move(*self.place(box[0], box[1], size))
        self.page.mouse.down()
        self.page.mouse.move(*self.place((box[0] + box[2]) / 2, box[3], size))
        self.page.mouse.move(*self.place(box[2], box[3], size))
        self.page.mouse.up()
        self.wait()

    def finish(self) -> None:
        """Finish the object that has a mask."""
        self.page.wait_for_selector("#prompt-bar[data-mask=yes]")
        self.page.click("#finish")
        self.page.wait_for_selector("#prompt-bar", state="hidden")

    def objects(self) -> int:
        """How many finished objects the list shows."""
        return int(self.page.locator("#objects li").count())

    def export(self, form: str, folder: Path, states: tuple[str, ...] | None = STATES) -> Path:
        """Export images in these states (a project has all: ``None``); returns the file that was saved."""
        self.page.click("#export")
        self.page.check(f"input[name=format][value={form}]")
        for state in STATES if states is not None else ():
            self.page.set_checked(f"#export-{state}", state in (states or ()))
        with self.page.expect_download() as download:
            self.page.click("#download")
        saved: Path = folder / download.value.suggested_filename
        download.value.save_as(saved)
        return saved

    def coco(self, folder: Path) -> dict[str, Any]:
        """The labels as COCO with RLE masks."""
        found: dict[str, Any] = json.loads(self.export("coco-rle", folder).read_text())
        return found
