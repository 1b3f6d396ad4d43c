"""X-AnyLabeling's real window, clicked with a mouse that nobody sees, against the server of a test."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest
from tests.api.conftest import LONG_S, GatedConcepts
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file

from labeling_ground.codec import mask as mask_codec

if TYPE_CHECKING:
    from tests.api.conftest import RealServer, StartReal

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DRIVER = Path(__file__).parent / "drivers" / "x_anylabeling.py"
WIDTH, HEIGHT = 500, 340
KEY = "a-long-key-for-ann"


class Window:
    """The tool in a process of its own, told what to do from the start."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self.folder = folder

    async def read(self) -> Any:
        """What the window shows after the next step."""
        assert self._process.stdout is not None
        while True:
            async with asyncio.timeout(2 * LONG_S):
                line = await self._process.stdout.readline()
            assert line, "the tool has ended; what it said stands above"
            if line.startswith(b"{"):
                return json.loads(line)

    async def asked(self, name: str) -> None:
        """Wait until the tool has come to the step ``ask``."""
        async with asyncio.timeout(2 * LONG_S):
            while not (self.folder / name).exists():  # noqa: ASYNC110 -- another process makes it
                await asyncio.sleep(0.02)

    def go_on(self, name: str) -> None:
        """Let it go on from there."""
        (self.folder / f"{name}.done").touch()


@contextlib.asynccontextmanager
async def opened(
    python: Path, folder: Path, url: str, file: bytes, *steps: list[Any], key: str = ""
) -> AsyncIterator[Window]:
    image = folder / "photo.png"
    image.write_bytes(file)
    process = await asyncio.create_subprocess_exec(
        str(python),
        str(DRIVER),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(folder), "QT_QPA_PLATFORM": "offscreen"},
        limit=1 << 22,
    )
    assert process.stdin is not None
    told = {"url": url, "key": key, "image": str(image), "folder": str(folder), "steps": steps}
    process.stdin.write(json.dumps(told).encode())
    process.stdin.close()
    try:
        yield Window(process, folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def filled(shapes: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    for shape in shapes:
        cv2.fillPoly(canvas, [np.array(shape["points"], np.int32)], 1)
    return canvas.astype(np.bool_)


def overlap(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float((one & other).sum() / (one | other).sum())


def mask_of_v1(server: "RealServer", file: bytes, points: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    headers = {"X-API-Key": KEY}
    with httpx.Client(base_url=server.url, headers=headers, timeout=LONG_S) as client:
        image_id = client.post("/v1/images", content=file).json()["image_id"]
        answer = client.post(f"/v1/images/{image_id}/masks", json={"points": points}).json()
    return mask_codec.from_rle(**answer["masks"][0]["rle"])


@pytest.mark.parametrize("base", ["", "/", "/x-anylabeling", "/x-anylabeling/"])
async def test_clicks_in_the_window_are_v1s_masks(
    tool: Callable[[str], Path], start_real: "StartReal", make_image: Callable[..., bytes], tmp_path: Path, base: str
) -> None:
    """At the fineness that the window starts with; a key is typed, and the address with and without a slash."""
    python, file = tool("x-anylabeling"), make_image(WIDTH, HEIGHT)
    steps: list[list[Any]] = [["click", 150, 122], ["erase", 60, 60]]
    with start_real(api_keys=(KEY,)) as server:
        async with opened(python, tmp_path, server.url + base, file, *steps, key=KEY) as window:
            told = await window.read()
            shown = [await window.read() for _ in steps]
        assert told["model"] == "toy"
        assert len(told["buttons"]) == 4
        assert (server.backend.encodes, server.backend.decodes) == (1, 2)
        assert [mark["label"] for mark in shown[-1]["marks"]] == [1, 0]
        for each in shown:
            assert [shape["label"] for shape in each["shapes"]] == ["AUTOLABEL_OBJECT"], "a new one takes its place"
            points = [dict(zip("xy", mark["data"], strict=True), label=mark["label"]) for mark in each["marks"]]
            assert overlap(filled(each["shapes"]), mask_of_v1(server, file, points)) > 0.99
        assert (server.backend.encodes, server.backend.decodes) == (1, 2)


async def test_a_text_in_the_window_finds_what_it_names_at_the_confidence_that_is_shown(
    tool: Callable[[str], Path], start_real: "StartReal", tmp_path: Path
) -> None:
    """0.5 at first, which the palest red square does not reach. What the annotator drew stays; a click goes on."""
    python, toy = tool("x-anylabeling"), GatedConcepts()
    steps: list[list[Any]] = [["draw"], ["find", "Red, blue"], ["click", 24, 26]]
    with start_real(backend=toy) as server:
        toy.asked.clear()  # what warmed the model up
        async with opened(python, tmp_path, server.url, squares_file(), *steps) as window:
            assert (await window.read())["model"] == "toy-concepts"
            [mine] = (await window.read())["shapes"]
            found = (await window.read())["shapes"]
            clicked = (await window.read())["shapes"]
    assert mine in found
    for label, boxes in (("red", RED_BOXES[:2]), ("blue", BLUE_BOXES)):
        own = [np.array(shape["points"]) for shape in found if shape["label"] == label]
        corners = {(*points.min(axis=0).astype(int), *points.max(axis=0).astype(int)) for points in own}
        assert corners == {(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in boxes}
    assert [shape["label"] for shape in clicked if shape not in found] == ["AUTOLABEL_OBJECT"]
    assert all(shape in clicked for shape in found)
    assert toy.asked.count("trunk") == 1


async def test_a_text_is_looked_for_in_all_pictures_of_a_folder(
    tool: Callable[[str], Path], start_real: "StartReal", tmp_path: Path
) -> None:
    python, toy = tool("x-anylabeling"), GatedConcepts()
    (tmp_path / "second.png").write_bytes(squares_file(5))
    with start_real(backend=toy) as server:
        toy.asked.clear()  # what warmed the model up
        async with opened(python, tmp_path, server.url, squares_file(), ["find_all", "blue"]) as window:
            await window.read()
            await window.read()
    for name in ("photo", "second"):
        saved = json.loads((tmp_path / f"{name}.json").read_text())["shapes"]
        assert [shape["label"] for shape in saved] == ["blue", "blue"]
        corners = {(*np.min(shape["points"], axis=0), *np.max(shape["points"], axis=0)) for shape in saved}
        assert corners == {(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in BLUE_BOXES}
    assert toy.asked.count("trunk") == 2


async def test_no_failure_deletes_what_the_annotator_drew(
    tool: Callable[[str], Path],
    start_real: "StartReal",
    make_image: Callable[..., bytes],
    tmp_path: Path,
    backend_failure: Exception,
) -> None:
    """The model fails; then the server is stopped, and nobody answers at all."""
    python, file = tool("x-anylabeling"), make_image(WIDTH, HEIGHT)
    steps: list[list[Any]] = [["draw"], ["ask", "fail"], ["click", 150, 122], ["ask", "stop"], ["click", 151, 122]]
    async with contextlib.AsyncExitStack() as opening:
        with start_real() as server:
            window = await opening.enter_async_context(opened(python, tmp_path, server.url, file, *steps))
            await window.read()
            [mine] = (await window.read())["shapes"]
            await window.asked("fail")
            server.backend.fail_decode = backend_failure
            window.go_on("fail")
            await window.read()
            assert (await window.read())["shapes"] == [mine], "after a failure of the model"
            assert server.backend.decodes == 1
            await window.asked("stop")
        window.go_on("stop")
        await window.read()
        assert (await window.read())["shapes"] == [mine], "without a server"
