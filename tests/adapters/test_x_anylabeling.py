"""X-AnyLabeling's protocol, from exchanges of the real tool (4.2.1)."""

import asyncio
import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest
from tests.adapters.tools import in_base64, mask_of_v1, recorded, shape_of
from tests.api.conftest import LONG_S, soon
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file

from labeling_ground.testing.toy_concepts import ToyConcepts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import RealServer, Running, Start, StartReal

pytestmark = pytest.mark.anyio

HARMLESS = {"shapes": [], "description": "", "replace": False}
KEY = "a-long-key-for-ann"


def body(file: bytes, *marks: dict[str, Any], **params: Any) -> dict[str, Any]:
    """A body as the tool sends it."""
    image = f"data:image/png;base64,{in_base64(file)}"
    return {"model": "toy", "image": image, "params": {"epsilon_factor": 0.0, "marks": list(marks), **params}}


def point(x: float, y: float, label: int = 1) -> dict[str, Any]:
    return {"type": "point", "data": [x, y], "label": label}


def box(*corners: float, label: int = 1) -> dict[str, Any]:
    return {"type": "rectangle", "data": list(corners), "label": label}


def filled(shapes: list[dict[str, Any]], height: int = 48, width: int = 64) -> np.ndarray[Any, Any]:
    """What the tool's own exporter makes of the shapes."""
    canvas = np.zeros((height, width), np.uint8)
    for shape in shapes:
        cv2.fillPoly(canvas, [np.array(shape["points"], np.int32)], 1)
    return canvas


