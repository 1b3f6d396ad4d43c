"""``POST /v1/upcoming``: what a client will open next is there when it is opened."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.file_hosts import file_host, gives

from labeling_ground import key as keys

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

ANN = {"X-Client-Id": "ann"}


async def announce(server: "Running", images: list[str], **more: Any) -> httpx.Response:
    return await server.client.post("/v1/upcoming", json={"images": images, **more}, headers=ANN)


async def forget_embeddings(server: "Running") -> None:
    """Of all images; their files stay."""
    await server.app_state.predictor.store.delete(f"{keys.LAYOUT}/*/embedding/*")


def encoded(server: "Running", count: int) -> bool:
    """Whether so many images have been encoded, and none is under way."""
    return server.backend.encodes == count and len(server.app_state.predictor.flights) == 0


async def test_the_next_images_are_encoded_before_they_are_opened(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start() as server:
        files = [make_image(40 + number, 30) for number in range(4)]
        ids = [await server.send_image(file) for file in files]
        await forget_embeddings(server)
        answer = await announce(server, [*ids, "0" * 64])
        assert (answer.status_code, answer.json()) == (202, {"listed": 5, "ahead": 0, "unknown": []})
        assert server.backend.encodes == 4
        opened = await server.client.post("/v1/images", content=files[0], headers=ANN)
        assert opened.json()["outcome"] == "miss"
        await server.until(lambda: encoded(server, 6))  # it, and the next one
        opened = await server.client.post("/v1/images", content=files[1], headers=ANN)
        assert opened.json()["outcome"] == "hit"
        await server.until(lambda: encoded(server, 8))  # two more, of which one is the last that is known
        for file in files[2:]:
            assert (await server.client.post("/v1/images", content=file, headers=ANN)).json()["outcome"] == "hit"
        kinds = (await server.client.get("/v1/cache")).json()["kinds"]["embedding"]
        assert kinds["hits"] == 3


async def test_a_list_of_images_that_are_not_opened_computes_nothing(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start() as server:
        ids = [await server.send_image(make_image(40 + number, 30)) for number in range(4)]
        await forget_embeddings(server)
        assert (await announce(server, ids)).json()["ahead"] == 0
        for number in range(3):
            await server.client.post("/v1/images", content=make_image(60 + number, 30), headers=ANN)
        assert server.backend.encodes == 4 + 3


async def test_who_is_told_that_a_file_is_not_here_can_send_it(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start() as server:
        known = await server.send_image(make_image())
        answer = await announce(server, ["A" * 64, known, "b" * 64])
        assert answer.json()["unknown"] == ["a" * 64, "b" * 64]


async def test_images_by_their_address_are_fetched_in_their_turn(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with file_host(gives(make_image(50, 40))) as host, start(sources=host.source) as server:
        first = make_image(64, 48)
        shown = await server.client.post("/v1/images", content=first, headers=ANN)
        answer = await announce(server, [shown.json()["image_id"], host.url("/next.png")])
        assert answer.json()["ahead"] == 1  # the one on the screen stands first in it
        await server.until(lambda: server.backend.encodes == 2)
        opened = await server.client.post("/v1/images", json={"url": host.url("/next.png")}, headers=ANN)
        assert (opened.json()["outcome"], len(host.requests)) == ("hit", 1)


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        pytest.param({"images": ["0" * 64]}, {}, 400, "X-Client-Id", id="nobody"),
        pytest.param({"images": ["0" * 63]}, ANN, 422, "images.0", id="no-id"),
        pytest.param({"images": ["http://example.org/a.png"]}, ANN, 403, "LABELING_GROUND_SOURCES", id="no-source"),
        pytest.param({"images": ["0" * 64] * 3}, ANN, 413, "takes 2", id="long"),
        pytest.param({"images": [1]}, ANN, 422, "images", id="number"),
        pytest.param({"images": [], "model": "none"}, ANN, 404, "not served", id="model"),
        pytest.param({}, ANN, 422, "images", id="nothing"),
    ],
)
async def test_what_cannot_be_followed_is_refused(
    start: "Start", body: dict[str, Any], headers: dict[str, str], status: int, says: str
) -> None:
    async with start(upcoming_images=2) as server:
        answer = await server.client.post("/v1/upcoming", json=body, headers=headers)
        assert (answer.status_code, says in answer.text) == (status, True), answer.text


async def test_an_empty_list_takes_the_one_before_back(start: "Start", make_image: Callable[..., bytes]) -> None:
    async with start() as server:
        await announce(server, [await server.send_image(make_image()), "0" * 64])
        assert len(server.app_state.upcoming) == 2
        assert (await announce(server, [])).json() == {"listed": 0, "ahead": 0, "unknown": []}
        assert len(server.app_state.upcoming) == 0
