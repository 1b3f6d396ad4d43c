"""What the pages add to the server's own time: ``python -m bench.browser.painting``. Chromium, on loopback.

First paint is the browser's own figure, of a page opened in a new profile each time. A click is timed by the labeling
page itself, from the pointer to the painted mask (``click-to-mask``), with the server's time beside it; each place is
clicked on twice, so that the second time is a hit.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.browser.run import Page, chromium, places
from bench.command import benchmark
from bench.serving.photos import jpeg
from bench.serving.run import where
from bench.serving.server import running

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
CLICKS = "performance.getEntriesByName('click-to-mask').map(entry => ({...entry.detail, ms: entry.duration}))"


@dataclass(frozen=True)
class Plan:
    """How often each page is opened, and on how many places is clicked."""

    opened: int
    places: int


FULL, TOY = Plan(opened=9, places=20), Plan(opened=1, places=2)


def run(plan: Plan) -> dict[str, Any]:
    """Open, click, ask the browser."""
    paints: dict[str, list[float]] = {"/": [], "/cache": []}
    with running() as server, chromium() as browser, tempfile.TemporaryDirectory() as folder:
        base = f"http://127.0.0.1:{server.port}/"
        for _ in range(plan.opened):
            for path, taken in paints.items():
                taken.append(_first_paint(browser, base + path[1:]))
        photo = Path(folder, "photo.jpg")
        photo.write_bytes(jpeg(0))
        annotator = Page(browser, base, photo, "off")
        spots = places(plan.places, 0)
        for x, y in [*spots, *spots]:
            annotator.click(x, y)
        clicks = annotator.page.evaluate(CLICKS)
    return {"where": where(), "paints": paints, "clicks": clicks}


def _first_paint(browser: Any, url: str) -> float:
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    until = time.monotonic() + 30
    while (painted := page.evaluate(PAINT)) is None:
        assert time.monotonic() < until, "nothing was painted"
        time.sleep(0.02)
    context.close()
    return float(painted)


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    here = result["where"]
    lines = [
        f"Machine: {here['machine']}; commit {here['commit']}; {here['date']}.",
        "",
        "| | p50 (min) ms | target ms |",
        "| --- | ---: | ---: |",
    ]
    for path, taken in result["paints"].items():
        lines.append(f"| first paint of `{path}` | {statistics.median(taken):.0f} ({min(taken):.0f}) | 300 |")
    for outcome in ("miss", "hit"):
        found = [click for click in result["clicks"] if click["outcome"] == outcome]
        painted, server = ([click[name] for click in found] for name in ("ms", "serverMs"))
        most = 1.2 * statistics.median(server) + 15
        name = f"click to painted mask, {outcome} (the server's own: {statistics.median(server):.1f})"
        lines.append(f"| {name} | {statistics.median(painted):.1f} ({min(painted):.1f}) | {most:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    benchmark("bench.browser.painting", "Painting", run, table, FULL, TOY)