def check_harmless(answer: httpx.Response, code: str) -> None:
    """Nothing is deleted, and the reason is there."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    told = answer.json()
    assert told["data"] == HARMLESS
    assert told["success"] is False
    assert told["error"]["code"] == code, told
    assert len(told["error"]["message"]) > 10


# --- what works ----------------------------------------------------------------------------------------------------


async def test_a_text_prompt_finds_all_that_it_names_under_its_phrases(start: "Start") -> None:
    toy: Any = ToyConcepts()
    file = squares_file()
    async with start(backend=toy) as server:
        [told] = (await server.client.get("/x-anylabeling/v1/models")).json()["data"].values()
        assert {"edit_text", "button_send", "edit_conf"} <= {each["name"] for each in told["widgets"]}
        assert told["batch_processing_mode"] == "text_prompt"

        async def ask(text: str, **params: Any) -> list[dict[str, Any]]:
            sent = body(file, text_prompt=text, conf_threshold=0.1) | {"model": "toy-concepts"}
            del sent["params"]["marks"]
            sent["params"] |= params
            answer = (await server.client.post("/x-anylabeling/v1/predict", json=sent)).json()
            assert answer["success"] is True, answer
            assert answer["data"] == HARMLESS | {"shapes": answer["data"]["shapes"]}
            shapes: list[dict[str, Any]] = answer["data"]["shapes"]
            return shapes

        shapes = await ask("Red, blue")
        for label, boxes in (("red", RED_BOXES), ("blue", BLUE_BOXES)):
            own = [shape for shape in shapes if shape["label"] == label]
            assert len(own) == len(boxes)
            expected = np.zeros((48, 64), np.uint8)
            for x0, y0, x1, y1 in boxes:
                expected[y0:y1, x0:x1] = 1
            np.testing.assert_array_equal(filled(own), expected)
        assert [shape["label"] for shape in await ask("red.blue")] == [shape["label"] for shape in shapes]
        assert len(await ask("red", conf_threshold=0.5)) == 2
        assert toy.asked.count("detect") == 2


@pytest.mark.parametrize("name", ["models", "models-of-a-closing-slash"])
async def test_the_models_are_what_the_tool_reads(server: "Running", name: str) -> None:
    """The second is asked for where a slash ends the base address that was typed."""
    exchange = recorded(f"x-anylabeling/{name}")
    for path in (exchange["path"], "/v1/models", "//v1/models", "/v1/models/"):
        answer = (await server.client.get(f"http://server{path}", headers={"Token": ""})).json()
        assert answer["success"] is True, path
        [told] = answer["data"].values()
        [expected] = exchange["answer"]["data"].values()
        assert list(answer["data"]) == ["toy"]
        keeps = {"name": "toggle_preserve_existing_annotations", "value": True}
        assert told["widgets"] == [*expected["widgets"], keeps]
        assert told["batch_processing_mode"] is None
    ours = (await server.client.get("/v1/models")).json()
    assert ours["models"][0]["id"] == "toy", "our own clients read the same answer"


@pytest.mark.parametrize(
    "name", ["predict-point", "predict-point-point", "predict-rectangle", "predict-rectangle-point"]
)
async def test_a_recorded_click_is_answered_in_the_recorded_form_with_the_pixels_of_v1(
    server: "Running", make_image: "Callable[..., bytes]", name: str
) -> None:
    exchange = recorded(f"x-anylabeling/{name}")
    file = make_image(500, 340)
    sent = exchange["body"] | {"model": "toy", "image": f"data:image/png;base64,{in_base64(file)}"}
    for path in (exchange["path"], "/v1/predict", "//v1/predict", "/x-anylabeling//v1/predict/"):
        answer = await server.client.post(f"http://server{path}", json=sent, headers={"Token": ""})
        assert answer.status_code == 200, answer.text
        assert shape_of(answer.json()) == shape_of(exchange["answer"])
    [shape] = answer.json()["data"]["shapes"]
    assert shape["points"][0] == shape["points"][-1], "an open ring is drawn open"
    marks = sent["params"]["marks"]
    prompt: dict[str, Any] = {
        "points": [
            {"x": mark["data"][0], "y": mark["data"][1], "label": mark["label"]}
            for mark in marks
            if mark["type"] == "point"
        ]
    }
    for mark in marks:
        if mark["type"] == "rectangle":
            prompt["box"] = mark["data"]
    expected = await mask_of_v1(server, file, **prompt)
    assert (filled([shape], 340, 500) == expected).all()
    assert (server.backend.encodes, server.backend.decodes) == (1, 1)


async def test_several_rectangles_are_a_mask_each(server: "Running", make_image: "Callable[..., bytes]") -> None:
    exchange = recorded("x-anylabeling/predict-rectangle-rectangle")
    file = make_image(500, 340)
    sent = exchange["body"] | {"model": "toy", "image": f"data:image/png;base64,{in_base64(file)}"}
    shapes = (await server.client.post("/v1/predict", json=sent)).json()["data"]["shapes"]
    assert len(shapes) == len(exchange["answer"]["data"]["shapes"]) == 2
    for shape, mark in zip(shapes, sent["params"]["marks"], strict=True):
        assert (filled([shape], 340, 500) == await mask_of_v1(server, file, box=mark["data"])).all()


async def test_points_belong_to_the_rectangle_that_they_lie_in(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    file = make_image()
    marks = [box(0, 0, 20, 20), box(40, 20, 64, 48), point(50, 30, 0), point(30, 40)]
    shapes = (await server.client.post("/v1/predict", json=body(file, *marks))).json()["data"]["shapes"]
    expected: list[dict[str, Any]] = [
        {"box": [0, 0, 20, 20]},
        {"box": [40, 20, 64, 48], "points": [{"x": 50, "y": 30, "label": 0}]},
        {"points": [{"x": 30, "y": 40}]},
    ]
    whole = np.zeros((48, 64), np.bool_)
    for prompt in expected:
        whole |= await mask_of_v1(server, file, **prompt)
    assert (filled(shapes).astype(bool) == whole).all()
    assert server.backend.decodes == 3, "the same prompts"


async def test_without_marks_there_are_no_shapes_and_no_work(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    exchange = recorded("x-anylabeling/predict")
    sent = exchange["body"] | {"model": "toy", "image": f"data:image/png;base64,{in_base64(make_image())}"}
    answer = (await server.client.post("/v1/predict", json=sent)).json()
    assert answer == exchange["answer"] == {"success": True, "data": HARMLESS}
    assert server.backend.encodes == 0


async def test_fractions_stay_and_a_click_on_the_edge_is_on_the_image(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    file = make_image()
    image_id = await server.send_image(file)
    for sent, meant in (((118.5 / 4, 10.25), (29.625, 10.25)), ((64, 48), (64 - 1 / 64, 48 - 1 / 64))):
        await server.click(image_id, *meant)
        decodes = server.backend.decodes
        answer = (await server.client.post("/v1/predict", json=body(file, point(*sent)))).json()
        assert answer["success"] is True, answer
        assert server.backend.decodes == decodes


async def test_fineness_simplifies_the_outline(server: "Running", make_image: "Callable[..., bytes]") -> None:
    file = make_image(300, 300)
    counts = []
    for factor in (0.0, 0.001, 0.01):
        sent = body(file, point(150, 150), epsilon_factor=factor)
        [shape] = (await server.client.post("/v1/predict", json=sent)).json()["data"]["shapes"]
        counts.append(len(shape["points"]))
    assert counts[0] > counts[1] > counts[2] > 4
    assert server.backend.decodes == 1


# --- what goes wrong: anything but this answer deletes the annotator's shapes ----------------------------------------


def predict(server: "RealServer", sent: Any, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/predict", json=sent, timeout=LONG_S, **more)


def test_bad_input_deletes_nothing(start_real: "StartReal", make_image: "Callable[..., bytes]") -> None:
    file = make_image()
    good = body(file, point(30, 20))
    truncated = body(make_image(300, 300)[:20_000], point(30, 20))
    kinds: list[tuple[str, Any]] = [
        ("invalid-request", {}),
        ("invalid-request", []),
        ("invalid-request", good | {"image": None}),
        ("invalid-request", good | {"image": "data:image/png;base64,%%%"}),
        ("invalid-request", good | {"image": ""}),
        ("invalid-request", body(file, {"type": "circle", "data": [1, 2], "label": 1})),
        ("invalid-request", body(file, {"type": "point", "data": "here", "label": 1})),
        ("unsupported-image", good | {"image": in_base64(b"no picture at all")}),
        ("damaged-image", truncated),
        ("unknown-model", good | {"model": "another"}),
        ("bad-prompt", body(file, point(30, 20, 0))),
        ("bad-prompt", body(file, point(30, 20, 7))),
        ("bad-prompt", body(file, {"type": "point", "data": [1], "label": 1})),
        ("bad-prompt", body(file, box(1, 1, 20, 20, label=0))),
        ("bad-prompt", body(file, box(5, 5, 5, 20))),
        ("not-offered", body(file, text_prompt="a cat")),
        ("bad-prompt", body(file, text_prompt=" ")),
    ]
    with start_real() as server:
        for code, sent in kinds:
            check_harmless(predict(server, sent), code)
        for content, headers, code in (
            (b"{", {"Content-Type": "application/json"}, "malformed-body"),
            (b"", {}, "malformed-body"),
            (b"{}", {"Content-Type": "text/plain"}, "unsupported-media-type"),
            (b"{}", {"Content-Encoding": "gzip", "Content-Type": "application/json"}, "unsupported-encoding"),
        ):
            answer = httpx.post(f"{server.url}/x-anylabeling/v1/predict", content=content, headers=headers)
            check_harmless(answer, code)


def test_limits_delete_nothing(start_real: "StartReal", make_image: "Callable[..., bytes]") -> None:
    small = {"max_points": 2, "max_prompts": 2, "max_image_pixels": 64 * 48, "max_image_bytes": 12_000}
    with start_real(**small) as server:
        file = make_image()
        check_harmless(predict(server, body(file, *[point(30, 20)] * 3)), "too-large")
        check_harmless(predict(server, body(file, *[box(1, 1, 9, 9)] * 3)), "too-large")
        check_harmless(predict(server, body(make_image(65, 48), point(1, 1))), "too-large")
        check_harmless(predict(server, body(file + bytes(12_000), point(1, 1))), "too-large")
        check_harmless(predict(server, body(bytes(8 << 20), point(1, 1))), "too-large")  # beyond the body's own limit
        assert predict(server, body(file, point(30, 20))).json()["success"] is True


def test_a_key_that_is_wrong_or_missing_deletes_nothing(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    with start_real(api_keys=(KEY,)) as server:
        sent = body(make_image(), point(30, 20))
        check_harmless(predict(server, sent), "unauthorized")
        check_harmless(predict(server, sent, headers={"Token": "wrong"}), "unauthorized")
        assert predict(server, sent, headers={"Token": KEY}).json()["success"] is True
        for path in ("/v1/models", "/x-anylabeling/v1/models"):
            assert httpx.get(server.url + path, headers={"Token": "wrong"}).status_code == 401
            assert "toy" in httpx.get(server.url + path, headers={"Token": KEY}).json()["data"]


def test_a_foreign_name_or_page_deletes_nothing(start_real: "StartReal", make_image: "Callable[..., bytes]") -> None:
    with start_real() as server:
        sent = body(make_image(), point(30, 20))
        check_harmless(predict(server, sent, headers={"Host": "somewhere.example"}), "unknown-host")
        check_harmless(predict(server, sent, headers={"Origin": "https://elsewhere.example"}), "cross-site")


def test_a_body_that_stops_coming_deletes_nothing(start_real: "StartReal") -> None:
    with (
        start_real(receive_timeout_s=0.3) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        check_raw(connection, "request-timeout")


def check_raw(connection: socket.socket, code: str) -> None:
    connection.settimeout(LONG_S)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    head, _, content = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received
    told = json.loads(content)
    assert (told["data"], told["error"]["code"]) == (HARMLESS, code)


def test_a_busy_server_deletes_nothing(start_real: "StartReal", make_image: "Callable[..., bytes]") -> None:
    """No place among the requests, none in the queue, and no time left."""
    with start_real(max_requests=1) as server:
        server.backend.encode_may_go_on.clear()
        waiting: list[httpx.Response] = []
        sent = body(make_image(), point(30, 20))
        other = threading.Thread(target=lambda: waiting.append(predict(server, sent)))
        other.start()
        soon(lambda: server.backend.encodes == 1)
        check_harmless(predict(server, sent), "overloaded")
        server.backend.encode_may_go_on.set()
        other.join(LONG_S)
        assert waiting[0].json()["success"] is True
    with start_real(adapter_deadline_s=0.2) as server:
        server.backend.encode_may_go_on.clear()
        sent = body(make_image(), point(30, 20))
        check_harmless(predict(server, sent), "overloaded")
        server.backend.encode_may_go_on.set()
        soon(lambda: predict(server, sent).json()["success"] is True)
        assert server.backend.encodes == 1, "what was begun went on"


async def test_a_model_that_fails_and_a_bug_of_ours_delete_nothing(
    start: "Start", make_image: "Callable[..., bytes]", backend_failure: Exception
) -> None:
    async with start() as server:
        file = make_image()
        server.backend.fail_decode = backend_failure
        check_harmless(await server.client.post("/v1/predict", json=body(file, point(30, 20))), "backend-failed")
    async with start() as server:
        server.backend.fail_encode = ZeroDivisionError("a bug")
        check_harmless(await server.client.post("/v1/predict", json=body(make_image(), point(30, 20))), "internal")


def test_a_server_that_is_stopped_deletes_nothing(start_real: "StartReal", make_image: "Callable[..., bytes]") -> None:
    """A click that is under way when the grace of a stop is over."""
    responses: list[httpx.Response] = []
    with start_real(shutdown_grace_s=1) as server:
        server.backend.encode_may_go_on.clear()
        sent = body(make_image(), point(30, 20))
        clicking = threading.Thread(target=lambda: responses.append(predict(server, sent)))
        clicking.start()
        soon(lambda: server.backend.encodes == 1)
        server.stop()
        clicking.join(LONG_S)
    assert responses, "the connection was cut"
    check_harmless(responses[0], "overloaded")


async def test_what_is_measured_is_the_failure(start: "Start") -> None:
    """The client hears 200; the operator must not believe that all was well."""
    async with start() as server:
        await asyncio.gather(*(server.client.post("/v1/predict", json={}) for _ in range(3)))
        text = (await server.client.get("/metrics")).text
    line = next(line for line in text.splitlines() if 'route="/v1/predict"' in line and "status" in line)
    assert 'status="422"' in line
    assert line.endswith(" 3.0")
