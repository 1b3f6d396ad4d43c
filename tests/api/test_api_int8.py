"""What answers, figures and metrics say of embeddings in int8."""

import base64
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio


async def crowd_out(server: "Running", image_id: str) -> None:
    """Evict everything for want of room, so that the image's embedding is left in int8 only."""
    store = server.app_state.predictor.store
    budget = store.memory.budget
    store.memory.reconfigure(budget_bytes=1)
    store.memory.reconfigure(budget_bytes=budget)
    await server.until(lambda: not store.int8.pending)
    state = (await server.client.get(f"/v1/images/{image_id}")).json()
    assert (state["encoded"], state["embedding_precision"]) == (True, "int8")


async def test_every_answer_that_was_made_of_it_says_so_and_no_other(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    async with start(disk_bytes=0, int8_embeddings="always") as server:
        file = make_image()
        sent = await server.client.post("/v1/images", content=file)
        image_id = sent.json()["image_id"]
        full = (await server.click(image_id, 5, 5)).json()
        assert "embedding_precision" not in sent.json() | full
        await crowd_out(server, image_id)
        server.backend.encodes = 0

        opened = (await server.client.post("/v1/images", content=file)).json()
        alone = (await server.click(image_id, 5, 5)).json()
        again = (await server.click(image_id, 5, 5)).json()
        click = {"points": [{"x": 6, "y": 6}], "mask_input": {"prediction_id": alone["prediction_id"]}}
        several = (await server.client.post(f"/v1/images/{image_id}/masks", json={"prompts": [click]})).json()
        assert opened["embedding_precision"] == alone["embedding_precision"] == again["embedding_precision"] == "int8"
        assert several["predictions"][0]["embedding_precision"] == "int8"
        assert [opened["outcome"], alone["outcome"], again["outcome"]] == ["hit", "miss", "hit"]
        assert alone["prediction_id"] == again["prediction_id"] == f"{full['prediction_id']}~int8"
        assert alone["model_version"] == full["model_version"]
        assert server.backend.encodes == 0

        figures = (await server.client.get("/v1/cache")).json()
        assert (figures["kinds"]["mask"]["from_int8"], figures["kinds"]["embedding"]["from_int8"]) == (3, 1)
        [memory] = figures["tiers"]
        assert memory["entries_by_kind"]["embedding-int8"] == 1
        metrics = (await server.client.get("/metrics")).text
        assert 'labeling_ground_answers_from_int8_total{kind="mask",model="toy"} 3.0' in metrics

        assert (await server.client.delete(f"/v1/images/{image_id}")).status_code == 200
        assert (await server.click(image_id, 5, 5)).status_code == 404


async def test_a_session_goes_on_from_it(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """Its clicks refine what was answered before, in full or in int8."""
    async with start(disk_bytes=0, int8_embeddings="always") as server:
        opened = {"image": base64.b64encode(make_image()).decode(), "session_id": "s"}
        image_id = (await server.client.post("/api/sam/image", json=opened)).json()["image_id"]
        answers = []
        for x in (5, 8, 11):
            body = {"points": [x, 6], "labels": [1], "session_id": "s"}
            answers.append((await server.client.post("/api/sam/click", json=body)).json())
            if len(answers) == 1:
                await crowd_out(server, image_id)
    assert [answer.get("embedding_precision") for answer in answers] == [None, "int8", "int8"]
    assert len({answer["prediction_id"] for answer in answers}) == 3


async def test_with_a_disk_nothing_is_rounded(start: "Start", make_image: "Callable[..., bytes]") -> None:
    async with start(int8_embeddings="always") as server:
        await server.send_image(make_image())
        assert server.app_state.predictor.store.int8.models == set()
