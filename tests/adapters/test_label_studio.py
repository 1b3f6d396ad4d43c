"""Label Studio's protocol, from exchanges of the real tool (1.23.2); Label Studio itself is played."""

import base64
import contextlib
import copy
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest
from aiohttp import web
from numpy.typing import NDArray
from PIL import Image as Pillow
from tests.adapters.tools import recorded, shape_of
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file
from tests.file_hosts import FileHost, file_host, gives
from tests.web.formats import brush

from labeling_ground.adapters.label_studio.config import parse_config
from labeling_ground.codec import mask as mask_codec
from labeling_ground.errors import BadInput, BadSettings
from labeling_ground.settings import read_settings
from labeling_ground.testing.toy_concepts import ToyConcepts

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

KEY = "a-long-key-for-ann"
PERSONAL = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"
"""Of a personal access token: it is good for nothing but to be exchanged."""
LEGACY = "0123456789abcdef0123456789abcdef01234567"
WIDTH, HEIGHT = 500, 340


def picture(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (width, height), "blue").save(file, "PNG")
    return file.getvalue()


PICTURE = picture()


@dataclass
class LabelStudio:
    """A played Label Studio: it gives pictures to whom it knows, and says who asked for what."""

    host: FileHost
    tokens: set[str]

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Paths, and the credentials that came with each."""
        return [(each.path, each.headers.get("Authorization", "")) for each in self.host.requests]


@contextlib.asynccontextmanager
async def label_studio(*, legacy: bool = False, bucket: str = "", file: bytes = PICTURE) -> AsyncIterator[LabelStudio]:
    exchanged = 0
    tokens: set[str] = {f"Token {LEGACY}"} if legacy else set()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal exchanged
        if request.path == "/api/token/refresh/":
            if (await request.json()) != {"refresh": PERSONAL}:
                return web.json_response({"detail": "Token is invalid"}, status=401)
            exchanged += 1
            tokens.add(f"Bearer access-{exchanged}")
            return web.json_response({"access": f"access-{exchanged}"})
        if request.headers.get("Authorization") not in tokens:
            return web.json_response({"detail": "Authentication credentials were not provided."}, status=401)
        if request.path.endswith("/presign/"):
            name = base64.urlsafe_b64decode(request.query["fileuri"]).decode()
            return web.Response(status=303, headers={"Location": f"{bucket}/{name.partition('://')[2]}"})
        return web.Response(body=file, content_type="image/png")

    async with file_host(answer) as host:
        yield LabelStudio(host, tokens)


def said(name: str, image: str | None = None) -> dict[str, Any]:
    """The body of a recorded request, with another address of the picture."""
    body: dict[str, Any] = copy.deepcopy(recorded(f"label-studio/{name}")["body"])
    for task in body["tasks"] if image is not None else ():
        task["data"]["image"] = image
    return body


async def predict(server: "Running", body: dict[str, Any]) -> httpx.Response:
    return await server.client.post("/label-studio/predict", json=body)


async def results(server: "Running", body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await predict(server, body)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def painted(region: dict[str, Any]) -> NDArray[np.bool_]:
    """The pixels that Label Studio's page draws for a brush region."""
    shape = (region["original_height"], region["original_width"], 4)
    return np.asarray(brush(region["value"]["rle"]).reshape(shape)[:, :, 3] > 0)


async def mask_of_v1(server: "Running", **prompt: Any) -> NDArray[np.bool_]:
    image_id = await server.send_image(PICTURE)
    answer = (await server.client.post(f"/v1/images/{image_id}/masks", json=prompt)).json()
    return mask_codec.from_rle(**answer["masks"][0]["rle"])


# --- connecting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["health", "versions", "setup"])
async def test_connecting_is_answered_as_the_tool_reads_it(server: "Running", name: str) -> None:
    exchange = recorded(f"label-studio/{name}")
    for _ in range(2):  # whenever a task is opened, too
        answer = await server.client.request(exchange["method"], exchange["path"], json=exchange["body"] or None)
        assert (answer.status_code, shape_of(answer.json())) == (200, shape_of(exchange["answer"]))
    if name != "health":
        assert str(server.backend.version) in answer.text


@pytest.mark.parametrize("name", ["webhook-annotation-created", "webhook-tasks-created"])
async def test_what_people_annotate_is_taken_and_left_alone(start: "Start", name: str) -> None:
    """Without a key: Label Studio sends none there."""
    async with start(api_keys=KEY) as server:
        answer = await server.client.post("/label-studio/webhook", json=recorded(f"label-studio/{name}")["body"])
        assert answer.status_code == 200


