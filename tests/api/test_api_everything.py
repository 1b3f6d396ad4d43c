"""All masks of an image: one answer or a stream of lines, over real sockets where it is about who stays."""

import asyncio
import base64
import io
import json
import socket
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image as Pillow
from pycocotools import mask as coco
from tests.api.conftest import from_rle, soon
from tests.doubles import until

from labeling_ground.errors import BackendFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.api.conftest import RealServer, Running, Start, StartReal

# pycocotools decodes through a class that numpy 2 finds old-fashioned.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

GRID = {"points_per_side": 4, "pred_iou_thresh": 0.5, "stability_score_offset": 0.5}
LINES = {"Accept": "application/x-ndjson"}


async def ask(server: "Running", image_id: str, **body: Any) -> httpx.Response:
    return await server.client.post(f"/v1/images/{image_id}/everything", json=GRID | body)


# --- as one answer -----------------------------------------------------------------------------------------------


async def test_all_masks_come_in_one_answer_and_the_second_time_from_the_cache(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    image_id = await server.send_image(make_image(64, 48))
    first = (await ask(server, image_id)).json()
    second = (await ask(server, image_id, box_nms_thresh=0.7)).json()
    assert (first["outcome"], second["outcome"]) == ("miss", "hit")
    assert server.backend.decodes == 16
    assert first["masks"] == second["masks"]
    assert (first["width"], first["height"], first["points"], first["image_id"]) == (64, 48, 16, image_id)
    assert (first["model"], first["note"]) == ("toy", server.backend.note)
    assert first["options"] == {
        "points_per_side": 4,
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.95,
        "stability_score_offset": 0.5,
        "box_nms_thresh": 0.7,
        "min_mask_region_area": 0,
    }
    assert len({one["id"] for one in first["masks"]}) == len(first["masks"]) >= 4
    assert first["timing"]["decode"] > 0
    for one in first["masks"]:
        mask = from_rle(one["rle"])
        assert mask.shape == (48, 64)
        assert mask.sum() == one["area"]
        assert coco.toBbox(coco.encode(np.asfortranarray(mask.view(np.uint8)))).tolist() == one["bbox"]
        assert mask[int(one["point"][1]), int(one["point"][0])]
        assert one["score"] > 0.5
        assert one["stability"] >= 0.95


async def test_all_forms_say_the_same(server: "Running", make_image: "Callable[..., bytes]") -> None:
    image_id = await server.send_image(make_image(64, 48))
    forms = {form: (await ask(server, image_id, format=form)).json()["masks"] for form in ("rle", "png", "polygons")}
    assert server.backend.decodes == 16
    for rle, png, polygons in zip(*forms.values(), strict=True):
        mask = from_rle(rle["rle"])
        assert np.array_equal(mask, np.asarray(Pillow.open(io.BytesIO(base64.b64decode(png["png"])))))
        outer = np.asarray(polygons["polygons"][0])
        assert [*outer.min(axis=0), *(outer.max(axis=0) - outer.min(axis=0))] == pytest.approx(rle["bbox"], abs=1)
        assert rle["id"] == png["id"] == polygons["id"]


async def test_nothing_in_the_body_means_the_models_own_defaults(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    image_id = await server.send_image(make_image(64, 48))
    address = f"/v1/images/{image_id}/everything"
    answer = (await server.client.post(address)).json()
    assert answer["options"]["points_per_side"] == 32
    assert (await server.client.post(address, json={})).json()["outcome"] == "hit"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"points_per_side": 0}, 422, "points_per_side"),
        ({"points_per_side": 4.5}, 422, "points_per_side"),
        ({"points_per_side": 9}, 413, "8"),
        ({"pred_iou_thresh": 1.5}, 422, "pred_iou_thresh"),
        ({"crop_n_layers": 1}, 422, "crop_n_layers"),
        ({"format": "tiff"}, 422, "format"),
        ({"model": "other"}, 404, "other"),
        ([], 422, "object"),
    ],
)
@pytest.mark.parametrize("headers", [{}, LINES])
async def test_what_cannot_be_asked_is_said(
    start: "Start", make_image: "Callable[..., bytes]", body: Any, status: int, says: str, headers: dict[str, str]
) -> None:
    """With its own status, also to who wants a stream."""
    async with start(max_points_per_side=8) as server:
        image_id = await server.send_image(make_image())
        answer = await server.client.post(f"/v1/images/{image_id}/everything", json=body, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]
    assert server.backend.decodes == 0


