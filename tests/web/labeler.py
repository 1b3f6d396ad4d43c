"""An annotator's hands: what the browser tests do to the page."""

import json
from pathlib import Path
from typing import Any


def go(page: Any, url: str) -> None:
    """Open an address.

    When the machine's network changes, as it does when a container starts, Chromium drops what is on its way, also on
    loopback: then the page is opened again.
    """
    for _ in range(5):
        dropped: list[str] = []

        def note(request: Any, dropped: list[str] = dropped) -> None:
            if "ERR_NETWORK_CHANGED" in (request.failure or ""):
                dropped.append(request.url)

        page.on("requestfailed", note)
        try:
            page.goto(url)  # until it is loaded, its modules too
        except Exception as error:
            if "ERR_NETWORK_CHANGED" not in str(error):
                raise
            dropped.append(url)
        page.remove_listener("requestfailed", note)
        if not dropped:
            return
    raise AssertionError(f"the network changed each time: {dropped}")


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
        self.page.wait_for_selector("#finish:enabled")
        self.page.click("#finish")
        self.page.wait_for_selector("#prompt-bar", state="hidden")

    def objects(self) -> int:
        """How many finished objects the list shows."""
        return int(self.page.locator("#objects li").count())

    def export(self, form: str, folder: Path) -> Path:
        """Export through the dialog; returns the file that was saved."""
        self.page.click("#export")
        self.page.check(f"input[name=format][value={form}]")
        with self.page.expect_download() as download:
            self.page.click("#download")
        saved: Path = folder / download.value.suggested_filename
        download.value.save_as(saved)
        return saved

    def coco(self, folder: Path) -> dict[str, Any]:
        """The labels as COCO with RLE masks."""
        found: dict[str, Any] = json.loads(self.export("coco-rle", folder).read_text())
        return found