async def test_a_key_is_taken_as_the_password_and_a_missing_one_is_seen_where_the_backend_is_connected(
    start: "Start",
) -> None:
    async with label_studio() as tool, start(api_keys=KEY, **told(tool)) as server:
        opened = said("predict-point", "/data/upload/23/a.png")
        assert (await server.client.get("/label-studio/health")).status_code == 401
        refused = await predict(server, opened)
        assert (refused.status_code, refused.headers["content-type"]) == (401, "application/json")
        assert tool.asked == []
        auth = httpx.BasicAuth("anybody", KEY)
        assert (await server.client.get("/label-studio/health", auth=auth)).status_code == 200
        assert (await server.client.post("/label-studio/predict", json=opened, auth=auth)).status_code == 200


# --- a click ---------------------------------------------------------------------------------------------------------


def told(tool: LabelStudio, key: str = PERSONAL) -> dict[str, Any]:
    """Settings of a server that knows this Label Studio."""
    return {"label_studio_url": tool.host.url("/"), "label_studio_api_key": key}


@pytest.mark.parametrize(
    ("name", "prompt", "label"),
    [
        ("predict-point", {"points": [{"x": 150, "y": 122}]}, "Disc"),
        ("predict-point-point", {"points": [{"x": 150, "y": 122}, {"x": 25, "y": 17, "label": 0}]}, "Disc"),
        ("predict-rectangle", {"box": [300, 176, 450, 295]}, "Bar"),
        ("predict-rectangle-point", {"box": [300, 176, 450, 295], "points": [{"x": 25, "y": 17, "label": 0}]}, "Bar"),
    ],
)
async def test_a_click_is_painted_with_the_mask_of_v1(
    start: "Start", name: str, prompt: dict[str, Any], label: str
) -> None:
    """And is the same entry of the cache: percent are turned into pixels without losing any of them."""
    async with label_studio() as tool, start(**told(tool)) as server:
        [result] = await results(server, said(name))
        [region] = result["result"]
        assert shape_of(region) == shape_of(recorded(f"label-studio/{name}")["answer"]["results"][0]["result"][0]) | {
            "value": {"format": "str", "rle": ["number"], "brushlabels": ["str"]}
        }
        assert region["value"]["brushlabels"] == [label]
        assert (region["from_name"], region["to_name"], region["type"]) == ("brush", "image", "brushlabels")
        assert result["model_version"] == str(server.backend.version)
        assert result["score"] == region["score"] > 0.5
        decodes = server.backend.decodes
        assert np.array_equal(painted(region), await mask_of_v1(server, **prompt))
        assert (server.backend.decodes, server.backend.encodes) == (decodes, 1)


