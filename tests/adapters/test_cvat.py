"""CVAT's calls to a Nuclio dashboard, as its server sends them (read: 2.80, and older ones)."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from aiohttp import web
from numpy.typing import NDArray
from tests.adapters.tools import in_base64, mask_of_v1
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file
from tests.integrations.cvat_names import decode_mask

from labeling_ground.adapters import cvat
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.records import CachedDetections, CachedMask, FoundInstance
from labeling_ground.errors import BackendFailed
from labeling_ground.key import canonical_concept
from labeling_ground.service.asks import Timing
from labeling_ground.service.concepts import ConceptAnswer
from labeling_ground.testing.toy_concepts import TOY_CONCEPTS, ToyConcepts
from labeling_ground.types import Box, Outcome

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start, StartReal

pytestmark = pytest.mark.anyio

WIDTH, HEIGHT = 64, 48
KEY = "a-long-key-for-ann"
INVOCATIONS = "/api/function_invocations"


def headers(version: str = "2.80.0", function: str = "labeling-ground", **more: str) -> dict[str, str]:
    """What CVAT sends with each call."""
    return {
        "User-Agent": f"CVAT/{version} python-requests/2.32.4",
        "x-nuclio-project-name": "cvat",
        "x-nuclio-function-namespace": "nuclio",
        "x-nuclio-invoke-via": "domain-name",
        "X-Nuclio-Invoke-Timeout": "120",
        "x-nuclio-function-name": function,
        "x-nuclio-path": "/",
        **more,
    }


def body(file: bytes, pos: Any = (), neg: Any = (), box: Any = ()) -> dict[str, Any]:
    return {"image": in_base64(file), "pos_points": pos, "neg_points": neg, "obj_bbox": box}


async def invoke(server: "Running", sent: dict[str, Any], path: str = INVOCATIONS, **named: str) -> httpx.Response:
    return await server.client.post(path, json=sent, headers=headers(**named))


def decoded(answer: httpx.Response) -> list[NDArray[np.bool_]]:
    """The masks of an answer, as CVAT reads it."""
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert len(told) == 1
    if "mask" in told:
        rows = np.array(told["mask"])
        assert set(np.unique(rows).tolist()) <= {0, 255}
        return [rows > 0]
    for shape in told["shapes"]:
        assert shape["type"] == "mask"
        assert shape["attributes"] == [{"spec_id": 0, "value": "0.9000"}]  # text: numbers are dropped
        assert all(isinstance(number, int) for number in shape["points"])
    return [decode_mask(shape["points"], WIDTH, HEIGHT) for shape in told["shapes"]]


# --- the list --------------------------------------------------------------------------------------------------------


def as_cvat_reads(function: dict[str, Any]) -> dict[str, Any]:
    """What CVAT's server makes of a function; a field that is missing breaks its whole list there."""
    told = function["metadata"]["annotations"]
    return {
        "id": function["metadata"]["name"],
        "kind": told["type"],
        "labels": json.loads(told.get("spec") or "[]"),
        "state": function["status"]["state"],
        "description": function["spec"]["description"],
        "port": function["status"].get("httpPort"),
        "version": int(told.get("version", "1")),
        "min_pos_points": int(told.get("min_pos_points", 1)),
        "min_neg_points": int(told.get("min_neg_points", -1)),
        "startswith_box": bool(told.get("startswith_box", False)),
        "startswith_box_optional": bool(told.get("startswith_box_optional", False)),
        "help_message": told.get("help_message", ""),
        "animated_gif": told.get("animated_gif", ""),
    }


@pytest.mark.parametrize("base", ["", "/cvat"])
async def test_the_function_is_an_interactor_with_points_of_both_kinds_and_boxes(server: "Running", base: str) -> None:
    listed = (await server.client.get(f"{base}/api/functions", headers=headers())).json()
    one = (await server.client.get(f"{base}/api/functions/labeling-ground", headers=headers())).json()
    assert listed == {"labeling-ground": one}
    read = as_cvat_reads(one)
    assert read["id"] == "labeling-ground"
    assert (read["kind"], read["labels"], read["state"], read["version"]) == ("interactor", [], "ready", 2)
    assert (read["min_pos_points"], read["min_neg_points"]) == (0, 0)
    assert read["startswith_box_optional"] is True
    assert read["startswith_box"] is False, "a box would be a must"
    assert read["port"] == server.app_state.settings.port
    assert "toy" in read["description"]


