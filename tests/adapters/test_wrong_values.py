"""Whatever stands in a field of a tool's request: the answer is one that its client reads, and never a bug of ours."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.adapters.tools import in_base64, recorded
from tests.coloured import squares_file
from tests.file_hosts import file_host, gives

from labeling_ground.testing.toy_concepts import ToyConcepts

if TYPE_CHECKING:
    from tests.api.conftest import Start

pytestmark = pytest.mark.anyio

FAR = (1e308, -1e308, 10**400, float("inf"), float("nan"))
"""The last two are no JSON, but what Python writes for one."""
WRONG: tuple[Any, ...] = (
    *FAR, None, True, -1, 0, "", "x", "\ud800", "\0", "NaN", [], [None], [[]], [-1], {}, {"x": None}, "1" * 5000,
)  # fmt: skip


def bodies() -> dict[str, tuple[str, dict[str, Any]]]:
    """A request of each kind that is answered with something, by a name; and its path."""
    file = in_base64(squares_file())
    image = {"type": "base64", "value": file}
    box = {"x": 20, "y": 20, "width": 10, "height": 10}
    prompts = {"prompts": [{"points": [{"x": 9, "y": 9, "positive": True}], "box": box}]}
    concepts = [{"type": "text", "text": "red", "boxes": [box], "box_labels": [1], "output_prob_thresh": 0.5}]
    marks = [{"type": "point", "data": [9, 9], "label": 1}, {"type": "rectangle", "data": [1, 1, 9, 9], "label": 1}]
    studio = recorded("label-studio/predict-rectangle-point")["body"]
    studio["tasks"][0] = {"id": 1, "data": {"image": "/data/upload/1/a.png"}}
    text = copy.deepcopy(studio)
    text["params"]["context"]["result"] = [
        {"id": "a", "type": "textarea", "to_name": "image", "from_name": "t", "value": {"text": ["red"]}}
    ]
    points = {"params": {"marks": marks, "epsilon_factor": 0.1}}
    phrase = {"params": {"text_prompt": "red", "conf_threshold": 0.5}}
    corners = {"pos_points": [[9, 9]], "neg_points": [[5, 5]], "obj_bbox": [[1, 1], [20, 20]]}
    view = {"bbox": [1, 1, 9, 9], "point_coords": [[5, 5]], "point_labels": [1], "type": "vit_h"}
    return {
        "label studio": ("/label-studio/predict", studio),
        "label studio's text": ("/label-studio/predict", text),
        "label studio's setup": ("/label-studio/setup", recorded("label-studio/setup")["body"]),
        "x-anylabeling": ("/v1/predict", {"model": "", "image": file} | points),
        "x-anylabeling's text": ("/v1/predict", {"image": file} | phrase),
        "roboflow": ("/sam2/segment_image", {"image": image, "prompts": prompts, "format": "rle", "api_key": None}),
        "roboflow's concepts": ("/sam3/concept_segment", {"image": image, "prompts": concepts, "nms_iou_threshold": 1}),
        "roboflow's embedding": ("/sam3/embed_image", {"image": image, "image_id": "a"}),
        "cvat": ("/api/function_invocations", {"image": file} | corners),
        "qupath": ("/sam/", {"b64img": file} | view),
        "qupath's automask": ("/sam/automask/", {"b64img": file, "points_per_side": 2, "crop_n_layers": 0}),
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value, from the outside in."""
    yield path
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inner, (*path, name))


def with_all_numbers(value: Any, wrong: float) -> Any:
    """The value with this in place of each number."""
    if isinstance(value, dict):
        return {name: with_all_numbers(inner, wrong) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_all_numbers(inner, wrong) for inner in value]
    return wrong if isinstance(value, int | float) and not isinstance(value, bool) else value


def changed(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    if not path:
        return wrong
    found = copy.deepcopy(value)
    inner = found
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = wrong
    return found


CHECKS: dict[str, Callable[[httpx.Response], bool]] = {
    "/v1/predict": lambda answer: answer.json()["data"]["replace"] is False and "internal" not in answer.text,
    "/sam2/segment_image": lambda answer: answer.is_success or len(answer.json()["message"]) > 10,
    "/sam3/concept_segment": lambda answer: answer.is_success or len(answer.json()["message"]) > 10,
    "/sam3/embed_image": lambda answer: answer.is_success or len(answer.json()["message"]) > 10,
}


@pytest.mark.parametrize("name", list(bodies()))
async def test_no_wrong_value_in_any_field_is_a_bug(start: "Start", name: str) -> None:
    path, body = bodies()[name]
    toy: Any = ToyConcepts()
    async with file_host(gives(squares_file())) as host, start(backend=toy, label_studio_url=host.url("/")) as server:
        good = await server.client.post(path, json=body)
        assert good.status_code == 200, good.text
        wrong_bodies = [changed(body, place, wrong) for place in places(body) for wrong in WRONG]
        wrong_bodies += [with_all_numbers(body, wrong) for wrong in (0, -1, *FAR)]
        for wrong_body in wrong_bodies:
            sent = json.dumps(wrong_body).encode()
            answer = await server.client.post(path, content=sent, headers={"Content-Type": "application/json"})
            said = f"{sent[:1000]!r}: {answer.status_code} {answer.text[:300]}"
            assert answer.status_code < 500, said
            assert answer.headers["content-type"] == "application/json", said
            if path in CHECKS:
                assert CHECKS[path](answer), said
            elif not answer.is_success:
                assert len(answer.json()["detail"]) > 10, said
