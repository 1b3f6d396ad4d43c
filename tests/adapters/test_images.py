"""Images that come whole with every click: what is known of them, and what is not done twice."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.adapters.tools import in_base64

from labeling_ground.adapters.images import box_on, point_on
from labeling_ground.service.known_texts import KnownTexts, OpenImage
from labeling_ground.types import Box, Point

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

ANN, BEN = "a-long-key-for-ann", "a-long-key-for-ben"
IMAGE = OpenImage("0" * 64, 64, 48)


def sent(file: bytes, x: float = 30, y: float = 20) -> dict[str, Any]:
    return {"image": in_base64(file), "params": {"marks": [{"type": "point", "data": [x, y], "label": 1}]}}


def count_decodings(server: "Running", monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each base64 text and each image file that is decoded, and each file that is hashed, from now on."""
    noted: list[str] = []
    for name in (
        "labeling_ground.codec.base64_text.decode",
        "labeling_ground.codec.image.decode",
        "labeling_ground.codec.image.read_header",
        "labeling_ground.key.image_id",
    ):
        module, _, function = name.rpartition(".")
        original = getattr(__import__(module, fromlist=[function]), function)

        def noting(*args: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            noted.append(_name)
            return _original(*args, **options)

        monkeypatch.setattr(name, noting)
    return noted


@pytest.mark.parametrize("width", [64, 400], ids=["on the event loop", "in a thread"])
async def test_a_repeated_click_decodes_and_hashes_nothing_but_the_text(
    server: "Running", make_image: "Callable[..., bytes]", monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    file = make_image(width, 48)
    first = (await server.client.post("/v1/predict", json=sent(file))).json()
    noted = count_decodings(server, monkeypatch)
    again = (await server.client.post("/v1/predict", json=sent(file))).json()
    assert again == first
    assert again["success"] is True
    assert noted == []
    assert (await server.client.post("/v1/predict", json=sent(file, 31))).json()["success"] is True
    assert noted == [], "nor does a new click on the same image"
    assert (server.backend.encodes, server.backend.decodes) == (1, 2)


async def test_an_image_that_is_gone_is_opened_from_the_click(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    file = make_image()
    first = (await server.client.post("/v1/predict", json=sent(file))).json()
    await server.app_state.predictor.purge(None)
    again = (await server.client.post("/v1/predict", json=sent(file))).json()
    assert again == first
    assert (server.backend.encodes, server.backend.decodes) == (2, 2)


async def test_fifty_clicks_at_once_on_a_new_image_are_one_computation(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    file = make_image()
    answers = await asyncio.gather(*(server.client.post("/v1/predict", json=sent(file)) for _ in range(50)))
    assert {answer.text for answer in answers} == {answers[0].text}
    assert (server.backend.encodes, server.backend.decodes) == (1, 1)


async def test_what_one_tenant_sent_is_not_known_to_another(
    start: "Start", make_image: "Callable[..., bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(api_keys=(ANN, BEN)) as server:
        file = make_image()
        await server.client.post("/v1/predict", json=sent(file), headers={"Token": ANN})
        noted = count_decodings(server, monkeypatch)
        answer = await server.client.post("/v1/predict", json=sent(file), headers={"Token": BEN})
        assert answer.json()["success"] is True
        assert "labeling_ground.codec.base64_text.decode" in noted
        assert (server.backend.encodes, server.backend.decodes) == (2, 2)


def test_so_many_texts_are_known_for_each_tenant() -> None:
    texts = KnownTexts(2)
    for digest in (b"1", b"2"):
        texts.add("ann", digest, IMAGE)
    assert texts.find("ann", b"1") == IMAGE
    texts.add("ann", b"3", IMAGE)
    assert [texts.find("ann", digest) is not None for digest in (b"1", b"2", b"3")] == [True, False, True]
    assert texts.find("ben", b"1") is None


def test_what_lies_over_the_edge_is_taken_back_and_fractions_stay() -> None:
    assert point_on(IMAGE, 118.99999999999999 / 4, 10.25, 0) == Point(118.99999999999999 / 4, 10.25, 0)
    assert point_on(IMAGE, 64, 48, 1) == Point(64 - 1 / 64, 48 - 1 / 64, 1)
    assert point_on(IMAGE, -0.5, 1e9, 1) == Point(0.0, 48 - 1 / 64, 1)
    assert box_on(IMAGE, -3, 2.5, 70, 50) == Box(0.0, 2.5, 64.0, 48.0)
