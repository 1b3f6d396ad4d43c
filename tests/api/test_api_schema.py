"""The API does what its own OpenAPI schema says, whatever is thrown at it."""

import base64
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ByteSize
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from tests.api.conftest import GatedConcepts

from labeling_ground.api.app import create_app
from labeling_ground.api.schemas.common import EXAMPLE_ID, EXAMPLE_IMAGE
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.conftest import RealServer, StartReal


@pytest.fixture
def real(start_real: "StartReal") -> "Iterator[RealServer]":
    """A server that knows the image of the examples, under a session too, and whose model finds concepts."""
    with start_real(backend=GatedConcepts(), max_points_per_side=4) as server:
        image = {"image": EXAMPLE_IMAGE, "session_id": "s"}
        assert httpx.post(f"{server.url}/api/sam/image", json=image, timeout=60).status_code == 200
        yield server


@pytest.fixture
def client(real: "RealServer") -> "Iterator[httpx.Client]":
    """One connection: a new one for each example would cost more than the example."""
    with httpx.Client(base_url=real.url, timeout=60) as one:
        yield one


schema = schemathesis.openapi.from_dict(create_app(build_parts(Settings(disk_bytes=ByteSize(0)))).openapi())


SAYS_MORE_THAN_A_SCHEMA = {
    "/v1/images",
    "/v1/images/{image_id}/masks",
    "/v1/images/{image_id}/everything",
    "/v1/images/{image_id}/concepts",
    "/api/sam/image",
    "/api/sam/click",
    "/api/sam/rect",
}
"""What fits the schema may still make no sense: a point outside the image, a box without area, bytes of no image. Or
there is a limit that only the server knows: points of a grid."""

BOUNDED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


# Schemathesis makes no such files; the other kinds stand for them.
@pytest.mark.filterwarnings("ignore:Skipped test cases with unsupported payload media types:UserWarning")
@schema.parametrize()
@settings(BOUNDED, max_examples=40)
def test_the_api_keeps_to_its_schema(case: Any, real: "RealServer") -> None:
    """Every operation, with data that fits its schema and data that does not, under all checks that apply."""
    excluded = []
    if case.operation.path in SAYS_MORE_THAN_A_SCHEMA:
        excluded.append(positive_data_acceptance)
    if case.operation.path.startswith("/api/sam/"):
        excluded.append(negative_data_rejection)  # numbers in quotes are taken: pages send them
    case.call_and_validate(base_url=real.url, excluded_checks=excluded)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "0" * 32, "NaN", EXAMPLE_ID, "\0", "../..", "😀"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
VALID: list[tuple[str, dict[str, Any]]] = [
    ("/api/sam/image", {"image": EXAMPLE_IMAGE, "session_id": "s"}),
    ("/api/sam/click", {"points": [32, 24], "labels": [1], "session_id": "s"}),
    ("/api/sam/click", {"points": [[32, 24], [1, 1]], "labels": [1, 0], "session_id": "s"}),
    ("/api/sam/rect", {"startX": 10, "startY": 8, "endX": 54, "endY": 40, "session_id": "s"}),
    ("/api/sam/undo", {"session_id": "s"}),
    ("/api/sam/finish_click", {"session_id": "s"}),
    *[
        (f"/v1/images/{EXAMPLE_ID}/masks", body)
        for body in (
            {"points": [{"x": 32, "y": 24, "label": 1}], "box": [10, 8, 54, 40], "format": "png", "multimask": False},
            {"prompts": [{"points": [{"x": 32, "y": 24}]}, {"box": [10, 8, 54, 40]}], "format": "polygons"},
            {"points": [{"x": 1, "y": 1}], "mask_input": {"prediction_id": "0" * 32, "index": 1}, "model": "toy"},
        )
    ],
    (
        f"/v1/images/{EXAMPLE_ID}/concepts",
        {"phrases": ["a", "b"], "exemplars": [{"box": [1, 2, 3, 4]}], "score_threshold": 0.1, "max_instances": 2},
    ),
    (
        f"/v1/images/{EXAMPLE_ID}/everything",
        {"points_per_side": 2, "pred_iou_thresh": 0.5, "stability_score_offset": 1, "min_mask_region_area": 9},
    ),
]
FINE = {200, 400, 404, 413, 415, 422}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a document where something else could stand."""
    found: list[tuple[Any, Any]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found += [(value, key), *places(inner)]
    return found


@given(data=st.data())
@settings(BOUNDED, max_examples=400)
def test_a_valid_body_with_something_else_in_it_is_answered(client: httpx.Client, data: st.DataObject) -> None:
    """Never a 5xx, and every refusal is a problem body, whatever is put in place of whatever."""
    path, valid = data.draw(st.sampled_from(VALID))
    body = json.loads(json.dumps(valid))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(places(body) or [(body, "session_id")]))
        if isinstance(holder, dict) and data.draw(st.booleans()):
            holder[data.draw(st.text(max_size=8))] = holder.pop(key, None)
        else:
            holder[key] = data.draw(JSON)
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(content)))
        content = content[:at] + data.draw(st.binary(max_size=6)) + content[at + data.draw(st.integers(0, 6)) :]
    is_fine(client.post(path, content=content))


# Starlette leaves the file of a form that was cut off to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(data=st.data())
@settings(BOUNDED, max_examples=150)
def test_a_damaged_file_is_answered(client: httpx.Client, data: st.DataObject) -> None:
    """Bytes changed, cut out or put in, anywhere in the file or in the form around it."""
    file = base64.b64decode(EXAMPLE_IMAGE)
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + file + b"\r\n--b--\r\n"
    in_form = data.draw(st.booleans())
    content = form if in_form else file
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content = content[:at] + data.draw(st.binary(max_size=8)) + content[at + data.draw(st.integers(0, 8)) :]
    headers = {"Content-Type": "multipart/form-data; boundary=b"} if in_form else {}
    is_fine(client.post("/v1/images", content=content, headers=headers))


def is_fine(answer: httpx.Response) -> None:
    assert answer.status_code in FINE, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]
