"""All tools on one file and one click: one encode, one decode, the same pixels."""

import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.adapters.tools import in_base64, pixels_of, recorded
from tests.doubles import counted
from tests.file_hosts import file_host, gives
from tests.web.formats import brush

from labeling_ground.codec import mask as mask_codec
from labeling_ground.types import Kind

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

WIDTH, HEIGHT = 500, 340
Click = Callable[["Running", bytes, float, float], Awaitable[NDArray[np.bool_]]]


async def ask(server: "Running", path: str, body: Any) -> Any:
    answer = await server.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def through_v1(server: "Running", file: bytes, x: float, y: float) -> NDArray[np.bool_]:
    image_id = await server.send_image(file)
    answer = await ask(server, f"/v1/images/{image_id}/masks", {"points": [{"x": x, "y": y}]})
    return mask_codec.from_rle(**answer["masks"][0]["rle"])


async def through_x_anylabeling(server: "Running", file: bytes, x: float, y: float) -> NDArray[np.bool_]:
    params = {"marks": [{"type": "point", "data": [x, y], "label": 1}], "epsilon_factor": 0}
    sent = {"image": f"data:image/png;base64,{in_base64(file)}", "params": params}
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    for shape in (await ask(server, "/x-anylabeling/v1/predict", sent))["data"]["shapes"]:
        cv2.fillPoly(canvas, [np.array(shape["points"], np.int32)], 1)
    return canvas.astype(np.bool_)


async def through_roboflow(server: "Running", file: bytes, x: float, y: float) -> NDArray[np.bool_]:
    sent = {
        "image": {"type": "base64", "value": in_base64(file)},
        "prompts": {"prompts": [{"points": [{"x": x, "y": y, "positive": True}]}]},
        "format": "rle",
    }
    answer = await ask(server, "/sam2/segment_image", sent)
    return mask_codec.from_rle(**answer["predictions"][0]["masks"])


async def through_cvat(server: "Running", file: bytes, x: float, y: float) -> NDArray[np.bool_]:
    sent = {"image": in_base64(file), "pos_points": [[x, y]], "neg_points": [], "obj_bbox": []}
    rows = (await ask(server, "/api/function_invocations", sent))["mask"]  # as versions of old read it
    return np.array(rows) > 0


async def through_qupath(server: "Running", file: bytes, x: float, y: float) -> NDArray[np.bool_]:
    sent = {"b64img": in_base64(file), "point_coords": [[x, y]], "point_labels": [1], "multimask_output": False}
    [feature] = await ask(server, "/sam/", sent)
    return pixels_of(feature, WIDTH, HEIGHT)


async def through_label_studio(server: "Running", file: bytes, x: float, y: float) -> NDArray[np.bool_]:
    """The picture is not in the body: it is fetched from where the server was told that Label Studio is."""
    sent = recorded("label-studio/predict-point")["body"]
    sent["tasks"][0]["data"]["image"] = "/data/upload/1/a.png"
    [region] = sent["params"]["context"]["result"]
    region["value"] |= {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT}
    [result] = (await ask(server, "/label-studio/predict", sent))["results"]
    [painted] = result["result"]
    return np.asarray(brush(painted["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[:, :, 3] > 0)


TOOLS: list[Click] = [through_v1, through_x_anylabeling, through_roboflow, through_cvat, through_qupath]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(TOOLS, 2)))
async def test_two_tools_are_one_encode_and_one_decode_with_equal_pixels(
    server: "Running", make_image: Callable[..., bytes], first: Click, second: Click
) -> None:
    file = make_image(WIDTH, HEIGHT)
    one = await first(server, file, 150, 122)
    other = await second(server, file, 150, 122)
    assert one.any()
    assert not one.all()
    assert (one == other).all()
    assert (server.backend.encodes, server.backend.decodes) == (1, 1)


async def test_who_has_a_key_shares_with_himself_in_all_tools_and_with_nobody_else(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    """Each tool sends the key in its own way."""

    def basic(key: str) -> dict[str, str]:
        return {"Authorization": "Basic " + in_base64(f"x:{key}".encode())}

    ways: dict[Click, Callable[[str], dict[str, str]]] = {
        through_v1: lambda key: {"X-API-Key": key},
        through_x_anylabeling: lambda key: {"Token": key},
        through_roboflow: lambda key: {"Authorization": f"Bearer {key}"},
        through_cvat: basic,
        through_qupath: lambda key: {"X-API-Key": key},  # a proxy adds it
        through_label_studio: basic,
    }
    file = make_image(WIDTH, HEIGHT)
    keys = ("a-long-key-for-ann", "a-long-key-for-ben")
    async with file_host(gives(file)) as host, start(api_keys=keys, label_studio_url=host.url("/")) as server:
        for holders, key in enumerate(keys, 1):
            for click, headers in ways.items():
                server.client.headers = httpx.Headers(headers(key))
                assert (await click(server, file, 150, 122)).any()
            assert (server.backend.encodes, server.backend.decodes) == (holders, holders)


async def test_all_tools_are_one_encode_and_one_decode_with_the_pixels_of_a_real_engine(
    start: "Start",
) -> None:
    """A disc without holes, which polygons would not have, segmented by the weight-free engine."""
    picture = np.full((HEIGHT, WIDTH, 3), (90, 120, 60), np.uint8)
    cv2.circle(picture, (150, 122), 70, (30, 60, 200), -1)
    file = cv2.imencode(".png", cv2.GaussianBlur(picture, (0, 0), 1.5))[1].tobytes()
    legacy_token = "0123456789abcdef0123456789abcdef01234567"
    async with (
        file_host(gives(file)) as host,
        start(real_engine=True, label_studio_url=host.url("/"), label_studio_api_key=legacy_token) as server,
    ):
        found = [await click(server, file, 150.25, 122.5) for click in (*TOOLS, through_label_studio)]
        for mask in found[1:]:
            assert (mask == found[0]).all()
        assert abs(int(found[0].sum()) - np.pi * 70**2) < 1500
        predictor = server.app_state.predictor
        assert [counted(predictor, kind).misses for kind in (Kind.EMBEDDING, Kind.MASK)] == [1, 1]
