"""How much a request passes that is found in memory: counted in calls, which are the same on every machine."""

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

import labeling_ground

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

OURS = labeling_ground.__path__[0]
CLICK = json.dumps({"points": [{"x": 20, "y": 15, "label": 1}]}).encode()


async def asked(server: "Running", path: str, body: bytes) -> tuple[int, dict[str, Any], list[str]]:
    """The status and JSON of an answer, and the functions of ours that were called for it."""
    calls: list[str] = []
    frames: set[FrameType] = set()
    sent: list[Any] = []
    received: list[bool] = []
    length = str(len(body)).encode()
    scope = {
        "type": "http",
        "method": "POST" if body else "GET",
        "path": path,
        "headers": [(b"host", b"server"), (b"content-type", b"application/json"), (b"content-length", length)],
        "query_string": b"",
        "root_path": "",
    }

    async def receive() -> dict[str, Any]:
        if received:
            await asyncio.Event().wait()  # the client stays
        received.append(True)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    def note(frame: "FrameType", event: str, _: object) -> None:
        # A coroutine that goes on is no new call; what the interpreter's own syntax calls is none of ours.
        if event == "call" and frame not in frames and frame.f_code.co_filename.startswith(OURS):
            frames.add(frame)
            if not frame.f_code.co_name.startswith("<"):
                calls.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        await server.app(scope, receive, send)
    finally:
        sys.setprofile(None)
    return sent[0]["status"], json.loads(sent[1]["body"]), calls


async def test_a_click_that_memory_has_costs_few_calls(start: "Start", make_image: "Callable[..., bytes]") -> None:
    async with start(admin_key="root") as server:
        path = f"/v1/images/{await server.send_image(make_image())}/masks"
        await asked(server, path, CLICK)
        await asyncio.sleep(0)
        found = [await asked(server, path, CLICK) for _ in range(3)]
    for status, answer, calls in found:
        assert (status, answer["outcome"]) == (200, "hit")
        assert len(calls) <= 54, calls
    assert server.backend.decodes == 1


async def test_what_is_not_written_again_is_what_was_written(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """A repeated answer is the first one but for how it was come by, in every form, alone or with others."""
    async with start() as server:
        path = f"/v1/images/{await server.send_image(make_image())}/masks"
        for form in ("rle", "png", "polygons"):
            for body in ({"points": [{"x": 20, "y": 15}]}, {"prompts": [{"points": [{"x": 20, "y": 15}]}] * 2}):
                answers = []
                for _ in range(3):
                    _, answer, _ = await asked(server, path, json.dumps(body | {"format": form}).encode())
                    for part in (answer, *answer.get("predictions", [])):
                        for name in ("outcome", "seconds", "timing"):
                            part.pop(name, None)
                    answers.append(answer)
                assert answers[0] == answers[1] == answers[2]
                one = answers[0] if "prompts" not in body else answers[0]["predictions"][1]
                assert form in one["masks"][0]
                assert len(one["scores"]) == 3
        assert server.backend.decodes == 1


async def test_the_no_op_costs_next_to_nothing(start: "Start") -> None:
    async with start() as server:
        await asked(server, "/health/live", b"")
        status, answer, calls = await asked(server, "/health/live", b"")
    assert (status, answer) == (200, {"status": "ok", "checks": {}})
    assert len(calls) <= 14, calls
