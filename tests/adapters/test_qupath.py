"""samapi's protocol, as QuPath's extension SAM sends it (read from its source)."""

import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from tests.adapters.tools import in_base64, mask_of_v1, pixels_of

from labeling_ground import __version__
from labeling_ground.adapters import qupath
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.records import CachedMask
from labeling_ground.types import EverythingOptions

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

WIDTH, HEIGHT = 64, 48
HEADERS = {"accept": "application/json", "Content-Type": "application/json; charset=utf-8"}
OPTIONS = {
    "points_per_side": 32,
    "points_per_batch": 64,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "stability_score_offset": 1.0,
    "box_nms_thresh": 0.7,
    "crop_n_layers": 0,
    "crop_nms_thresh": 0.7,
    "crop_overlap_ratio": 512 / 1500,
    "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
    "output_type": "Single mask",
    "include_image_edge": False,
}
"""What the automatic mask dialog sends where nothing was changed in it."""


def body(file: bytes, **prompt: Any) -> dict[str, Any]:
    return {"type": "vit_l", "b64img": in_base64(file), "multimask_output": False, **prompt}


async def post(server: "Running", path: str, sent: dict[str, Any]) -> httpx.Response:
    return await server.client.post(path, content=json.dumps(sent), headers=HEADERS)


def drawn(feature: dict[str, Any]) -> NDArray[np.bool_]:
    return pixels_of(feature, WIDTH, HEIGHT)


async def test_the_questions_before_a_click(server: "Running") -> None:
    version = await server.client.get("/sam/version/")
    assert (version.text, version.headers["content-type"]) == (__version__, "text/plain; charset=utf-8")
    assert (await server.client.get("/sam/weights/?type=vit_l")).json() == []
    assert (await server.client.get("/sam/weights/")).json() == []
    assert (await server.client.get("/sam/progress/")).json() == {"message": "", "percent": 100}


@pytest.mark.parametrize(
    ("sent", "prompt"),
    [
        ({"point_coords": [[20, 17]], "point_labels": [1]}, {"points": [{"x": 20, "y": 17}]}),
        (
            {"point_coords": [[23, 17], [20, 17]], "point_labels": [0, 1]},
            {"points": [{"x": 23, "y": 17, "label": 0}, {"x": 20, "y": 17}]},
        ),
        ({"bbox": [0, 0, 13, 9]}, {"box": [0, 0, 13, 9]}),
        (
            {"bbox": [5, 5, 40, 40], "point_coords": [[22, 22]], "point_labels": [0]},  # a hole
            {"box": [5, 5, 40, 40], "points": [{"x": 22, "y": 22, "label": 0}]},
        ),
        (
            {"point_coords": [[13, 13], [50, 34]], "point_labels": [1, 1]},  # two parts
            {"points": [{"x": 13, "y": 13}, {"x": 50, "y": 34}]},
        ),
        ({"bbox": None, "point_coords": [[20.5, 17.25]], "point_labels": [1]}, {"points": [{"x": 20.5, "y": 17.25}]}),
    ],
    ids=["point", "background", "box", "hole", "parts", "fractions"],
)
@pytest.mark.parametrize("several", [False, True])
async def test_a_prompt_gives_features_of_the_pixels_of_v1(
    server: "Running", make_image: Callable[..., bytes], sent: Any, prompt: Any, several: bool
) -> None:
    file = make_image(WIDTH, HEIGHT)
    answer = await post(server, "/sam/", body(file, **sent, multimask_output=several))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    features = answer.json()
    assert len(features) == (3 if several else 1)
    for index, feature in enumerate(features):
        assert feature["type"] == "Feature"
        assert feature["properties"] == {
            "object_idx": index,
            "label": "object",
            "quality": pytest.approx(0.9 - 0.1 * index),
            "sam_model": "toy",
        }
    expected = await mask_of_v1(server, file, **prompt)
    assert expected.any()
    assert (drawn(features[0]) == expected).all()
    assert (server.backend.encodes, server.backend.decodes) == (1, 1), "one encode and one decode for both"