async def test_another_function_is_not_here(server: "Running") -> None:
    for answer in (
        await server.client.get("/api/functions/openvino-dextr", headers=headers()),
        await invoke(server, {"image": ""}, function="openvino-dextr"),
    ):
        assert answer.status_code == 404
        assert "LABELING_GROUND_NUCLIO_URL" in answer.json()["detail"]


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.80.0", "2.60.1", "3.0.0", "2.59.0", "2.8.1", "1.7.0"])
@pytest.mark.parametrize(
    ("sent", "prompt"),
    [
        ({"pos": [[20.25, 17.75]]}, {"points": [{"x": 20.25, "y": 17.75}]}),
        (
            {"pos": [[20.5, 17]], "neg": [[23.5, 17]]},
            {"points": [{"x": 20.5, "y": 17}, {"x": 23.5, "y": 17, "label": 0}]},
        ),
        ({"box": [[0, 0], [12.5, 9.5]]}, {"box": [0, 0, 12.5, 9.5]}),
        (
            {"box": [[32.5, 29.5], [0, 0]], "neg": [[3, 3]]},
            {"box": [0, 0, 32.5, 29.5], "points": [{"x": 3, "y": 3, "label": 0}]},
        ),
        ({"pos": [[40, 20]], "box": None}, {"points": [{"x": 40, "y": 20}]}),
    ],
    ids=["fractions", "both kinds", "box at the corner", "corners the other way round", "null for no box"],
)
async def test_a_click_gives_the_pixels_of_v1(
    server: "Running", make_image: Callable[..., bytes], version: str, sent: Any, prompt: Any
) -> None:
    file = make_image(WIDTH, HEIGHT)
    answer = await invoke(server, body(file, **sent), version=version)
    reads_shapes = version in ("2.80.0", "2.60.1", "3.0.0")
    assert ("shapes" in answer.json()) is reads_shapes
    [mask] = decoded(answer)
    expected = await mask_of_v1(server, file, **prompt)
    assert expected.any()
    assert (mask == expected).all()
    assert (server.backend.encodes, server.backend.decodes) == (1, 1), "one encode and one decode for both"


@pytest.mark.parametrize("agent", ["python-requests/2.32.4", "", "CVAT/develop python-requests/2.32.4"])
async def test_of_an_unknown_version_only_the_mask_is_safe(
    server: "Running", make_image: Callable[..., bytes], agent: str
) -> None:
    sent = body(make_image(WIDTH, HEIGHT), pos=[[20, 17]])
    answer = await server.client.post(INVOCATIONS, json=sent, headers=headers() | {"User-Agent": agent})
    assert list(answer.json()) == ["mask"]


async def test_the_body_and_the_answer_before_2023(server: "Running", make_image: Callable[..., bytes]) -> None:
    """``obj_bbox`` was not sent, or null; the answer is a list of rows."""
    file = make_image(WIDTH, HEIGHT)
    sent = {"image": in_base64(file), "pos_points": [[20, 17]], "neg_points": []}
    answer = await invoke(server, sent, version="2.2.0")
    rows = answer.json()["mask"]
    assert [len(rows), *{len(row) for row in rows}] == [HEIGHT, WIDTH]
    assert (decoded(answer)[0] == await mask_of_v1(server, file, points=[{"x": 20, "y": 17}])).all()


async def test_several_boxes_are_a_mask_each_and_points_belong_to_the_box_that_they_lie_in(
    server: "Running", make_image: Callable[..., bytes]
) -> None:
    file = make_image(WIDTH, HEIGHT)
    boxes = [[0, 0], [20, 20], [40, 20], [64, 48]]
    expected = [
        await mask_of_v1(server, file, box=[0, 0, 20, 20]),
        await mask_of_v1(server, file, box=[40, 20, 64, 48], points=[{"x": 50, "y": 30, "label": 0}]),
    ]
    for version in ("2.80.0", "unknown"):  # no version reads one mask only and has several boxes
        masks = decoded(await invoke(server, body(file, neg=[[50, 30]], box=boxes), version=version))
        assert len(masks) == 2
        assert all((mask == want).all() for mask, want in zip(masks, expected, strict=True))


async def test_a_part_of_the_frame_is_an_image_of_its_own(server: "Running", make_image: Callable[..., bytes]) -> None:
    """CVAT crops to a region of interest by itself, and sends coordinates in it."""
    whole, part = make_image(WIDTH, HEIGHT), make_image(30, 20)
    await invoke(server, body(whole, pos=[[20, 17]]))
    answer = await invoke(server, body(part, pos=[[20, 17]]))
    *_, left, top, right, bottom = answer.json()["shapes"][0]["points"]
    assert 0 <= left <= 20 <= right < 30
    assert 0 <= top <= 17 <= bottom < 20
    assert server.backend.encodes == 2