async def test_an_unknown_image_is_said_before_any_stream_begins(server: "Running") -> None:
    answer = await server.client.post(f"/v1/images/{'0' * 64}/everything", headers=LINES)
    assert answer.status_code == 404
    assert answer.json()["type"].endswith("unknown-image")
    assert answer.json()["image_id"] == "0" * 64


async def test_it_is_counted_kept_and_purged_like_any_other_kind(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    image_id = await server.send_image(make_image())
    await ask(server, image_id)
    await ask(server, image_id)
    figures = (await server.client.get("/v1/cache")).json()
    kind = figures["kinds"]["everything"]
    assert (kind["lookups"], kind["hits"], kind["misses"]) == (2, 1, 1)
    assert kind["seconds_saved"] == kind["seconds_computed"] > 0
    assert figures["tiers"][0]["entries_by_kind"]["everything"] == 1
    assert figures["queues"]["grids"]["running"] == 0
    assert figures["predictions"]["everything"] == {"used": 1}
    metrics = (await server.client.get("/metrics")).text
    assert 'labeling_ground_lookups_total{kind="everything",model="toy",outcome="hit"} 1.0' in metrics
    assert 'labeling_ground_waiting{class="interactive",model="",queue="grids"} 0.0' in metrics
    await server.client.delete(f"/v1/images/{image_id}")
    assert (await ask(server, image_id)).status_code == 404
    figures = (await server.client.get("/v1/cache")).json()
    assert "everything" not in {kind for kind, held in figures["tiers"][0]["entries_by_kind"].items() if held}


# --- as a stream -------------------------------------------------------------------------------------------------


class Stream:
    """A stream that is being read."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def line(self) -> dict[str, Any]:
        """The next line."""
        async with asyncio.timeout(60):
            read: dict[str, Any] = json.loads(await anext(self._lines))
        return read

    async def rest(self) -> list[dict[str, Any]]:
        """All lines that are left."""
        return [json.loads(line) async for line in self._lines]


@asynccontextmanager
async def streaming(server: "RealServer", image_id: str, **body: Any) -> "AsyncIterator[Stream]":
    """Ask for a stream on a connection of its own, which is closed in the end."""
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        client.stream("POST", f"/v1/images/{image_id}/everything", json=GRID | body, headers=LINES) as answer,
    ):
        assert answer.status_code == 200
        yield Stream(answer)


def send_to(server: "RealServer", file: bytes) -> str:
    image_id: str = httpx.post(f"{server.url}/v1/images", content=file, timeout=60).json()["image_id"]
    return image_id


@pytest.mark.parametrize("form", ["rle", "png", "polygons"])
async def test_the_stream_tells_the_same_as_the_answer(
    start_real: "StartReal", make_image: "Callable[..., bytes]", form: str
) -> None:
    with start_real() as server:
        image_id = send_to(server, make_image(64, 48))
        for outcome in ("miss", "hit"):
            async with streaming(server, image_id, format=form) as stream:
                assert stream.answer.headers["content-type"].startswith("application/x-ndjson")
                lines = await stream.rest()
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
                asked = await client.post(f"/v1/images/{image_id}/everything", json=GRID | {"format": form})
            plain = asked.json()
            assert lines[0].pop("event") == "start"
            start = {"image_id", "model", "model_version", "note", "options", "width", "height", "points"}
            assert lines[0] == {name: plain[name] for name in start}
            assert [line["event"] for line in lines[1:-1]] == ["progress"] * (len(lines) - 2)
            assert (len(lines) == 2) == (outcome == "hit")
            assert (lines[-1]["event"], lines[-1]["outcome"]) == ("end", outcome)
            masks = {one["id"]: one for line in lines[1:] for one in line["masks"]}
            assert [masks[one] for one in lines[-1]["standing"]] == plain["masks"]
            for line in lines[1:-1]:
                assert set(line["standing"]) <= masks.keys()
                assert (line["points"], line["done"] % 4) == (16, 0)


async def test_lines_come_while_the_grid_is_being_worked_on(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    with start_real() as server:
        image_id = send_to(server, make_image())
        server.backend.decode_may_go_on.clear()
        async with streaming(server, image_id) as stream:
            assert (await stream.line())["event"] == "start"
            assert server.app_state.models.default.everything.jobs.running == 1
            server.backend.decode_may_go_on.set()
            assert (await stream.rest())[-1]["event"] == "end"


async def test_the_last_client_that_leaves_calls_the_work_off_and_the_first_does_not(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    with start_real() as server:
        image_id = send_to(server, make_image())
        flights = server.app_state.predictor.flights
        server.backend.decode_may_go_on.clear()
        async with streaming(server, image_id) as staying:
            await staying.line()
            async with streaming(server, image_id) as leaving:
                await leaving.line()
            await asyncio.sleep(0.1)
            assert (len(flights), server.backend.cancelled) == (1, 0)
        await until(lambda: len(flights) == server.app_state.models.default.everything.jobs.running == 0)
        decodes = server.backend.decodes
        server.backend.decode_may_go_on.set()
        await until(lambda: server.app_state.predictor.decode_queue.running == 0)
        assert server.backend.decodes == decodes
        async with streaming(server, image_id) as again:
            assert (await again.rest())[-1]["outcome"] == "miss"
        assert server.backend.decodes == decodes + 16


async def test_who_waits_for_one_answer_and_leaves_calls_the_work_off_too(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    with start_real() as server:
        image_id = send_to(server, make_image())
        server.backend.decode_may_go_on.clear()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            asking = asyncio.create_task(client.post(f"/v1/images/{image_id}/everything", json=GRID))
            await until(lambda: server.backend.decodes >= 1)
            asking.cancel()
            await asyncio.wait({asking})
            assert asking.cancelled()
        await until(
            lambda: (
                len(server.app_state.predictor.flights) == server.app_state.models.default.everything.jobs.running == 0
            )
        )


async def test_who_joins_late_gets_everything_too(start_real: "StartReal", make_image: "Callable[..., bytes]") -> None:
    with start_real(grid_workers=1) as server:
        image_id = send_to(server, make_image())
        server.backend.decode_may_go_on.clear()
        async with streaming(server, image_id) as first:
            await first.line()
            async with streaming(server, image_id) as late:
                assert (await late.line())["event"] == "start"
                server.backend.decode_may_go_on.set()
                answers = [await first.rest(), await late.rest()]
        assert [lines[-1]["outcome"] for lines in answers] == ["miss", "joined"]
        found = [{one["id"] for line in lines for one in line["masks"]} for lines in answers]
        standing = answers[0][-1]["standing"]
        assert standing == answers[1][-1]["standing"]
        assert all(set(standing) <= some for some in found)
        assert server.backend.decodes == 16


async def test_a_failure_in_the_middle_is_the_last_line(
    start_real: "StartReal", make_image: "Callable[..., bytes]", backend_failure: BackendFailed
) -> None:
    with start_real() as server:
        image_id = send_to(server, make_image())
        for error, status in ((backend_failure, 503), (ZeroDivisionError("a bug"), 500)):
            server.backend.fail_decode = None
            server.backend.decode_may_go_on.clear()
            async with streaming(server, image_id) as stream:
                assert (await stream.line())["event"] == "start"
                server.backend.fail_decode = error
                server.backend.decode_may_go_on.set()
                problem = (await stream.rest())[-1]
            assert (problem["event"], problem["status"]) == ("problem", status)
            assert problem["type"].startswith("urn:labeling-ground:problem:")
            assert problem["detail"]
            assert problem.get("retry_after") == (1 if status == 503 else None)
        server.backend.fail_decode = None
        async with streaming(server, image_id) as stream:
            assert (await stream.rest())[-1]["outcome"] == "miss"


async def test_a_grid_too_many_is_told_when_to_come_back(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    with start_real(grid_queue=1) as server:
        ids = [send_to(server, make_image()) for _ in range(3)]
        server.backend.decode_may_go_on.clear()
        jobs = server.app_state.models.default.everything.jobs
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def everything(image_id: str) -> httpx.Response:
                return await client.post(f"/v1/images/{image_id}/everything", json=GRID, headers=LINES)

            first = asyncio.create_task(everything(ids[0]))
            await until(lambda: jobs.running == 1)
            second = asyncio.create_task(everything(ids[1]))
            await until(lambda: jobs.waiting == 1)
            refused = await everything(ids[2])
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["type"].endswith("overloaded")
            server.backend.decode_may_go_on.set()
            for answer in await asyncio.gather(first, second):
                assert json.loads(answer.text.splitlines()[-1])["event"] == "end"


async def test_a_server_that_stops_says_so_in_the_stream(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    with start_real() as server:
        image_id = send_to(server, make_image())
        server.backend.decode_may_go_on.clear()
        async with streaming(server, image_id) as stream:
            await stream.line()
            for flight in server.app_state.predictor.flights._flights.values():  # what closing the server does
                flight.task.get_loop().call_soon_threadsafe(flight.task.cancel)
            [problem] = await stream.rest()
    assert (problem["event"], problem["status"]) == ("problem", 503)


@pytest.mark.parametrize(
    ("accept", "lines"),
    [
        ("application/json", False),
        ("*/*", False),
        ("application/x-ndjson;q=0, application/json", False),
        ("application/json;q=0.5, Application/X-NDJSON; q=0.9", True),
    ],
)
async def test_the_stream_is_for_who_names_it(
    server: "Running", make_image: "Callable[..., bytes]", accept: str, lines: bool
) -> None:
    image_id = await server.send_image(make_image())
    address = f"/v1/images/{image_id}/everything"
    answer = await server.client.post(address, json=GRID, headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/x-ndjson" if lines else "application/json")


# --- drawing -----------------------------------------------------------------------------------------------------


async def test_clicks_are_answered_while_many_wait_for_a_grid_to_be_drawn(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    async with start(draw_workers=1) as server:
        image_id = await server.send_image(make_image(64, 48))
        grid = len((await ask(server, image_id)).json()["masks"])
        drawing, go = server.app_state.predictor.pools.drawing, threading.Event()
        holding = asyncio.create_task(drawing.run(go.wait))
        askers = [asyncio.create_task(ask(server, image_id, format="polygons")) for _ in range(12)]
        await server.until(lambda: drawing.waiting == 12)
        assert (await server.click(image_id, 7, 7)).json()["outcome"] == "miss"
        clicking = asyncio.create_task(server.click(image_id, 9, 9, format="polygons"))
        await server.until(lambda: drawing.waiting == 13)
        before = drawing.begun
        go.set()
        assert len((await clicking).json()["masks"]) == 3
        assert drawing.begun - before < 6 * grid, "of twelve grids not half is drawn by then"
        for task in askers[2:]:
            task.cancel()
        await asyncio.wait(askers[2:])
        before = drawing.begun
        answers = await asyncio.gather(*askers[:2])
        assert [len(answer.json()["masks"]) for answer in answers] == [grid, grid]
        assert drawing.begun - before <= 2 * grid, "nothing is drawn for those who left"
        await holding


@pytest.mark.parametrize("headers", [{}, LINES])
def test_who_hangs_up_while_the_answer_is_drawn_has_no_more_drawn(
    start_real: "StartReal", make_image: "Callable[..., bytes]", headers: dict[str, str]
) -> None:
    with start_real(draw_workers=1) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        image_id = client.post("/v1/images", content=make_image(64, 48)).json()["image_id"]
        address = f"/v1/images/{image_id}/everything"
        assert len(client.post(address, json=GRID).json()["masks"]) > 3
        drawing, go = server.app_state.predictor.pools.drawing, threading.Event()
        before = drawing.begun
        drawing._executor.submit(go.wait)  # the thread is taken
        try:
            body = json.dumps(GRID | {"format": "polygons"}).encode()
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"POST {address} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
            connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
            for connection in connections:
                connection.sendall(head.encode() + body)
            soon(lambda: (drawing.running, drawing.waiting) == (1, 2))
            for connection in connections:
                connection.close()
            soon(lambda: drawing.waiting == 0)
        finally:
            go.set()
        soon(lambda: drawing.running == 0)
        assert drawing.begun - before == 1
