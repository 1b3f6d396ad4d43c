"""The same request in the words of different clients."""

import base64
import codecs
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from labeling_ground.api.app import EXPOSED
from labeling_ground.api.schemas.common import EXAMPLE_ID, EXAMPLE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

FILE = base64.b64decode(EXAMPLE_IMAGE)
CAPITALS = EXAMPLE_ID.upper()
ORIGIN = "https://label.example"
CLICK = {"points": [{"x": 32, "y": 24}]}


@pytest.mark.parametrize("prefix", ["", " data:image/png;base64,\n"])
async def test_an_image_is_read_in_every_base64(server: "Running", prefix: str) -> None:
    for text in (EXAMPLE_IMAGE, base64.urlsafe_b64encode(FILE).decode().rstrip("=")):
        answer = await server.client.post("/api/sam/image", json={"session_id": "s", "image": prefix + text})
        assert (answer.status_code, answer.json()["image_id"]) == (200, EXAMPLE_ID)


async def test_a_mask_input_is_read_in_every_base64(server: "Running") -> None:
    image_id = await server.send_image(FILE)
    logits = np.linspace(-9, 9, 65536, dtype="<f2").tobytes()
    outcomes = []
    for text in (base64.b64encode(logits), base64.urlsafe_b64encode(logits).rstrip(b"="), base64.encodebytes(logits)):
        body = {**CLICK, "mask_input": text.decode()}
        answer = await server.client.post(f"/v1/images/{image_id}/masks", json=body)
        assert answer.status_code == 200, answer.text
        outcomes.append(answer.json()["outcome"])
    assert outcomes == ["miss", "hit", "hit"]


@pytest.mark.parametrize(("path", "status"), [("/api/sam/image", 422), (f"/v1/images/{EXAMPLE_ID}/masks", 422)])
async def test_what_is_wrong_with_base64_is_said(server: "Running", path: str, status: int) -> None:
    await server.send_image(FILE)
    body = {"session_id": "s", "image": "ab%2Bd"} if "sam" in path else {**CLICK, "mask_input": "ab%2Bd"}
    answer = await server.client.post(path, json=body)
    assert answer.status_code == status
    assert "percent-encoding" in answer.json()["detail"]


@pytest.mark.parametrize("path", [f"/v1/images/{EXAMPLE_ID}/masks", f"/v1/images/{CAPITALS}/everything"])
async def test_json_with_a_byte_order_mark_is_json(server: "Running", path: str) -> None:
    await server.send_image(FILE)
    body = {"points_per_side": 2} if "everything" in path else CLICK
    answer = await server.client.post(path, content=codecs.BOM_UTF8 + json.dumps(body).encode())
    assert answer.status_code == 200, answer.text
    for encoding in ("utf-16", "utf-16-be", "utf-32"):
        answer = await server.client.post(path, content=json.dumps(body).encode(encoding))
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (400, "malformed-body")
        assert "UTF-8" in answer.json()["detail"]


async def test_digests_are_taken_in_capitals_and_answered_in_small_letters(server: "Running") -> None:
    """One image whichever way its id is written: the second ask is a hit, and a purge means it."""
    await server.send_image(FILE)
    first = await server.client.post(f"/v1/images/{EXAMPLE_ID}/masks", json=CLICK)
    again = await server.client.post(f"/v1/images/{CAPITALS}/masks", json=CLICK)
    assert (again.json()["outcome"], again.json()["image_id"]) == ("hit", EXAMPLE_ID)
    assert (await server.client.get(f"/v1/images/{CAPITALS}")).json()["image_id"] == EXAMPLE_ID
    assert (await server.client.get(f"/v1/images/{CAPITALS}/embedding")).headers["x-outcome"] == "hit"
    reference = {"prediction_id": first.json()["prediction_id"].upper()}
    refined = await server.client.post(f"/v1/images/{CAPITALS}/masks", json={**CLICK, "mask_input": reference})
    assert refined.status_code == 200, refined.text
    assert (await server.client.delete("/v1/cache", params={"image_id": CAPITALS})).json()["deleted"] > 0
    unknown = await server.client.get(f"/v1/images/{CAPITALS}")
    assert (unknown.status_code, unknown.json()["image_id"]) == (404, EXAMPLE_ID)
    await server.send_image(FILE)
    assert (await server.client.delete(f"/v1/images/{CAPITALS}")).json()["deleted"] > 0


SAFE = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
"""What a page of another origin may always read."""
NOT_FOR_SCRIPTS = {
    "content-disposition",
    "content-encoding",
    "content-security-policy",
    "cross-origin-resource-policy",
    "referrer-policy",
    "vary",
    "x-content-type-options",
    "x-frame-options",
}


async def test_a_page_of_an_allowed_origin_reads_every_header_that_says_something(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    async with start(cors_origins=(f"{ORIGIN}/",), api_keys=("one",), encode_queue=1) as server:
        page = {"Origin": ORIGIN, "X-API-Key": "one"}
        image_id = await server.send_image(make_image(), **page)
        answers = [
            await server.client.get(f"/v1/images/{image_id}/embedding", headers=page),
            await server.client.get("/web/labeling/style.css", headers=page),
            await server.client.get("/v1/models", headers={"Origin": ORIGIN}),
            await server.client.put("/v1/images", headers=page),
            await server.client.get("/metrics", headers=page),
        ]
        said = {name for answer in answers for name in answer.headers if not name.startswith("access-control")}
        assert {"x-model-version", "etag", "www-authenticate", "allow"} <= said
        exposed = {name.lower() for name in EXPOSED}
        assert said - SAFE - NOT_FOR_SCRIPTS <= exposed
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert {one.lower() for one in answer.headers["access-control-expose-headers"].split(", ")} == exposed
        for method, headers in (("HEAD", "x-api-key"), ("GET", "if-none-match,x-api-key")):
            asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
            preflight = await server.client.options(f"/v1/images/{image_id}", headers={"Origin": ORIGIN, **asked})
            assert preflight.status_code == 200