async def test_a_hole_is_an_inner_ring_and_parts_are_polygons(
    server: "Running", make_image: Callable[..., bytes]
) -> None:
    file = make_image(WIDTH, HEIGHT)
    hole = body(file, bbox=[5, 5, 40, 40], point_coords=[[22, 22]], point_labels=[0])
    [feature] = (await post(server, "/sam/", hole)).json()
    assert feature["geometry"]["type"] == "Polygon"
    assert len(feature["geometry"]["coordinates"]) == 2
    parts = body(file, point_coords=[[13, 13], [50, 34]], point_labels=[1, 1])
    [feature] = (await post(server, "/sam/", parts)).json()
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert [len(polygon) for polygon in feature["geometry"]["coordinates"]] == [1, 1]


async def test_an_empty_mask_is_no_feature(server: "Running", make_image: Callable[..., bytes]) -> None:
    covered = body(make_image(WIDTH, HEIGHT), bbox=[0, 0, 4, 4], point_coords=[[2, 2]], point_labels=[0])
    assert (await post(server, "/sam/", covered)).json() == []


async def test_a_repeated_view_is_not_read_again_and_comes_back_where_it_was_forgotten(
    server: "Running", make_image: Callable[..., bytes]
) -> None:
    sent = body(make_image(WIDTH, HEIGHT), point_coords=[[20, 17]], point_labels=[1])
    first = (await post(server, "/sam/", sent)).json()
    assert (await post(server, "/sam", sent)).json() == first
    assert (server.backend.encodes, server.backend.decodes) == (1, 1)
    assert (await server.client.delete("/v1/cache")).json()["deleted"] > 0
    assert (await post(server, "/sam/", sent)).json() == first
    assert (server.backend.encodes, server.backend.decodes) == (2, 2)


async def test_two_users_with_models_of_their_own_choice_share_one(
    server: "Running", make_image: Callable[..., bytes]
) -> None:
    """And nothing is fetched from where they say that the weights are."""
    file = make_image(WIDTH, HEIGHT)
    answers = [
        (
            await post(
                server,
                "/sam/",
                body(file, bbox=[0, 0, 13, 9], type=model, checkpoint_url="http://127.0.0.1:9/weights.pt"),
            )
        ).json()
        for model in ("vit_h", "sam2_t", "a model of tomorrow")
    ]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0]["properties"]["sam_model"] == "toy"
    assert (server.backend.encodes, server.backend.decodes) == (1, 1)
    register = {"type": "vit_h", "name": "mine", "url": "http://127.0.0.1:9/weights.pt"}
    assert (await post(server, "/sam/weights/", register)).status_code == 405


# --- all objects -----------------------------------------------------------------------------------------------------


async def test_automask_gives_the_masks_of_everything(server: "Running", make_image: Callable[..., bytes]) -> None:
    file = make_image(WIDTH, HEIGHT)
    options = {"points_per_side": 4, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.0}
    answer = await post(server, "/sam/automask/", {"type": "vit_l", "b64img": in_base64(file), **OPTIONS, **options})
    assert answer.status_code == 200, answer.text
    image_id = await server.send_image(file)
    told = (await server.client.post(f"/v1/images/{image_id}/everything", json=options)).json()
    assert told["outcome"] == "hit", "the very same question"
    assert len(told["masks"]) > 1
    for index, (feature, mask) in enumerate(zip(answer.json(), told["masks"], strict=True)):
        assert (drawn(feature) == mask_codec.from_rle(mask["rle"]["size"], mask["rle"]["counts"])).all()
        assert feature["properties"] == {
            "object_idx": index,
            "label": "object",
            "quality": mask["score"],
            "sam_model": "toy",
        }


