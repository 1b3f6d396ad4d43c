"""Pictures of the pages for the READMEs: a real server with the weight-free engine, real traffic, a real browser.

``make screenshots`` writes them to docs/screenshots. The photographs are scikit-image's: the coffee cup (CC0, Rachel
Michetti), the cat (CC0, Stefan van der Walt) and the rocket (public domain, SpaceX). Korean needs a Korean font.
"""

import argparse
import contextlib
import hashlib
import io
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import skimage
from PIL import Image, ImageEnhance
from playwright.sync_api import sync_playwright
from tests.needs import needs_program
from tests.web.conftest import Served
from tests.web.labeler import Labeler, go

MOST_BYTES = 200_000
"""Of one picture: a README shall not be slow to open."""
PHOTOS = [Path(skimage.__file__).parent / "data" / name for name in ("coffee.png", "chelsea.png", "rocket.jpg")]
COFFEE = (600, 400)
SAUCER, CUP = (75, 68, 484, 392), (172, 16, 430, 300)
SPOON, NOT_SPOON = (372, 290), (330, 250)
CLASSES = {"en": ["saucer", "cup", "spoon"], "ko": ["받침", "컵", "숟가락"]}
SMALL = {"LABELING_GROUND_MEMORY_BYTES": "32000000", "LABELING_GROUND_DISK_BYTES": "12000000"}
"""Budgets so small that a minute's work fills them: there shall be something to be seen."""


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/screenshots"))
    parser.add_argument("--seconds", type=float, default=150.0, help="of traffic before the operator's page is taken")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    languages = ["en", "ko"] if has_korean() else ["en"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Served(Path(folder), **SMALL)
        server.start()
        try:
            browser = playwright.chromium.launch(executable_path=needs_program("chromium"), args=["--no-sandbox"])
            take_all(browser, server, chosen.out, languages, chosen.seconds)
            browser.close()
        finally:
            server.kill()


def has_korean() -> bool:
    """Whether the browser has letters for the Korean pictures; they are left out otherwise."""
    found = subprocess.run([needs_program("fc-list"), ":lang=ko"], capture_output=True, text=True, check=True)
    if not found.stdout.strip():
        sys.stderr.write(
            "there is no Korean font here (Debian: fonts-noto-cjk): the Korean pictures stay as they are\n"
        )
    return bool(found.stdout.strip())


def take_all(browser: Any, server: Served, out: Path, languages: list[str], seconds: float) -> None:
    """The labeling page, the operator's after some traffic, and both on a phone."""
    ending = {"en": "", "ko": ".ko"}
    with contextlib.ExitStack() as stack:
        cache, phones = {}, {}
        for language in languages:
            save(labeling(stack, browser, server, language), out / f"labeling{ending[language]}.png")
            phones[language] = phone(stack, browser, language)
            cache[language] = context(stack, browser, language, 1240, 1800).new_page()
        with traffic(server):
            for page in cache.values():  # from the start, so that the plots of the last minutes are filled
                go(page, f"{server.url}cache")
            time.sleep(seconds)
            for language, page in cache.items():
                page.bring_to_front()
                page.wait_for_selector("#state[data-state=live]")
                save(page.screenshot(), out / f"cache{ending[language]}.png")
            for language, page in phones.items():
                save(on_phone(page, server), out / f"phone{ending[language]}.png")


def context(stack: contextlib.ExitStack, browser: Any, language: str, width: int, height: int, **more: Any) -> Any:
    """A fresh profile of the browser."""
    locale = {"en": "en-US", "ko": "ko-KR"}[language]
    made = browser.new_context(viewport={"width": width, "height": height}, locale=locale, color_scheme="dark", **more)
    made.set_default_timeout(120_000)
    stack.callback(made.close)
    return made


def labeling(stack: contextlib.ExitStack, browser: Any, server: Served, language: str) -> bytes:
    """Two finished objects and a third in work, three photos open."""
    labeler = Labeler(context(stack, browser, language, 1100, 690).new_page(), server.url)
    page = labeler.page
    label_coffee(labeler, language)
    labeler.open(*PHOTOS[1:])
    page.locator("#thumbs button").first.click()
    page.locator("#thumbs [data-state=ready]").nth(2).wait_for()
    labeler.wait()
    labeler.begin(*SPOON, COFFEE)
    labeler.click(*NOT_SPOON, COFFEE, button="right")
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    page.mouse.move(5, 600)
    return bytes(page.screenshot())


def label_coffee(labeler: Labeler, language: str) -> None:
    """Open the first photo, name the classes, and box the first two objects."""
    page = labeler.page
    page.get_by_role("button", name={"en": "Rename object", "ko": "객체 이름 바꾸기"}[language]).click()
    first, *others = CLASSES[language]
    page.keyboard.type(first)
    page.keyboard.press("Enter")
    for name in others:
        page.fill("#add-class input", name)
        page.press("#add-class input", "Enter")
    labeler.open(PHOTOS[0])
    for key, box in (("1", SAUCER), ("2", CUP)):
        page.locator("#canvas").focus()
        page.keyboard.press(key)
        labeler.drag(box, COFFEE)
        labeler.finish()
    page.keyboard.press("3")


def phone(stack: contextlib.ExitStack, browser: Any, language: str) -> Any:
    """A page as wide as a phone."""
    return context(stack, browser, language, 360, 700, device_scale_factor=1.5, has_touch=True).new_page()


def on_phone(page: Any, server: Served) -> bytes:
    """Both pages on a phone, side by side."""
    labeler = Labeler(page, server.url)
    labeler.open(PHOTOS[0])
    page.touchscreen.tap(*labeler.place(300, 150, COFFEE))
    labeler.wait()
    page.wait_for_selector("#prompt-bar[data-mask=yes]")
    shots = [page.screenshot()]
    go(page, f"{server.url}cache")
    page.wait_for_selector("#state[data-state=live]")
    page.wait_for_selector("#live-lookups rect.hit", state="attached")
    shots.append(page.screenshot())
    left, right = (Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots)
    both = Image.new("RGB", (left.width + right.width + 24, left.height), (128, 128, 128))
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 24, 0))
    file = io.BytesIO()
    both.save(file, "PNG")
    return file.getvalue()