async def test_an_empty_mask_is_a_shape_without_pixels(server: "Running", make_image: Callable[..., bytes]) -> None:
    sent = body(make_image(WIDTH, HEIGHT), neg=[[2, 2]], box=[[0, 0], [4, 4]])  # the disc covers the box
    shapes = (await invoke(server, sent)).json()["shapes"]
    assert [shape["points"] for shape in shapes] == [[0, 0, 0, 0, 0]]
    [mask] = decoded(await invoke(server, sent, version="2.20.0"))
    assert not mask.any()


async def test_a_point_on_the_far_edge_belongs_to_the_last_pixel(
    server: "Running", make_image: Callable[..., bytes]
) -> None:
    [mask] = decoded(await invoke(server, body(make_image(WIDTH, HEIGHT), pos=[[WIDTH, HEIGHT]])))
    assert mask[HEIGHT - 1, WIDTH - 1]


async def test_a_repeated_frame_is_not_read_again_and_comes_back_where_it_was_forgotten(
    server: "Running", make_image: Callable[..., bytes]
) -> None:
    file = make_image(WIDTH, HEIGHT)
    first = (await invoke(server, body(file, pos=[[20, 17]]))).json()
    assert (await invoke(server, body(file, pos=[[20, 17]]), "/cvat/api/function_invocations")).json() == first
    assert (await invoke(server, body(file, pos=[[20, 17]]), "/")).json() == first, "method «direct»"
    assert (server.backend.encodes, server.backend.decodes) == (1, 1)
    assert (await server.client.delete("/v1/cache")).json()["deleted"] > 0
    assert (await invoke(server, body(file, pos=[[20, 17]]))).json() == first
    assert (server.backend.encodes, server.backend.decodes) == (2, 2)