async def test_what_was_not_chosen_in_the_dialog_is_left_to_the_model(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    """Its dialog shows Segment Anything's thresholds, which the scores of the weight-free engine never reach."""
    picture = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    picture[10:30, 20:45] = (220, 60, 30)
    file = io.BytesIO()
    Pillow.fromarray(picture).save(file, "PNG")
    sent = {"type": "vit_l", "b64img": in_base64(file.getvalue()), **OPTIONS}
    async with start(real_engine=True) as server:
        usual = server.app_state.models.default.everything.usual
        assert usual != EverythingOptions()
        answer = await post(server, "/sam/automask/", sent)
        image_id = await server.send_image(file.getvalue())
        told = (await server.client.post(f"/v1/images/{image_id}/everything", json={})).json()
        assert told["outcome"] == "hit"
        assert len(answer.json()) == len(told["masks"]) > 0
        await post(server, "/sam/automask/", sent | {"pred_iou_thresh": 0.99})
        chosen = {"pred_iou_thresh": 0.99}
        told = (await server.client.post(f"/v1/images/{image_id}/everything", json=chosen)).json()
        assert told["outcome"] == "hit", "what was chosen counts"


async def test_automask_on_a_view_that_was_forgotten(server: "Running", make_image: Callable[..., bytes]) -> None:
    sent = {"b64img": in_base64(make_image(WIDTH, HEIGHT)), **OPTIONS, "points_per_side": 3}
    first = (await post(server, "/sam/automask/", sent)).json()
    assert (await server.client.delete("/v1/cache")).json()["deleted"] > 0
    assert (await post(server, "/sam/automask/", sent)).json() == first
    assert server.backend.encodes == 2


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_what_is_wrong_is_said(start: "Start", make_image: Callable[..., bytes]) -> None:
    file = make_image(WIDTH, HEIGHT)
    cases: list[tuple[str, dict[str, Any], int, str]] = [
        ("/sam/", body(file), 422, "prompt is empty"),
        ("/sam/", body(file, point_coords=[[1, 1]]), 422, "1 point_coords and 0 point_labels"),
        ("/sam/", body(file, point_coords=[[1, 1]], point_labels=[2]), 422, "point_labels"),
        ("/sam/", body(file, bbox=[1, 2, 3]), 422, "bbox"),
        ("/sam/", body(file, bbox=[1, 1, 9, 9], b64mask="AAAA"), 422, "b64mask"),
        ("/sam/", body(b"no image", bbox=[1, 1, 9, 9]), 415, "not an image"),
        ("/sam/", {"bbox": [1, 1, 9, 9]}, 422, "b64img"),
        ("/sam/automask/", {"b64img": in_base64(file), "crop_n_layers": 1}, 422, "crop_n_layers"),
        ("/sam/automask/", {"b64img": in_base64(file), "points_per_side": 65}, 413, "65 points a side"),
        ("/sam/automask/", {"b64img": in_base64(file), "pred_iou_thresh": 2}, 422, "pred_iou_thresh"),
    ]
    async with start(max_image_bytes=1 << 20) as server:
        cases.append(("/sam/", body(b"0" * (6 << 20), bbox=[1, 1, 9, 9]), 413, "larger than"))
        for path, sent, status, word in cases:
            answer = await post(server, path, sent)
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
            assert word in answer.json()["detail"], answer.text


async def test_a_server_with_keys_wants_one(start: "Start", make_image: Callable[..., bytes]) -> None:
    """QuPath has no place for a key: a proxy in front has to add it."""
    async with start(api_keys=("a-long-key-for-ann",)) as server:
        assert (await server.client.get("/sam/version/")).status_code == 401
        assert (await post(server, "/sam/", body(make_image(), bbox=[0, 0, 9, 9]))).status_code == 401


def test_a_noisy_mask_is_many_polygons() -> None:
    noise = np.random.default_rng(3).random((HEIGHT, WIDTH)) > 0.5
    rle = mask_codec.to_rle(noise)
    mask = CachedMask(rle["counts"], 1.25, int(noise.sum()), mask_codec.bbox(noise))
    feature = json.loads(qupath._feature(mask, 0, (HEIGHT, WIDTH), "toy"))
    assert (drawn(feature) == noise).all()
    assert feature["properties"]["quality"] == 1.0
