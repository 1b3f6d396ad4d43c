"""Every answer names the model version that made it, also where another one is served by the time it goes out."""

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from labeling_ground.types import ModelVersion

if TYPE_CHECKING:
    from tests.api.conftest import Running

pytestmark = pytest.mark.anyio

ONE, OTHER = ModelVersion("toy", "0" * 64), ModelVersion("toy", "b" * 64)


async def ask_while_it_changes(
    server: "Running", half: str, ask: Callable[[], Coroutine[Any, Any, httpx.Response]]
) -> httpx.Response:
    """Ask; the backend changes its model while it computes the answer, and then changes it back."""
    backend = server.backend
    gate = backend.encode_may_go_on if half == "encode" else backend.decode_may_go_on
    before = backend.encodes + backend.decodes
    gate.clear()
    asking = asyncio.create_task(ask())
    await server.until(lambda: backend.encodes + backend.decodes > before)
    made_by, backend.version = backend.version, OTHER if backend.version == ONE else ONE
    gate.set()
    answer = await asking
    backend.version = made_by
    assert answer.status_code == 200, answer.text
    return answer


async def test_images_masks_sessions_and_grids(server: "Running", make_image: "Callable[..., bytes]") -> None:
    post = server.client.post
    sent = await ask_while_it_changes(server, "encode", lambda: post("/v1/images", content=make_image()))
    image_id = sent.json()["image_id"]
    clicked = await ask_while_it_changes(server, "decode", lambda: server.click(image_id, 9, 9))
    both = {"prompts": [{"points": [{"x": 20, "y": 9}]}]}
    many = await ask_while_it_changes(server, "decode", lambda: post(f"/v1/images/{image_id}/masks", json=both))
    opening = {"image": base64.b64encode(make_image()).decode(), "session_id": "s"}
    opened = await ask_while_it_changes(server, "encode", lambda: post("/api/sam/image", json=opening))
    click = {"points": [5, 5], "labels": [1], "session_id": "s"}
    in_session = await ask_while_it_changes(server, "decode", lambda: post("/api/sam/click", json=click))
    grid = {"points_per_side": 1, "pred_iou_thresh": 0.5, "stability_score_offset": 0.5}
    whole = await ask_while_it_changes(server, "decode", lambda: post(f"/v1/images/{image_id}/everything", json=grid))
    for answer in (sent, clicked, many, opened, in_session, whole):
        assert answer.json()["model_version"] == str(ONE)
    grid["stability_score_thresh"] = 0.5
    lines = {"Accept": "application/x-ndjson"}
    stream = await ask_while_it_changes(
        server, "decode", lambda: post(f"/v1/images/{image_id}/everything", json=grid, headers=lines)
    )
    assert json.loads(stream.text.splitlines()[0])["model_version"] == str(ONE)


async def test_the_embeddings_header_and_metadata(server: "Running", make_image: "Callable[..., bytes]") -> None:
    image_id = await server.send_image(make_image())
    server.backend.version = OTHER  # of which there is no embedding yet
    found = await ask_while_it_changes(server, "encode", lambda: server.client.get(f"/v1/images/{image_id}/embedding"))
    size = int.from_bytes(found.content[:8], "little")
    assert json.loads(found.content[8 : 8 + size])["__metadata__"]["model_version"] == str(OTHER)
    assert found.headers["X-Model-Version"] == str(OTHER)


async def test_an_image_that_is_queued(server: "Running", make_image: "Callable[..., bytes]") -> None:
    answer = await server.client.post("/v1/images?wait=false", content=make_image())
    assert (answer.status_code, answer.json()["model_version"]) == (202, str(ONE))
