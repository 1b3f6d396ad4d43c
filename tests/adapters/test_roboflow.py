"""The calls of Roboflow's ``inference-sdk``, from exchanges of the real one (1.8.3)."""

from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest
from tests.adapters.tools import in_base64, recorded, shape_of
from tests.api.conftest import LONG_S
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file

from labeling_ground.codec import mask as mask_codec
from labeling_ground.testing.toy_concepts import ToyConcepts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Running, Start, StartReal

pytestmark = pytest.mark.anyio

KEY = "a-long-key-for-ann"
CLICK = {"points": [{"x": 150, "y": 122, "positive": True}]}


def body(file: bytes, *prompts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A body as the SDK sends it."""
    image = {"type": "base64", "value": in_base64(file)}
    return {"api_key": None, "image": image, "prompts": {"prompts": list(prompts)}, "format": "rle", **more}


def pixels_of(rle: dict[str, Any]) -> np.ndarray[Any, Any]:
    return mask_codec.from_rle(rle["size"], rle["counts"])


async def mask_of_v1(server: "Running", file: bytes, **prompt: Any) -> dict[str, Any]:
    image_id = await server.send_image(file)
    answer = (await server.client.post(f"/v1/images/{image_id}/masks", json=prompt)).json()
    best: dict[str, Any] = answer["masks"][0]
    return best


@pytest.mark.parametrize("name", ["sam2_segment_image-json", "sam2_segment_image-rle", "sam3_visual_segment-rle"])
@pytest.mark.parametrize("base", ["", "/roboflow"])
async def test_a_recorded_call_is_answered_in_the_recorded_form_with_the_pixels_of_v1(
    server: "Running", make_image: "Callable[..., bytes]", name: str, base: str
) -> None:
    exchange = recorded(f"roboflow/{name}")
    file = make_image(500, 340)
    sent = exchange["body"] | {"image": {"type": "base64", "value": in_base64(file)}}
    answer = await server.client.post(base + exchange["path"], json=sent)
    assert answer.status_code == 200, answer.text
    assert shape_of(answer.json()) == shape_of(exchange["answer"])
    assert answer.headers["x-model-version"].startswith("toy@"), "the SDK asked for another"
    expected = await mask_of_v1(server, file, points=[{"x": 150, "y": 122}])
    [prediction] = answer.json()["predictions"]
    assert prediction["confidence"] == expected["score"]
    if sent["format"] == "rle":
        assert prediction["masks"] == expected["rle"]
    else:
        canvas = np.zeros((340, 500), np.uint8)
        for ring in prediction["masks"]:
            assert all(isinstance(number, int) for pair in ring for number in pair)
            cv2.fillPoly(canvas, [np.array(ring, np.int32)], 1)
        assert (canvas == pixels_of(expected["rle"])).all()
    assert (server.backend.encodes, server.backend.decodes) == (1, 1)


async def test_a_box_is_given_by_its_centre(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """With a fraction in it, which stays one: the toy's box begins at the next pixel."""
    file = make_image()
    box = {"x": 30, "y": 20.25, "width": 21, "height": 10}
    answer = await server.client.post("/sam2/segment_image", json=body(file, {"box": box}))
    [prediction] = answer.json()["predictions"]
    assert prediction["masks"] == (await mask_of_v1(server, file, box=[19.5, 15.25, 40.5, 25.25]))["rle"]
    rows, columns = np.nonzero(pixels_of(prediction["masks"]))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (20, 40, 16, 25)
    assert server.backend.decodes == 1


async def test_each_prompt_has_its_mask_in_whatever_way_the_prompts_are_sent(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    file = make_image()
    one = {"points": [{"x": 10.5, "y": 20, "positive": True}, {"x": 60, "y": 40, "positive": False}]}
    two = {"points": None, "box": {"x": 40, "y": 20, "width": 10, "height": 10}}
    first, second = (
        await mask_of_v1(server, file, points=[{"x": 10.5, "y": 20}, {"x": 60, "y": 40, "label": 0}]),
        await mask_of_v1(server, file, box=[35, 15, 45, 25]),
    )
    for prompts, expected in (
        ({"prompts": [one, two]}, [first, second]),
        ([one, two], [first, second]),
        (one, [first]),
    ):
        answer = await server.client.post("/sam3/visual_segment", json=body(file) | {"prompts": prompts})
        found = [prediction["masks"] for prediction in answer.json()["predictions"]]
        assert found == [mask["rle"] for mask in expected]
    assert server.backend.decodes == 2


async def test_one_mask_is_another_prompt_than_the_best_of_three(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    file = make_image()
    click = {"points": [{"x": 30, "y": 20, "positive": True}]}
    answer = await server.client.post("/sam2/segment_image", json=body(file, click, multimask_output=False))
    expected = await mask_of_v1(server, file, points=[{"x": 30, "y": 20}], multimask=False)
    assert answer.json()["predictions"][0]["masks"] == expected["rle"]


@pytest.mark.parametrize("path", ["/sam3/embed_image", "/roboflow/sam3/embed_image", "/sam2/embed_image"])
async def test_an_image_that_was_embedded_is_clicked_on_without_another_encode(
    server: "Running", make_image: "Callable[..., bytes]", path: str
) -> None:
    exchange = recorded("roboflow/sam3_embed_image")
    files = [make_image(), make_image()]
    for file in files:  # under the same name, which says nothing
        sent = exchange["body"] | {"image": {"type": "base64", "value": in_base64(file)}}
        answer = await server.client.post(path, json=sent)
        assert shape_of(answer.json()) == shape_of(exchange["answer"])
        assert answer.json()["image_id"] == "an-id-of-mine"
    del sent["image_id"]
    assert (await server.client.post(path, json=sent)).json()["image_id"] == await server.send_image(files[1])
    for file in files:
        expected = await mask_of_v1(server, file, points=[{"x": 30, "y": 20}])
        click = {"points": [{"x": 30, "y": 20, "positive": True}]}
        answer = await server.client.post("/sam3/visual_segment", json=body(file, click))
        assert answer.json()["predictions"][0]["masks"] == expected["rle"]
    assert server.backend.encodes == 2


# --- what goes wrong -------------------------------------------------------------------------------------------------


def check_refused(answer: httpx.Response, status: int, *words: str) -> None:
    """The SDK finds the reason where it looks for one."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert all(word in answer.json()["message"] for word in words), answer.text


async def test_text_is_refused_with_words_where_no_model_takes_any(server: "Running") -> None:
    exchange = recorded("roboflow/sam3_concept_segment-polygon")
    sent = exchange["body"] | {"image": {"type": "base64", "value": in_base64(squares_file())}}
    for base in ("", "/roboflow"):
        check_refused(await server.client.post(base + exchange["path"], json=sent), 501, "takes no text", "SAM 3")
        check_refused(await server.client.post(f"{base}/sam3_3d/infer", json=sent), 501, "three dimensions")


async def found(server: "Running", *prompts: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """What ``sam3_concept_segment`` answers to prompts on the picture of squares, as the real client sends it."""
    exchange = recorded("roboflow/sam3_concept_segment-polygon")
    image = {"type": "base64", "value": in_base64(squares_file())}
    sent = exchange["body"] | {"image": image, "prompts": list(prompts), "output_prob_thresh": 0.1} | more
    answer = await server.client.post(exchange["path"], json=sent)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Model-Version"].startswith("toy-concepts@")
    assert answer.json()["time"] > 0
    listed: list[dict[str, Any]] = answer.json()["prompt_results"]
    assert [one["prompt_index"] for one in listed] == [one["echo"]["prompt_index"] for one in listed]
    return listed


def boxes_in(result: dict[str, Any]) -> list[tuple[int, ...]]:
    """x0, y0, x1, y1 of each prediction, whose format is COCO RLE."""
    drawn = [mask_codec.from_rle(one["masks"]["size"], one["masks"]["counts"]) for one in result["predictions"]]
    sides = [mask_codec.bbox(pixels) for pixels in drawn]
    return [(x, y, x + width, y + height) for x, y, width, height in sides]


async def test_concepts_are_found_by_phrases_and_by_boxes(start: "Start") -> None:
    toy: Any = ToyConcepts()
    async with start(backend=toy) as server:
        red, blue = await found(server, {"type": "text", "text": "Red"}, {"type": "text", "text": "blue"}, format="rle")
        assert (boxes_in(red), set(boxes_in(blue))) == ([*RED_BOXES], {*BLUE_BOXES})
        assert red["echo"] == {"prompt_index": 0, "type": "text", "text": "Red", "num_boxes": 0}
        scores = [one["confidence"] for one in red["predictions"]]
        assert scores == sorted(scores, reverse=True)
        [some] = await found(server, {"text": "red", "output_prob_thresh": scores[1]}, format="rle")
        assert boxes_in(some) == [*RED_BOXES[:2]]
        assert toy.asked.count("detect") == 2, "a threshold computes nothing anew"
        [outlined] = await found(server, {"type": "text", "text": "red"})
        for one, (x0, y0, x1, y1) in zip(outlined["predictions"], RED_BOXES, strict=True):
            [ring] = one["masks"]
            assert one["format"] == "polygon"
            assert [min(ring), max(ring)] == [[x0, y0], [x1 - 1, y1 - 1]], "through the centres of the pixels"
        by_corner = {"type": "visual", "boxes": [{"x": 22, "y": 22, "width": 6, "height": 8}], "box_labels": [1]}
        both = {
            "type": "visual",
            "text": "red",
            "boxes": [{"x0": 22, "y0": 22, "x1": 28, "y1": 30}, {"x": 5, "y": 5, "width": 5, "height": 5}],
            "box_labels": [1, 0],
        }
        shown, mixed = await found(server, by_corner, both, format="rle")
        assert set(boxes_in(shown)) == set(boxes_in(mixed)) == {*BLUE_BOXES}
        assert shown["echo"] == {"prompt_index": 0, "type": "visual", "text": None, "num_boxes": 1}
        first, second = await found(server, {"text": "red"}, {"text": "a red one"}, nms_iou_threshold=0.9, format="rle")
        assert (len(first["predictions"]), second["predictions"]) == (3, [])


async def test_a_concept_that_cannot_be_answered_is_refused_with_the_reason(start: "Start") -> None:
    toy: Any = ToyConcepts()
    async with start(backend=toy, max_concepts=2) as server:
        good = {"image": {"type": "base64", "value": in_base64(squares_file())}, "prompts": [{"text": "red"}]}
        for more, status, words in (
            ({"prompts": []}, 422, ["prompts"]),
            ({"prompts": [{}]}, 422, ["empty"]),
            ({"prompts": [{"text": "a"}] * 3}, 413, ["2"]),
            ({"prompts": [{"boxes": [{"x": 1, "y": 1}]}]}, 422, ["upper left"]),
            (
                {"prompts": [{"text": "a", "boxes": [{"x0": 1, "y0": 1, "x1": 2, "y1": 2}], "box_labels": []}]},
                422,
                ["one for each"],
            ),
            ({"format": "binary"}, 422, ["format"]),
            ({"image": {"type": "url", "value": "http://169.254.169.254/"}}, 422, ["base64"]),
        ):
            check_refused(await server.client.post("/sam3/concept_segment", json=good | more), status, *words)
        assert "detect" not in toy.asked


async def test_text_is_answered_by_the_first_model_that_takes_it(start: "Start") -> None:
    finder = "labeling_ground.testing.toy_concepts:create"
    async with start(models=(finder,)) as server:
        await server.client.post("/v1/images", content=squares_file(), params={"model": finder})
        [red] = await found(server, {"text": "red"}, format="rle")
        assert boxes_in(red) == [*RED_BOXES]


async def test_what_cannot_be_answered_is_refused_with_the_reason(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    file = make_image()
    click = {"points": [{"x": 30, "y": 20, "positive": True}]}
    good = body(file, click)
    for sent, status, words in (
        ({name: value for name, value in good.items() if name != "prompts"}, 422, ["prompts"]),
        (good | {"prompts": {"prompts": [{}]}}, 422, ["empty"]),
        (good | {"image": {"type": "url", "value": "http://169.254.169.254/"}}, 422, ["image.type", "base64"]),
        (good | {"image": {"type": "file", "value": "/etc/passwd"}}, 422, ["image.type", "base64"]),
        (good | {"image": {"type": "numpy", "value": "gASVCg=="}}, 422, ["image.type", "base64"]),
        (good | {"image": {"type": "base64", "value": "%%%"}}, 422, ["base64"]),
        (good | {"image": {"type": "base64", "value": in_base64(b"text")}}, 415, ["text", "JPEG"]),
        (good | {"format": "binary"}, 400, ["binary", "rle"]),
        (good | {"format": "svg"}, 422, ["format"]),
        (body(file, {"box": {"x": 30, "y": 20, "width": 0, "height": 5}}), 422, ["area"]),
        ([], 422, []),
    ):
        check_refused(await server.client.post("/sam2/segment_image", json=sent), status, *words)
    assert server.backend.decodes == 0


def test_failures_outside_the_routes_are_in_the_sdks_field_too(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    file = make_image()
    with start_real(max_image_bytes=12_000) as server:
        for path in ("/sam2/segment_image", "/roboflow/sam3/embed_image"):
            large = httpx.post(f"{server.url}{path}", json=body(bytes(8 << 20)), timeout=LONG_S)
            check_refused(large, 413, "limit")
            foreign = httpx.post(f"{server.url}{path}", json=body(file), headers={"Host": "elsewhere.example"})
            check_refused(foreign, 421, "elsewhere.example", "ALLOWED_HOSTS")
            unread = httpx.post(f"{server.url}{path}", content=b"{}", headers={"Content-Type": "text/plain"})
            check_refused(unread, 415, "JSON")


async def test_keys_come_in_the_body_the_header_and_the_query(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"params": {"api_key": "wrong"}},
    ]
    right: list[dict[str, Any]] = [{"headers": {"Authorization": f"Bearer {KEY}"}}, {"params": {"api_key": KEY}}]
    async with start(api_keys=(KEY, "another-long-key")) as server:
        file = make_image()
        click = {"points": [{"x": 30, "y": 20, "positive": True}]}
        for path, sent in (("/sam2/segment_image", body(file, click)), ("/sam3/embed_image", body(file))):
            for given in wrong:
                check_refused(await server.client.post(path, json=sent, **given), 401, "key")
            check_refused(await server.client.post(path, json=sent | {"api_key": "wrong"}), 401, "key")
            assert server.backend.encodes == 0 or path == "/sam3/embed_image"
            for given in right:
                assert (await server.client.post(path, json=sent, **given)).status_code == 200
            assert (await server.client.post(path, json=sent | {"api_key": KEY})).status_code == 200
        headers = {"X-API-Key": KEY}
        image_id = await server.send_image(file, **headers)
        assert (await server.client.get(f"/v1/images/{image_id}", headers=headers)).json()["encoded"]
        assert (server.backend.encodes, server.backend.decodes) == (1, 1), "all of them in one namespace"
