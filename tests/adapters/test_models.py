"""Each tool chooses among several models, in its own words or by the address that it is given."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.adapters.tools import in_base64
from tests.api.conftest import ToyBackend
from tests.coloured import squares_file
from tests.doubles import counted
from tests.file_hosts import file_host, gives

from labeling_ground.types import Kind, ModelVersion

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio


def second(*, encode_threads: int, decode_threads: int) -> ToyBackend:
    """A factory as users write it."""
    return ToyBackend(ModelVersion("second", "2" * 64))


def mobile(*, encode_threads: int, decode_threads: int) -> ToyBackend:
    """One that is called like a model of the catalogue."""
    return ToyBackend(ModelVersion("mobile-sam", "3" * 64))


FINDER = "labeling_ground.testing.toy_concepts:create"
SECOND, MOBILE = (f"{__name__}:{factory.__name__}" for factory in (second, mobile))


def prompt_of_sdk(file: bytes) -> dict[str, Any]:
    return {
        "image": {"type": "base64", "value": in_base64(file)},
        "prompts": {"prompts": [{"points": [{"x": 9, "y": 9, "positive": True}]}]},
        "format": "rle",
        "sam2_version_id": "hiera_tiny",
    }


async def answered(server: "Running", path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    answer = await server.client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def test_the_roboflow_sdk_names_a_served_model_or_is_answered_by_the_default_one(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start(models=(SECOND,)) as server:
        sent, path = prompt_of_sdk(make_image()), "/sam2/segment_image"
        assert (await answered(server, path, sent)).headers["x-model-version"].startswith("toy@")
        named = await answered(server, path, sent | {"sam2_version_id": SECOND})
        assert named.headers["x-model-version"].startswith("second@")
        by_address = await answered(server, f"{path}?model=second", sent)
        assert by_address.headers["x-model-version"].startswith("second@")
        embedding = {"image": sent["image"], "sam2_version_id": "second"}
        await answered(server, "/sam2/embed_image", embedding)
        assert server.app_state.models.loaded[SECOND].users == 0


async def test_qupaths_kinds_of_models_are_those_of_the_catalogue_where_they_are_served(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start(models=(MOBILE,)) as server:
        file = in_base64(make_image())
        sent = {"b64img": file, "point_coords": [[20, 20]], "point_labels": [1]}
        grid = {"b64img": file, "points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
        await answered(server, f"/sam?model={MOBILE}", sent)  # loads it: a factory's id is not known before
        for kind, model in (("vit_t", "mobile-sam"), ("vit_h", "toy"), ("sam2_l", "toy"), ("mobile-sam", "mobile-sam")):
            for path, body in (("/sam", sent), ("/sam/automask", grid)):
                [feature, *_] = (await answered(server, path, body | {"type": kind})).json()
                assert feature["properties"]["sam_model"] == model


async def test_qupaths_automask_searches_as_the_model_that_was_chosen_usually_does(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start(models=("classical",)) as server:
        file = make_image()
        image_id = (await server.client.post("/v1/images?model=classical", content=file)).json()["image_id"]
        path, body = f"/v1/images/{image_id}/everything", {"model": "classical"}
        everything = (await answered(server, path, body)).json()["masks"]
        assert everything
        models = server.app_state.models
        assert models.loaded["classical"].everything.usual != models.default.everything.usual
        found = await answered(server, "/sam/automask?model=classical", {"b64img": in_base64(file)})
        assert sorted(each["properties"]["quality"] for each in found.json()) == pytest.approx(
            sorted(each["score"] for each in everything)
        )


async def test_cvat_lists_a_function_for_each_model_and_calls_it(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start(models=(SECOND,)) as server:
        listed = (await server.client.get("/api/functions")).json()
        first, other = listed
        assert (first, listed[first]["metadata"]["annotations"]["name"]) == ("labeling-ground", "Labeling Ground")
        assert other == f"labeling-ground-{SECOND.replace(':', '-').replace('_', '-')}", "no id before it is loaded"
        assert listed[other]["metadata"]["annotations"]["name"] == f"Labeling Ground ({SECOND})"
        assert (await server.client.get(f"/api/functions/{other}")).json() == listed[other]
        sent = {"image": in_base64(make_image()), "pos_points": [[9, 9]], "neg_points": [], "obj_bbox": []}
        await answered(server, "/api/function_invocations", sent, {"x-nuclio-function-name": other})
        loaded = server.app_state.models.loaded[SECOND]
        assert (counted(loaded.predictor, Kind.MASK).misses, loaded.users) == (1, 0)
        again = (await server.client.get("/api/functions")).json()
        assert list(again) == [first, other], "CVAT has these names since the task was opened"
        assert again[other]["metadata"]["annotations"]["name"] == "Labeling Ground (second)"
        await answered(server, "/api/function_invocations", sent, {"x-nuclio-function-name": other})
        unknown = {"x-nuclio-function-name": "labeling-ground-third"}
        refused = await server.client.post("/api/function_invocations", json=sent, headers=unknown)
        assert refused.status_code == 404
        assert f"'labeling-ground', '{other}'" in refused.text


async def test_label_studio_is_connected_to_the_model_that_its_address_names(start: "Start") -> None:
    async with start(models=(SECOND,)) as server:
        base = f"/label-studio/models/{SECOND}"
        assert (await server.client.get(base)).json()["status"] == "UP"
        assert (await server.client.get("/label-studio/models/none/health")).status_code == 404
        versions = (await server.client.get("/label-studio/versions")).json()["versions"]
        assert (versions[0][:4], versions[1]) == ("toy@", SECOND)
        body = {"tasks": [], "label_config": "<View/>", "params": {"context": {"result": []}}}
        for path, told, model in (
            ("/label-studio/predict", None, "toy"),
            (f"{base}/predict", None, "second"),
            ("/label-studio/predict", "second@22", "second"),
            ("/label-studio/predict", "an old one", "toy"),
        ):
            answer = (await answered(server, path, body | {"model_version": told})).json()
            assert answer["results"][0]["model_version"].startswith(f"{model}@")
        assert (await server.client.get(f"{base}/versions")).json()["versions"][0].startswith("second@")


async def test_x_anylabeling_lists_all_models_and_the_chosen_one_answers(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    """The tool has its choice from the list, so another name is refused, which deletes nothing."""
    async with start(models=(SECOND,)) as server:
        listed = (await server.client.get("/x-anylabeling/v1/models")).json()["data"]
        assert list(listed) == ["toy", SECOND]
        mark = {"type": "point", "data": [9, 9], "label": 1}
        sent = {"image": in_base64(make_image()), "params": {"marks": [mark]}, "model": SECOND}
        assert len((await answered(server, "/v1/predict", sent)).json()["data"]["shapes"]) == 1
        loaded = server.app_state.models.loaded[SECOND]
        assert (counted(loaded.predictor, Kind.MASK).misses, loaded.users) == (1, 0)
        assert server.backend.decodes == 0
        for more, words in (({"model": "third"}, "Served: toy, "), ({"params": {"text_prompt": "a cat"}}, "no text")):
            told = (await answered(server, "/v1/predict", sent | more)).json()
            assert (told["success"], told["data"]["replace"], words in told["error"]["message"]) == (False, False, True)


async def test_label_studios_text_is_answered_by_the_first_model_that_takes_it_or_by_the_one_of_the_address(
    start: "Start",
) -> None:
    config = """<View><Image name="image" value="$image"/><BrushLabels name="b" toName="image"><Label value="a"/>
    </BrushLabels></View>"""
    text = {"type": "textarea", "to_name": "image", "value": {"text": ["red"]}}
    body = {"tasks": [{"data": {"image": "/data/upload/1/a.png"}}], "label_config": config, "model_version": "toy@00"}
    sent = body | {"params": {"context": {"result": [text]}}}
    async with (
        file_host(gives(squares_file())) as host,
        start(models=(FINDER,), label_studio_url=host.url("/")) as server,
    ):
        await server.client.post("/v1/images", content=squares_file(), params={"model": FINDER})  # loads it
        [result] = (await answered(server, "/label-studio/predict", sent)).json()["results"]
        assert result["model_version"].startswith("toy-concepts@")
        assert len(result["result"]) == 2
        models = server.app_state.models
        assert [served.users for served in models.loaded.values()] == [0, 0]
        refused = await server.client.post("/label-studio/models/toy/predict", json=sent)
        assert (refused.status_code, "toy-concepts" in refused.json()["detail"]) == (422, True)


@pytest.mark.parametrize("path", ["/sam2/segment_image", "/sam", "/api/function_invocations"])
async def test_an_address_that_names_a_model_that_is_not_served_is_told_those_that_are(
    start: "Start", make_image: Callable[..., bytes], path: str
) -> None:
    async with start(models=(SECOND,)) as server:
        file = make_image()
        sent = prompt_of_sdk(file)
        if path != "/sam2/segment_image":
            sent = {"b64img": in_base64(file), "image": in_base64(file), "pos_points": [[9, 9]]}
        refused = await server.client.post(f"{path}?model=third", json=sent)
        assert (refused.status_code, "Served: toy, " in refused.text) == (404, True), refused.text