async def test_a_second_click_does_not_fetch_the_picture_again(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        ids = {(await results(server, said("predict-point")))[0]["result"][0]["id"] for _ in range(3)}
        assert len(ids) == 3, "each region has an id of its own"
        assert (server.backend.encodes, server.backend.decodes) == (1, 1)
        assert tool.asked == [
            ("/api/token/refresh/", ""),
            ("/data/upload/23/356766a1-scene.png", "Bearer access-1"),
        ]


async def test_fractions_of_a_pixel_stay(start: "Start") -> None:
    """119 of 340 comes from percent as 118.99999999999999; a key point lies between pixels, too."""
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-point")
        value = body["params"]["context"]["result"][0]["value"]
        for y, expected in ((100 * 119 / HEIGHT, 119), (100 * 119.5 / HEIGHT, 119.5)):
            value |= {"x": 100 * 77 / WIDTH, "y": y}
            [result] = await results(server, body)
            decodes = server.backend.decodes
            mask = await mask_of_v1(server, points=[{"x": 77, "y": expected}])
            assert np.array_equal(painted(result["result"][0]), mask)
            assert server.backend.decodes == decodes


async def test_a_mark_on_the_edge_is_within_the_picture(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-point")
        body["params"]["context"]["result"][0]["value"] |= {"x": 100, "y": 100.00001}
        assert len((await results(server, body))[0]["result"]) == 1


async def test_without_is_positive_a_key_point_is_on_the_object(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-point")
        del body["params"]["context"]["result"][0]["is_positive"]
        [result] = await results(server, body)
        assert painted(result["result"][0])[122, 150]


async def test_points_off_the_object_alone_are_no_object_and_no_error(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-point")
        body["params"]["context"]["result"][0]["is_positive"] = False
        assert [(each["result"], each["score"]) for each in await results(server, body)] == [([], 0)]


async def test_several_rectangles_are_a_mask_each(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-rectangle")
        regions = body["params"]["context"]["result"]
        regions.append(copy.deepcopy(regions[0]))
        regions[1]["value"] |= {"x": 0, "y": 0}
        [result] = await results(server, body)
        first, second = (painted(region) for region in result["result"])
        assert first[200, 400]
        assert second[20, 20]
        assert not (first & second).any()


async def test_a_label_may_be_a_control_of_its_own(start: "Start") -> None:
    """Then it comes as another region with the id of the mark; and so does whatever else is said of it."""
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-rectangle")
        [mark] = body["params"]["context"]["result"]
        del mark["value"]["rectanglelabels"]
        mark["type"] = "rectangle"
        label = mark | {"type": "labels", "value": mark["value"] | {"labels": ["Bar"]}}
        choice = mark | {"type": "choices", "value": {"choices": ["blurred"]}}
        body["params"]["context"]["result"] = [choice, mark, label]
        [result] = await results(server, body)
        [region] = result["result"]
        assert region["value"]["brushlabels"] == ["Bar"]
        assert np.array_equal(painted(region), await mask_of_v1(server, box=[300, 176, 450, 295]))


async def test_without_a_size_the_mask_has_the_picture_s(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-point")
        for name in ("original_width", "original_height"):
            del body["params"]["context"]["result"][0][name]
        [region] = (await results(server, body))[0]["result"]
        assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)


async def test_a_turned_rectangle_is_the_upright_box_around_it(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-rectangle")
        body["params"]["context"]["result"][0]["value"] = {"x": 50, "y": 50, "width": 20, "height": 10, "rotation": 90}
        [result] = await results(server, body)
        rows, columns = np.nonzero(painted(result["result"][0]))
        # 100 × 34 pixels from (250, 170), turned by a right angle round that corner
        assert (columns.min(), columns.max(), rows.min(), rows.max()) == (216, 249, 170, 269)


async def test_the_size_that_label_studio_knows_the_picture_by_is_the_answer_s(start: "Start") -> None:
    """Percent are of the picture, whatever its size; and what is painted has the size that the page paints in."""
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-rectangle")
        body["params"]["context"]["result"][0] |= {"original_width": 1000, "original_height": 680}
        [result] = await results(server, body)
        [region] = result["result"]
        assert (region["original_width"], region["original_height"]) == (1000, 680)
        rows, columns = np.nonzero(painted(region))
        assert (columns.min(), columns.max(), rows.min(), rows.max()) == (600, 899, 352, 589)


POLYGONS = """<View><Image name="picture" value="$image"/><PolygonLabels name="outline" toName="picture">
<Label value="Disc"/></PolygonLabels><KeyPointLabels name="kp" toName="picture" smart="true"><Label value="Disc"/>
</KeyPointLabels></View>"""


async def test_a_project_with_polygons_is_answered_with_a_polygon_for_each_part(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-rectangle-point")
        body["label_config"] = POLYGONS
        box, point = body["params"]["context"]["result"]
        # a band that the point cuts in two
        box["value"] |= {"x": 10, "y": 48, "width": 80, "height": 4}
        point["value"] |= {"x": 50, "y": 50}
        for region in (box, point):
            region["to_name"] = "picture"
        [result] = await results(server, body)
        assert len(result["result"]) == 2
        canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
        for region in result["result"]:
            assert (region["type"], region["from_name"], region["to_name"]) == ("polygonlabels", "outline", "picture")
            assert region["value"]["polygonlabels"] == ["Bar"]
            assert region["value"]["closed"] is True
            corners = np.array(region["value"]["points"]) * (WIDTH, HEIGHT) / 100
            cv2.fillPoly(canvas, [np.round(corners * 256 - 128).astype(np.int32)], 1, shift=8)
        mask = await mask_of_v1(server, box=[50, 163.2, 450, 176.8], points=[{"x": 250, "y": 170, "label": 0}])
        assert (canvas & mask).sum() / (canvas | mask).sum() > 0.9


TEXT = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" smart="true"/>
<BrushLabels name="brush" toName="image"><Label value="Thing"/><Label value="Red"/><Label value="Dark  Blue"/>
</BrushLabels></View>"""


def typed(*texts: str, **more: Any) -> dict[str, Any]:
    """What Label Studio's page sends of a text area: no size of the picture."""
    region = {"from_name": "prompt", "to_name": "image", "type": "textarea", "origin": "manual", "id": "a1"}
    return region | {"value": {"text": list(texts)}} | more


async def test_all_that_a_text_area_names_is_found_under_the_label_that_says_the_same(start: "Start") -> None:
    """Else under the first one. What scores less than 0.5, as the palest red square, is left out."""
    toy: Any = ToyConcepts()
    async with label_studio(file=squares_file()) as tool, start(backend=toy, **told(tool)) as server:
        toy.asked.clear()  # what warmed the model up
        body = said("predict-point") | {"label_config": TEXT}
        for texts, labels in (
            (["red, dark blue"], {"Red": RED_BOXES[:2], "Dark  Blue": BLUE_BOXES}),
            (["RED", "a blue one"], {"Red": RED_BOXES[:2], "Thing": BLUE_BOXES}),
        ):
            body["params"]["context"]["result"] = [typed(*texts)]
            [result] = await results(server, body)
            assert result["model_version"] == str(server.backend.version)
            for label, boxes in labels.items():
                own = [each for each in result["result"] if each["value"]["brushlabels"] == [label]]
                expected = np.zeros((48, 64), np.bool_)
                for x0, y0, x1, y1 in boxes:
                    expected[y0:y1, x0:x1] = True
                assert len(own) == len(boxes)
                assert np.array_equal(np.any([painted(each) for each in own], axis=0), expected)
                assert all(each["score"] >= 0.5 for each in own)
            assert len({each["id"] for each in result["result"]}) == sum(map(len, labels.values()))
        assert toy.asked.count("trunk") == 1
        assert toy.asked.count("detect") == 3, "red was found before"


async def test_a_text_that_cannot_be_looked_for_is_refused_in_words(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool), max_concepts=2) as server:
        for texts, status in ((["a cat"], 501), ([" "], 422), ([], 422), (["a, b, c"], 413)):
            body = said("predict-point") | {"label_config": TEXT}
            body["params"]["context"]["result"] = [typed(*texts)]
            answer = await predict(server, body)
            assert (answer.status_code, len(answer.json()["detail"]) > 20) == (status, True), answer.text
        assert tool.asked == []


async def test_a_text_that_is_said_of_a_mark_is_none_to_look_for(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-rectangle")
        regions = body["params"]["context"]["result"]
        regions.insert(0, typed("a cat", id=regions[0]["id"]))
        [region] = (await results(server, body))[0]["result"]
        assert np.array_equal(painted(region), await mask_of_v1(server, box=[300, 176, 450, 295]))


async def test_of_several_pictures_the_one_that_was_marked_is_segmented(start: "Start") -> None:
    """``valueList``: a task with pages. The page knows by ``item_index`` where a region belongs."""
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-rectangle")
        body["label_config"] = body["label_config"].replace('value="$image"', 'valueList="$pages"', 1)
        body["tasks"][0]["data"] = {"pages": ["/data/upload/23/0.png", "/data/upload/23/1.png"]}
        [mark] = body["params"]["context"]["result"]
        for given, page in (({"item_index": 1}, 1), ({"item_index": 0}, 0), ({}, 0)):
            body["params"]["context"]["result"] = [mark | given]
            [region] = (await results(server, body))[0]["result"]
            assert region.get("item_index") == given.get("item_index")
            assert tool.asked[-1][0] == f"/data/upload/23/{page}.png"
        assert [path for path, _ in tool.asked[1:]] == ["/data/upload/23/1.png", "/data/upload/23/0.png"]
        body["params"]["context"]["result"] = [mark | {"item_index": 2}]
        refused = await predict(server, body)
        assert (refused.status_code, "pages.2" in refused.json()["detail"]) == (400, True)


@pytest.mark.parametrize(("most", "status"), [(16 << 20, 200), (1 << 10, 413)])
async def test_how_many_bytes_the_annotations_of_a_task_may_have_is_a_setting(
    start: "Start", most: int, status: int
) -> None:
    limits = {"max_body_bytes": 64 << 10, "max_image_bytes": 64 << 10, "label_studio_bytes": most}
    async with label_studio() as tool, start(**told(tool), **limits) as server:
        body = said("predict-rectangle-point")
        body["tasks"][0]["drafts"] = [{"result": "x" * (10 << 20)}]
        assert (await predict(server, body)).status_code == status


async def test_a_project_with_nothing_to_draw_a_mask_with_is_told_so(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-point")
        body["label_config"] = POLYGONS.replace("PolygonLabels", "RectangleLabels").replace('"picture"', '"image"')
        answer = await predict(server, body)
        assert answer.status_code == 400
        assert "BrushLabels" in answer.json()["detail"]
        assert tool.asked == []


async def test_a_click_that_is_taken_back_is_answered_with_nothing(server: "Running") -> None:
    """With an empty prediction, for an empty list would be shown as an error; the picture is not needed."""
    [result] = await results(server, said("predict-taken-back"))
    assert (result["result"], result["score"]) == ([], 0)


async def test_a_task_that_is_opened_gets_no_prediction_and_its_picture_is_prefetched(start: "Start") -> None:
    """An empty prediction would be kept, and shown to everybody as one."""
    async with label_studio() as tool, start(**told(tool)) as server:
        assert await results(server, said("predict-task-opened")) == []
        await server.until(lambda: server.backend.encodes == 1)
        assert server.backend.decodes == 0
        await results(server, said("predict-point"))
        assert server.backend.encodes == 1


async def test_a_prefetch_that_fails_is_nobody_s_error(start: "Start", caplog: pytest.LogCaptureFixture) -> None:
    async with start() as server:
        assert await results(server, said("predict-task-opened")) == []
        await server.until(lambda: "LABEL_STUDIO_URL" in caplog.text)


async def test_a_body_as_large_as_label_studio_s_is_taken(start: "Start") -> None:
    """All annotations of the task come with each click."""
    async with label_studio() as tool, start(**told(tool)) as server:
        body = said("predict-point")
        body["tasks"][0]["annotations"] = [{"result": [{"value": {"rle": [255] * 2_000_000}}]}]
        assert len((await results(server, body))[0]["result"]) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"tasks": []}, 422),
        ({"label_config": "<View>"}, 400),
        ({"label_config": '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>'}, 400),
        ({"label_config": None}, 422),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(server: "Running", change: dict[str, Any], status: int) -> None:
    answer = await predict(server, said("predict-point") | change)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.json()["detail"]) > 20


async def test_a_mark_that_means_nothing_to_the_model_is_refused_in_words(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        for change in ({"type": "ellipselabels"}, {"value": {"x": 1}}, {"value": {"x": "a", "y": 1}}):
            body = said("predict-point")
            body["params"]["context"]["result"][0] |= change
            answer = await predict(server, body)
            assert answer.status_code == 422, answer.text


# --- the picture -----------------------------------------------------------------------------------------------------


async def test_a_legacy_token_is_sent_as_one(start: "Start") -> None:
    async with label_studio(legacy=True) as tool, start(**told(tool, LEGACY)) as server:
        await results(server, said("predict-point"))
        assert tool.asked == [("/data/upload/23/356766a1-scene.png", f"Token {LEGACY}")]


async def test_an_access_token_that_ended_early_is_exchanged_again(start: "Start") -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        await results(server, said("predict-point"))
        tool.tokens.clear()
        await results(server, said("predict-point", "/data/upload/23/another.png"))
        assert [each for each, _ in tool.asked].count("/api/token/refresh/") == 2


@pytest.mark.parametrize("key", [LEGACY, PERSONAL.replace("ey", "xx"), ""])
async def test_a_token_that_label_studio_does_not_take_is_told_with_the_setting(start: "Start", key: str) -> None:
    async with label_studio() as tool, start(**told(tool, key)) as server:
        answer = await predict(server, said("predict-point"))
        assert answer.status_code == 502
        assert "LABEL_STUDIO_API_KEY" in answer.json()["detail"]


async def test_the_token_goes_to_no_other_host(start: "Start") -> None:
    """Nor to another port of Label Studio's."""
    async with label_studio() as tool, file_host(gives(PICTURE)) as other:
        body = said("predict-point", other.url("/photo.png"))
        async with start(**told(tool)) as server:
            refused = await predict(server, body)
            assert (refused.status_code, other.requests) == (403, [])
            assert "LABELING_GROUND_SOURCES" in refused.json()["detail"]
        async with start(**told(tool), sources=other.source) as server:
            assert len((await results(server, body))[0]["result"]) == 1
    assert [each.headers.get("Authorization") for each in other.requests] == [None]
    assert tool.asked == []


async def test_a_picture_in_cloud_storage_comes_by_an_address_that_label_studio_signs(start: "Start") -> None:
    """The token goes to Label Studio; where that redirects to gets none."""
    async with file_host(gives(PICTURE)) as cloud, label_studio(bucket=cloud.url("")) as tool:
        async with start(**told(tool), sources=cloud.source) as server:
            await results(server, said("predict-point", "s3://photos/a b.png"))
        name = base64.urlsafe_b64encode(b"s3://photos/a b.png").decode()
        assert tool.host.requests[-1].path_qs == f"/tasks/27/presign/?fileuri={name}".replace("=", "=", 1)
        assert [(each.path, "Authorization" in each.headers) for each in cloud.requests] == [("/photos/a b.png", False)]


@pytest.mark.parametrize(
    "value",
    ["/api/users/", "/data/../api/users/", "/data/%2e%2e/api/users/", "file:///etc/passwd", "//x/y", "", "http://["],
)
async def test_nothing_else_is_fetched_with_the_token(start: "Start", value: str) -> None:
    async with label_studio() as tool, start(**told(tool)) as server:
        assert (await predict(server, said("predict-point", value))).status_code in (400, 403)
        assert tool.asked == []


async def test_below_a_path(start: "Start") -> None:
    """Label Studio may be served below a path, which its own addresses then begin with; or not yet."""
    for path in ("/ls/data/upload/23/a.png", "/data/upload/23/b.png"):
        async with label_studio(legacy=True) as tool:
            async with start(label_studio_url=tool.host.url("/ls"), label_studio_api_key=LEGACY) as server:
                await results(server, said("predict-point", path))
            assert tool.asked[0][0] == f"/ls/{path.removeprefix('/ls').removeprefix('/')}"


async def test_what_label_studio_says_of_itself_counts_only_where_its_host_is_named(start: "Start") -> None:
    """Who may call setup could otherwise have the server fetch from anywhere."""
    async with label_studio(legacy=True) as tool:
        setup = recorded("label-studio/setup")["body"] | {"hostname": tool.host.url(""), "access_token": LEGACY}
        for sources, status in (("images.example.org", 403), (tool.host.source, 200)):
            async with start(sources=sources) as server:
                assert (await server.client.post("/label-studio/setup", json=setup)).status_code == 200
                body = said("predict-point") | {"project": setup["project"]}
                assert (await predict(server, body)).status_code == status
        assert [each for _, each in tool.asked] == [f"Token {LEGACY}"]


# --- the configuration ---------------------------------------------------------------------------------------------


def test_the_first_control_of_the_best_kind_that_has_the_label_is_drawn_with() -> None:
    config = parse_config(
        """<View><Image name="a" value="$one"/><Image name="b" value="https://x/$two.png"/>
        <PolygonLabels name="p" toName="a"><Label value="Cat"/><Label value="Dog"/></PolygonLabels>
        <BrushLabels name="b1" toName="a"><Label value="Cat"/></BrushLabels>
        <BrushLabels name="b2" toName="a"><View><Label value="Kuh" alias="Cow"/></View></BrushLabels>
        <Image name="c" value="$in.side"/><Brush name="b3" toName="b"/></View>"""
    )
    chosen = {label: config.outline_for("a", label).name for label in ("Cat", "Cow", "Dog", "Emu", None)}
    assert chosen == {"Cat": "b1", "Cow": "b2", "Dog": "p", "Emu": "b1", None: "b1"}
    assert config.outline_for("b", "Cat").type == "brush"
    assert config.address("b", {"two": "c"}) == "https://x/c.png"
    assert config.address(None, {"one": "/data/a.png"}) == "/data/a.png"
    assert config.address("c", {"in": {"side": "/data/a.png"}}) == "/data/a.png"
    for to_name, data in (("a", {}), ("a", {"one": ["x", "y"]}), ("c", {"in": "x"}), ("d", {"one": "x"})):
        with pytest.raises(BadInput):
            config.address(to_name, data)


@pytest.mark.parametrize("prefix", ["", "LABELING_GROUND_"])
def test_the_settings_go_by_the_names_that_label_studio_s_users_know(
    monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv(f"{prefix}LABEL_STUDIO_URL", "http://label-studio:8080")
    monkeypatch.setenv(f"{prefix}LABEL_STUDIO_API_KEY", LEGACY)
    settings = read_settings()
    assert settings.label_studio_url == "http://label-studio:8080"
    assert settings.label_studio_api_key is not None
    assert settings.label_studio_api_key.get_secret_value() == LEGACY
    monkeypatch.setenv(f"{prefix}LABEL_STUDIO_URL", "label-studio:8080")
    with pytest.raises(BadSettings, match="label_studio_url"):
        read_settings()