def save(shot: bytes, path: Path) -> None:
    """With as many colours as fit."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    for colours in (256, 192, 128, 96, 64, 48, 32):
        file = io.BytesIO()
        packed = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
        packed.save(file, "PNG", optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    path.write_bytes(file.getvalue())
    sys.stdout.write(f"{path}: {picture.width} × {picture.height}, {colours} colours, {file.tell() / 1000:.0f} kB\n")


@contextlib.contextmanager
def traffic(server: Served) -> Iterator[None]:
    """Four annotators at work, each with images of their own and some of all."""
    over = threading.Event()
    threads = [threading.Thread(target=annotate, args=(server, number, over)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def annotate(server: Served, number: int, over: threading.Event) -> None:
    """Open an image, click on it, come back to earlier clicks, go on to the next."""
    rng = random.Random(number)
    shared = [path.read_bytes() for path in PHOTOS]
    while not over.is_set():
        file = rng.choice(shared) if rng.random() < 0.4 else variant(rng)
        width, height = Image.open(io.BytesIO(file)).size
        image_id = hashlib.sha256(file).hexdigest()
        clicks: list[dict[str, int]] = []
        ask(server, "v1/images", file, number)
        for _ in range(rng.randrange(6, 14)):
            if not clicks or rng.random() < 0.45:
                clicks.append({"x": rng.randrange(16) * width // 16, "y": rng.randrange(12) * height // 12})
            body = json.dumps({"points": [rng.choice(clicks)]}).encode()
            if ask(server, f"v1/images/{image_id}/masks", body, number) == 404:
                ask(server, "v1/images", file, number)
            if over.wait(rng.uniform(0.05, 0.5)):
                return


def variant(rng: random.Random) -> bytes:
    """A photo that was taken with another light."""
    photo = Image.open(rng.choice(PHOTOS)).convert("RGB")
    file = io.BytesIO()
    ImageEnhance.Brightness(photo).enhance(0.7 + 0.05 * rng.randrange(12)).save(file, "JPEG", quality=90)
    return file.getvalue()


def ask(server: Served, path: str, body: bytes, number: int) -> int:
    """Send one request as one annotator; its status."""
    headers = {"Content-Type": "application/octet-stream", "X-Client-Id": f"annotator-{number}"}
    if path.endswith("/masks"):
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(server.url + path, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


if __name__ == "__main__":
    main()
