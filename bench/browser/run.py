"""From the click to the painted mask, with the switch off and on, in a headless Chromium on the server's machine.

MobileSAM with seeded random weights, as in ``bench.serving.sam``: its masks are discs around the click. Two pages are
open on the same image, one of which decodes by itself; they take turns, click by click, each click at a new place. Then
every click is repeated, which the server answers from its cache. All of it once more with 100 ms of added latency: so
long the browser holds every answer back, which is what a server far away feels like. Browser and server share the
machine's cores: compare the ratios.

The masks are compared too: those of discs, and the noise that the weights make without them, which has an outline
everywhere.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.needs import needs_browser_runtime, needs_program
from tests.web.both_ways import both_ways
from tests.web.labeler import Labeler

from bench.serving.photos import SIZE, jpeg
from bench.serving.run import where
from bench.serving.server import Server, running
from labeling_ground.codec import mask as mask_codec
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.web import browser_runtime

MODEL = "mobile-sam-measured"
LATENCIES_MS = (0, 100)
SWITCHES = ("off", "on")
_NEXT_MEASURE = """(before) => new Promise((done) => {
    const look = () => {
        const { duration, detail } = performance.getEntriesByName("click-to-mask")[before] ?? {};
        if (detail) done([duration, detail.outcome]);
        else setTimeout(look, 5);
    };
    look();
})"""


@dataclass(frozen=True)
class Plan:
    """How much to do: new clicks for each latency and switch, and prompts whose masks are compared."""

    clicks: int
    compared: int


FULL = Plan(clicks=40, compared=20)
TOY = Plan(clicks=2, compared=2)


class Page:
    """One annotator's page, with the switch in one position."""

    def __init__(self, browser: Any, url: str, photo: Path, switch: str) -> None:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
        context.set_default_timeout(120_000)
        self.labeler = Labeler(context.new_page(), url)
        self.page = self.labeler.page
        self._network = context.new_cdp_session(self.page)
        self._network.send("Network.enable")
        self.page.uncheck("#hover")
        self.labeler.open(photo)
        started = time.perf_counter()
        if switch == "on":
            self.page.check("#decode-here")
            self.page.wait_for_selector("#decode-state[data-state=ready]")
        self.ready_s = time.perf_counter() - started

    def delay(self, ms: int) -> None:
        """Hold every answer back for so long."""
        limits = {"offline": False, "latency": ms, "downloadThroughput": -1, "uploadThroughput": -1}
        self._network.send("Network.emulateNetworkConditions", limits)

    def click(self, x: int, y: int) -> tuple[float, str]:
        """Milliseconds from the click to the painted mask, and how it came to be."""
        before = self.page.evaluate("performance.getEntriesByName('click-to-mask').length")
        self.labeler.click_only(x, y, SIZE)
        ms, outcome = self.page.evaluate(_NEXT_MEASURE, before)
        self.page.keyboard.press("Escape")
        self.page.wait_for_selector("#prompt-bar", state="hidden")
        return ms, outcome


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=needs_program("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@contextmanager
def _serving(files: dict[str, Any]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as home:
        store = ModelStore(Path(home))
        for role in (Role.ENCODER, Role.DECODER, Role.FAST_DECODER):
            store.add(files[f"{role.name.lower()}_path"], name=MODEL, role=role, family="sam")
        with running(model=MODEL, models_dir=home, engine="onnx") as server:
            yield server


def places(count: int, seed: int) -> list[tuple[int, int]]:
    """Where to click: far enough from the rim that a disc is whole, and never twice at the same pixel."""
    rng = random.Random(seed)
    inner = [range(int(0.25 * size), int(0.75 * size)) for size in SIZE]
    return [(rng.choice(inner[0]), rng.choice(inner[1])) for _ in range(count)]


def _times(pages: dict[str, Page], plan: Plan) -> dict[str, dict[str, list[float]]]:
    taken: dict[str, dict[str, list[float]]] = {}
    for page in pages.values():
        page.click(*places(1, 0)[0])  # the first run of a graph is its slowest
    for latency in LATENCIES_MS:
        for kind in ("new", "repeated"):
            taken[f"{kind}, {latency} ms"] = {switch: [] for switch in SWITCHES}
        for page in pages.values():
            page.delay(latency)
        spots = places(plan.clicks, latency + 1)
        for kind in ("new", "repeated"):
            for x, y in spots:
                for switch, page in pages.items():
                    ms, outcome = page.click(x, y)
                    expected = "here" if switch == "on" else {"new": "miss", "repeated": "hit"}[kind]
                    assert outcome == expected, (outcome, expected)
                    taken[f"{kind}, {latency} ms"][switch].append(ms)
    for page in pages.values():
        page.delay(0)
    return taken


def _difference(page: Any, plan: Plan) -> dict[str, float]:
    """How far the masks are apart: shares of the image's pixels, over all candidates of all prompts."""
    prompts = [
        {"points": [{"x": x, "y": y, "label": 1}], "box": None if i % 2 else [x - 150, y - 120, x + 160, y + 140]}
        for i, (x, y) in enumerate(places(plan.compared, 99))
    ]
    got = both_ways(page, prompts)
    assert got["trouble"] is None, got["trouble"]
    shares, scores, same = [], [], 0
    for here, there in got["found"]:
        for mine, theirs in zip(here["masks"], there["masks"], strict=True):
            a, b = (mask_codec.from_rle(one["rle"]["size"], one["rle"]["counts"]) for one in (mine, theirs))
            shares.append(float(np.mean(a != b)))
            same += shares[-1] == 0
            scores.append(abs(mine["score"] - theirs["score"]))
    return {
        "masks": len(shares),
        "identical": same,
        "mean": statistics.fmean(shares),
        "largest": max(shares),
        "score": max(scores),
    }


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Make the model if it is not there, serve it, click and compare."""
    from bench.engines.models import discs, files

    needs_browser_runtime()
    result: dict[str, Any] = {"where": where(), "runtime": browser_runtime.VERSION}
    with tempfile.TemporaryDirectory() as home, chromium() as browser:
        photo = Path(home) / "photo.jpg"
        photo.write_bytes(jpeg(0))
        result["chromium"] = browser.version
        with _serving(discs("mobile-sam", folder)) as server:
            url = f"http://127.0.0.1:{server.port}/"
            pages = {switch: Page(browser, url, photo, switch) for switch in SWITCHES}
            result["ready_s"] = pages["on"].ready_s
            taken = _times(pages, plan)
            result["clicks"] = {
                name: {switch: {"p50_ms": statistics.median(ms), "min_ms": min(ms)} for switch, ms in each.items()}
                for name, each in taken.items()
            }
            result["differences"] = {"discs": _difference(pages["off"].page, plan)}
        with _serving(files("mobile-sam", folder)) as server:
            page = Page(browser, f"http://127.0.0.1:{server.port}/", photo, "off").page
            result["differences"]["noise"] = _difference(page, plan)
    return result


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    machine, clicks = result["where"], result["clicks"]
    lines = [
        " ".join((__doc__ or "").split("\n\n", 1)[1].split("\n\n")[0].split()),
        "",
        f"Machine: {machine['machine']}; commit {machine['commit']}; {machine['date']}. Chromium {result['chromium']}, "
        f"ONNX Runtime Web {result['runtime']}, one thread.",
        "",
        "| a click, added latency | server decodes, p50 (min) ms | browser decodes, p50 (min) ms | ratio of the p50 |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, each in clicks.items():
        shown = [f"{each[switch]['p50_ms']:.0f} ({each[switch]['min_ms']:.0f})" for switch in SWITCHES]
        ratio = each["on"]["p50_ms"] / each["off"]["p50_ms"]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {ratio:.2f} |")
    lines += [
        "",
        f"From the switch to the first click that it can answer: {result['ready_s']:.1f} s, nothing of it cached.",
        "",
        "| masks of | compared | identical | pixels that differ: mean, largest | scores differ by at most |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, each in result["differences"].items():
        lines.append(
            f"| {name} | {each['masks']} | {each['identical']} | {each['mean']:.5%}, {each['largest']:.5%} "
            f"| {each['score']:.1e} |"
        )
    return "\n".join(lines)