async def test_what_is_wrong_is_a_status_for_the_page_and_a_sentence_for_the_log(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    file = make_image(WIDTH, HEIGHT)
    cases: list[tuple[dict[str, Any], int, str]] = [
        (body(file), 422, "prompt"),
        (body(file, neg=[[3, 3]]), 422, "label 1"),
        (body(file, box=[[0, 0], [4, 4], [5, 5]]), 422, "3 corners"),
        (body(file, pos=[[1, 2, 3]]), 422, "pos_points.0"),
        (body(file, pos=[["a", 2]]), 422, "pos_points.0"),
        (body(b"no image", pos=[[1, 2]]), 415, "not an image"),
        ({"image": "%%%", "pos_points": [[1, 2]]}, 422, "image"),
        ({"pos_points": [[1, 2]]}, 422, "image"),
    ]
    async with start(max_points=3) as server:
        cases.append((body(file, pos=[[1, 2]] * 4), 413, "4 points"))
        for sent, status, word in cases:
            answer = await invoke(server, sent)
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
            assert word in answer.json()["detail"], answer.text
        server.backend.fail_decode = BackendFailed("The model is on holiday. Try again.")
        assert (await invoke(server, body(file, pos=[[1, 2]]))).status_code == 503


async def test_a_key_comes_as_basic_credentials_which_cvat_has_from_its_address(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(f"x:{KEY}".encode()).decode()}
    async with start(api_keys=(KEY,)) as server:
        for path in ("/api/functions", "/api/functions/labeling-ground"):
            assert (await server.client.get(path, headers=headers())).status_code == 401
            assert (await server.client.get(path, headers=headers(**basic))).status_code == 200
        sent = body(make_image(WIDTH, HEIGHT), pos=[[20, 17]])
        assert (await invoke(server, sent)).status_code == 401
        assert (await invoke(server, sent, "/")).status_code == 401
        assert (await invoke(server, sent, **basic)).status_code == 200


async def test_the_root_is_the_page_for_those_who_read_and_is_limited_for_those_who_send(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start(max_requests=1, max_image_bytes=1 << 16) as server:
        assert "text/html" in (await server.client.get("/")).headers["content-type"]
        assert (await invoke(server, body(b"0" * (6 << 20), pos=[[1, 1]]), "/")).status_code == 413
        server.backend.decode_may_go_on.clear()
        busy = asyncio.create_task(invoke(server, body(make_image(WIDTH, HEIGHT), pos=[[20, 17]]), "/"))
        await server.until(lambda: server.backend.decodes == 1)
        assert (await invoke(server, body(make_image(WIDTH, HEIGHT), pos=[[20, 17]]), "/")).status_code == 503
        assert (await server.client.get("/")).status_code == 200
        server.backend.decode_may_go_on.set()
        assert (await busy).status_code == 200


async def test_without_the_adapter_nothing_of_it_is_there(start: "Start", make_image: Callable[..., bytes]) -> None:
    async with start(adapters="qupath") as server:
        assert (await server.client.get("/api/functions")).status_code == 404
        assert (await invoke(server, body(make_image(), pos=[[1, 1]]))).status_code == 404
        assert (await invoke(server, body(make_image(), pos=[[1, 1]]), "/")).status_code == 405


async def test_a_whole_picture_is_a_mask_of_numbers(start_real: "StartReal", make_image: Callable[..., bytes]) -> None:
    """Over a socket, with a picture whose rows are long."""
    file = make_image(1500, 1100)
    with start_real() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            sent = body(file, pos=[[700.5, 500.5]])
            answer = await client.post(INVOCATIONS, json=sent, headers=headers(version="2.40.0"))
            rows = np.array(answer.json()["mask"], np.uint8)
            assert rows.shape == (1100, 1500)
            shapes = (await client.post(INVOCATIONS, json=sent, headers=headers())).json()["shapes"]
            assert (decode_mask(shapes[0]["points"], 1500, 1100) == (rows > 0)).all()


# --- functions of a real dashboard ---------------------------------------------------------------------------------


@dataclass
class Nuclio:
    """A real dashboard with one function, ``openvino-dextr``: what it was asked, and what it answers."""

    url: str = ""
    calls: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200
    answer: bytes = b'[{"label": "cat"}]'
    listed: bytes = json.dumps({"openvino-dextr": {"metadata": {"name": "openvino-dextr"}}}).encode()


@asynccontextmanager
async def nuclio(**said: Any) -> AsyncIterator[Nuclio]:
    dashboard = Nuclio(**said)

    async def handle(request: web.Request) -> web.Response:
        content = await request.read()
        dashboard.calls.append((request.method, request.path, dict(request.headers), content))
        found = dashboard.listed if request.path == "/api/functions" else dashboard.answer
        return web.Response(body=found, status=dashboard.status, content_type="application/json")

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    dashboard.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield dashboard
    finally:
        await runner.cleanup()


async def test_other_functions_are_listed_and_called_where_there_is_a_dashboard(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with nuclio() as other, start(nuclio_url=other.url, api_keys=(KEY,)) as server:
        basic = {"Authorization": "Basic " + base64.b64encode(f"x:{KEY}".encode()).decode()}
        listed = (await server.client.get("/api/functions", headers=headers(**basic))).json()
        assert list(listed) == ["openvino-dextr", "labeling-ground"]
        one = await server.client.get("/api/functions/openvino-dextr", headers=headers(**basic))
        assert one.json() == [{"label": "cat"}]
        sent = body(make_image(WIDTH, HEIGHT), pos=[[20, 17]])
        answer = await invoke(server, sent, function="openvino-dextr", **basic)
        assert (answer.status_code, answer.json()) == (200, [{"label": "cat"}])
        assert [call[:2] for call in other.calls] == [
            ("GET", "/api/functions"),
            ("GET", "/api/functions/openvino-dextr"),
            ("POST", "/api/function_invocations"),
        ]
        _, _, told, content = other.calls[-1]
        assert json.loads(content) == sent | {"pos_points": [[20, 17]], "neg_points": [], "obj_bbox": []}
        assert told["x-nuclio-function-name"] == "openvino-dextr"
        assert told["x-nuclio-function-namespace"] == "nuclio"
        assert told["User-Agent"].startswith("CVAT/2.80.0")
        assert not any(KEY in value or "Basic" in value for value in told.values()), "a key of ours stays here"
        assert server.backend.encodes == 0
        # Ours is ours, whatever the dashboard has.
        assert len((await invoke(server, sent, **basic)).json()["shapes"]) == 1
        assert len(other.calls) == 3


async def test_a_failing_function_is_passed_on(start: "Start") -> None:
    async with (
        nuclio(status=500, answer=b'{"detail": "no model"}') as other,
        start(nuclio_url=other.url + "/") as server,
    ):
        answer = await invoke(server, {"image": ""}, function="openvino-dextr")
        assert (answer.status_code, answer.json()["detail"]) == (500, "no model")
        assert list((await server.client.get("/api/functions")).json()) == ["labeling-ground"]


@pytest.mark.parametrize("listed", [b"<html>", b"[]", b""])
async def test_a_dashboard_that_is_none_does_not_take_ours_from_the_list(start: "Start", listed: bytes) -> None:
    async with nuclio(listed=listed) as other, start(nuclio_url=other.url) as server:
        assert list((await server.client.get("/api/functions")).json()) == ["labeling-ground"]


async def test_a_dashboard_that_is_away_or_says_too_much_is_a_503(start: "Start") -> None:
    async with start(nuclio_url="http://user:secret@127.0.0.1:9") as server:
        assert list((await server.client.get("/api/functions")).json()) == ["labeling-ground"]
        answer = await invoke(server, {"image": ""}, function="openvino-dextr")
        assert answer.status_code == 503
        assert "Nuclio dashboard does not answer" in answer.json()["detail"]
        assert "secret" not in answer.text
    async with (
        nuclio(answer=b"0" * (8 << 20)) as other,
        start(nuclio_url=other.url, max_image_bytes=1 << 20) as server,
    ):
        answer = await invoke(server, {"image": ""}, function="openvino-dextr")
        assert (answer.status_code, "larger than" in answer.json()["detail"]) == (503, True)


# --- the detector ----------------------------------------------------------------------------------------------------


async def test_the_detector_finds_what_its_labels_name(start: "Start") -> None:
    """As CVAT reads it: labels by their names, masks pixel by pixel in their box, or the outline beside them."""
    toy: Any = ToyConcepts()
    async with start(backend=toy, cvat_labels=("Red", "blue")) as server:
        listed = (await server.client.get("/api/functions")).json()
        about = listed["labeling-ground-finder"]
        assert about == (await server.client.get("/cvat/api/functions/labeling-ground-finder")).json()
        assert about["metadata"]["annotations"]["type"] == "detector"
        labels = json.loads(about["metadata"]["annotations"]["spec"])
        assert [(label["name"], label["type"]) for label in labels] == [("Red", "mask"), ("blue", "mask")]
        assert about["status"]["state"] == "ready"
        sent = {"image": in_base64(squares_file()), "threshold": 0.1}
        answer = await invoke(server, sent, function="labeling-ground-finder")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        for label, boxes in (("Red", RED_BOXES), ("blue", BLUE_BOXES)):
            own = [one for one in found if one["label"] == label]
            drawn = np.zeros((HEIGHT, WIDTH), np.bool_)
            for one in own:
                *cut, left, top, right, bottom = one["mask"]
                assert (one["type"], set(cut)) == ("mask", {1})
                drawn[top : bottom + 1, left : right + 1] = np.reshape(cut, (bottom - top + 1, right - left + 1))
                xs, ys = one["points"][::2], one["points"][1::2]
                assert [min(xs), min(ys), max(xs), max(ys)] == [left, top, right, bottom]
            expected = np.zeros((HEIGHT, WIDTH), np.bool_)
            for x0, y0, x1, y1 in boxes:
                expected[y0:y1, x0:x1] = True
            assert (drawn == expected).all()
            assert [float(one["confidence"]) for one in own] == sorted(
                (float(one["confidence"]) for one in own), reverse=True
            )
        usual = await invoke(server, {"image": sent["image"]}, function="labeling-ground-finder")
        assert len(usual.json()) == 4
        assert toy.asked.count("detect") == 2


def test_the_outline_of_an_object_in_parts_is_that_of_the_largest_part() -> None:
    """Not of the one with the most corners."""
    pixels = np.zeros((HEIGHT, WIDTH), np.bool_)
    pixels[5:40, 5:30] = True
    pixels[10:21, 40:51] = np.add.outer(abs(np.arange(-5, 6)), abs(np.arange(-5, 6))) <= 5
    box = mask_codec.bbox(pixels)
    mask = CachedMask(mask_codec.to_rle(pixels)["counts"], 0.9, int(pixels.sum()), box)
    instance = FoundInstance(mask, Box(5, 5, 51, 40))
    found = CachedDetections(HEIGHT, WIDTH, canonical_concept("screw"), (instance,))
    answer = ConceptAnswer(found, "", Outcome.MISS, TOY_CONCEPTS, Timing(0.0))
    [one] = json.loads(cvat._as_annotations(["screw"], [answer], 0.5))
    assert sorted(zip(one["points"][::2], one["points"][1::2], strict=True)) == [(5, 5), (5, 39), (29, 5), (29, 39)]


async def test_there_is_no_detector_without_labels_and_its_model_must_take_text(start: "Start") -> None:
    async with start() as server:
        assert list((await server.client.get("/api/functions")).json()) == ["labeling-ground"]
        sent = {"image": in_base64(squares_file())}
        assert (await invoke(server, sent, function="labeling-ground-finder")).status_code == 404
    async with start(cvat_labels=("screw",)) as server:
        answer = await invoke(server, sent, function="labeling-ground-finder")
        assert (answer.status_code, "takes no text" in answer.json()["detail"]) == (501, True)
