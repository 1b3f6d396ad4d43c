"""Concepts: all instances of a phrase or of what is like exemplars, as one answer or phrase by phrase."""

import asyncio
import io
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image as Pillow
from tests.api.conftest import GatedConcepts
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file

from labeling_ground import key as keys
from labeling_ground.codec.base64_text import decode
from labeling_ground.codec.mask import from_rle
from labeling_ground.testing.toy_concepts import ToyConcepts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.api.conftest import Running, Start, StartReal

pytestmark = pytest.mark.anyio

LINES = {"Accept": "application/x-ndjson"}
FILE = squares_file()
ID = keys.image_id(FILE)
PATH = f"/v1/images/{ID}/concepts"


@asynccontextmanager
async def finding(start: "Start", backend: ToyConcepts | None = None, **chosen: Any) -> "AsyncIterator[Running]":
    """A server whose model finds colours, and which knows the picture."""
    toy: Any = backend or ToyConcepts()
    async with start(backend=toy, **chosen) as server:
        await server.send_image(FILE)
        toy.asked.clear()
        yield server


async def ask(server: "Running", **body: Any) -> dict[str, Any]:
    answer = await server.client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def corners(concept: dict[str, Any]) -> list[tuple[float, ...]]:
    return [tuple(one["box"]) for one in concept["instances"]]


async def test_a_phrase_is_answered_with_every_instance_and_again_from_the_cache(start: "Start") -> None:
    async with finding(start) as server:
        first = await ask(server, text="Red", score_threshold=0.0)
        again = await ask(server, text=" red", score_threshold=0.0)
        [concept] = first["concepts"]
        assert corners(concept) == [*RED_BOXES]
        assert concept["phrase"] == "red"
        assert (first["outcome"], again["outcome"], concept["found"]) == ("miss", "hit", 3)
        assert again["concepts"][0]["instances"] == concept["instances"]
        assert (first["width"], first["height"], first["image_id"]) == (64, 48, ID)
        assert first["model_version"] == str(ToyConcepts().version)
        for index, (one, (x0, y0, x1, y1)) in enumerate(zip(concept["instances"], RED_BOXES, strict=True)):
            pixels = from_rle(one["rle"]["size"], one["rle"]["counts"])
            assert one["index"] == index
            assert pixels[y0:y1, x0:x1].all()
            assert pixels.sum() == one["area"] == (y1 - y0) * (x1 - x0)
            assert one["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert server.backend.asked == ["texts", "detect"]  # type: ignore[attr-defined]
        figures = (await server.client.get("/v1/cache")).json()
        assert figures["kinds"]["detections"]["asked"] == {"hit": 1, "joined": 0, "recomputed": 0, "miss": 1}
        assert [row["outcome"] for row in figures["latency"]["rows"] if row["kind"] == "detections"]
        assert "detector" in figures["queues"]
        metrics = (await server.client.get("/metrics")).text
        assert 'labeling_ground_lookups_total{kind="detections",model="toy-concepts",outcome="hit"} 1.0' in metrics


async def test_threshold_most_and_format_choose_from_one_answer_and_compute_nothing(start: "Start") -> None:
    async with finding(start) as server:
        every = (await ask(server, text="red", score_threshold=0))["concepts"][0]["instances"]
        scores = [one["score"] for one in every]
        threshold = (scores[1] + scores[2]) / 2
        above = await ask(server, text="red", score_threshold=threshold)
        best = await ask(server, text="red", score_threshold=0, max_instances=1)
        usual = await ask(server, text="red")
        assert [one["score"] for one in above["concepts"][0]["instances"]] == scores[:2]
        assert [one["score"] for one in best["concepts"][0]["instances"]] == scores[:1]
        assert [one["score"] for one in usual["concepts"][0]["instances"]] == [one for one in scores if one >= 0.5]
        assert {each["concepts"][0]["found"] for each in (above, best, usual)} == {3}
        png = await ask(server, text="red", format="png", max_instances=1)
        drawn = np.asarray(Pillow.open(io.BytesIO(decode(png["concepts"][0]["instances"][0]["png"]))))
        rle = every[0]["rle"]
        assert np.array_equal(drawn > 0, from_rle(rle["size"], rle["counts"]))
        polygons = await ask(server, text="red", format="polygons", max_instances=1)
        outline = np.asarray(polygons["concepts"][0]["instances"][0]["polygons"][0])
        assert [*outline.min(axis=0), *outline.max(axis=0)] == [*RED_BOXES[0]]
        assert server.backend.asked.count("detect") == 1  # type: ignore[attr-defined]


async def test_several_phrases_and_exemplars_are_answered_in_their_order(start: "Start") -> None:
    async with finding(start) as server:
        both = await ask(server, phrases=["blue", "RED", "green"], score_threshold=0)
        assert [concept["phrase"] for concept in both["concepts"]] == ["blue", "red", "green"]
        assert [set(corners(concept)) for concept in both["concepts"]] == [{*BLUE_BOXES}, {*RED_BOXES}, set()]
        like = await ask(server, exemplars=[{"box": [5, 5, 10, 10]}], score_threshold=0)
        assert "phrase" not in like["concepts"][0]
        assert corners(like["concepts"][0]) == [*RED_BOXES]
        mixed = await ask(
            server,
            text="red",
            exemplars=[{"box": [10, 10, 5, 5], "positive": False}, {"box": [22, 22, 28, 30]}],
            score_threshold=0,
        )
        assert set(corners(mixed["concepts"][0])) == {*BLUE_BOXES}


async def test_an_instance_is_refined_by_a_click_on_the_same_trunk(start: "Start") -> None:
    async with finding(start) as server:
        [concept] = (await ask(server, text="red", score_threshold=0))["concepts"]
        reference = {"prediction_id": concept["prediction_id"], "index": 2}
        click = {"points": [{"x": 52, "y": 32}], "mask_input": reference, "multimask": False}
        answer = await server.client.post(f"/v1/images/{ID}/masks", json=click)
        assert answer.status_code == 200, answer.text
        rle = answer.json()["masks"][0]["rle"]
        x0, y0, x1, y1 = RED_BOXES[2]
        assert from_rle(rle["size"], rle["counts"])[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].all()
        assert server.backend.asked == ["texts", "detect"]  # type: ignore[attr-defined]
        missing = await server.client.post(
            f"/v1/images/{ID}/masks", json=click | {"mask_input": reference | {"index": 3}}
        )
        assert (missing.status_code, "3 instances" in missing.json()["detail"]) == (422, True)


def test_phrases_are_streamed_as_they_are_found(start_real: "StartReal") -> None:
    toy: Any = GatedConcepts()
    with start_real(backend=toy) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.post("/v1/images", content=FILE).status_code == 200
        assert client.post(PATH, json={"text": "blue"}).status_code == 200
        toy.decode_may_go_on.clear()
        body = {"phrases": ["red", "blue"], "score_threshold": 0}
        with client.stream("POST", PATH, json=body, headers=LINES) as answer:
            assert answer.headers["content-type"] == "application/x-ndjson"
            lines = map(json.loads, answer.iter_lines())
            seen = [next(lines), next(lines)]
            toy.decode_may_go_on.set()
            seen += lines
    assert [each["event"] for each in seen] == ["start", "concept", "concept", "end"]
    assert [each.get("number") for each in seen] == [None, 1, 0, None]
    assert (seen[0]["width"], seen[0]["model"]) == (64, "toy-concepts")
    assert [each["outcome"] for each in seen[1:]] == ["hit", "miss", "miss"]
    assert corners(seen[2]) == [*RED_BOXES]


async def test_what_fails_after_the_first_phrase_is_said_in_a_last_line(start: "Start") -> None:
    async with finding(start) as server:
        await ask(server, text="blue")
        answer = await server.client.post(PATH, json={"phrases": ["blue", "red " * 40]}, headers=LINES)
        lines = [json.loads(each) for each in answer.text.splitlines()]
        assert [each["event"] for each in lines] == ["start", "concept", "problem"]
        assert (lines[-1]["status"], "shorten" in lines[-1]["detail"]) == (422, True)
        alone = await server.client.post(PATH, json={"phrases": ["red " * 40]}, headers=LINES)
        assert (alone.status_code, alone.json()["type"]) == (422, "urn:labeling-ground:problem:bad-prompt")


@pytest.mark.parametrize(
    ("body", "status", "name", "said"),
    [
        ({}, 422, "invalid-request", "say what to find"),
        ({"text": "a", "phrases": ["b"]}, 422, "invalid-request", "not both"),
        ({"phrases": []}, 422, "invalid-request", "phrases"),
        ({"text": ""}, 422, "bad-prompt", "phrase is empty"),
        ({"phrases": ["a", "  "]}, 422, "bad-prompt", "phrase is empty"),
        ({"text": "a\u0007"}, 422, "bad-prompt", "control"),
        ({"text": 3}, 422, "invalid-request", "text"),
        ({"exemplars": [{"box": [1, 2, 3]}]}, 422, "invalid-request", "box"),
        ({"exemplars": [{"box": [1, 2, 3, 4], "positive": False}]}, 422, "bad-prompt", "positive true"),
        ({"exemplars": [{"box": [1, 2, 3, 4], "label": 1}]}, 422, "invalid-request", "label"),
        ({"text": "a", "exemplars": [{"box": [70, 0, 90, 9]}]}, 422, "bad-prompt", "outside the image"),
        ({"text": "a", "score_threshold": 1.5}, 422, "invalid-request", "score_threshold"),
        ({"text": "a", "max_instances": 0}, 422, "invalid-request", "max_instances"),
        ({"text": "a", "model": "other"}, 404, "unknown-model", "other"),
        ({"text": "x" * 21}, 413, "too-large", "20"),
        ({"phrases": ["a", "b", "c"]}, 413, "too-large", "2"),
        ({"exemplars": [{"box": [1, 2, 3, 4]}] * 3}, 413, "too-large", "2"),
    ],
)
@pytest.mark.parametrize("headers", [{}, LINES])
async def test_what_cannot_be_found_is_said(
    start: "Start", body: dict[str, Any], status: int, name: str, said: str, headers: dict[str, str]
) -> None:
    async with finding(start, max_concepts=2, max_phrase_length=20, max_exemplars=2) as server:
        answer = await server.client.post(PATH, json=body, headers=headers)
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, name)
        assert said in answer.json()["detail"]
        assert "detect" not in server.backend.asked  # type: ignore[attr-defined]


async def test_an_unknown_image_and_a_client_that_leaves(start: "Start") -> None:
    async with finding(start) as server:
        answer = await server.client.post(f"/v1/images/{'0' * 64}/concepts", json={"text": "red"}, headers=LINES)
        assert (answer.status_code, answer.json()["image_id"]) == (404, "0" * 64)
        toy: Any = server.backend
        toy.hold = asyncio.Event()
        toy.begun.clear()
        asking = asyncio.ensure_future(server.client.post(PATH, json={"phrases": ["red", "blue"]}))
        await toy.begun.wait()
        asking.cancel()
        await asyncio.wait({asking})
        toy.hold.set()
        await server.until(lambda: not server.app_state.predictor.is_working)
        assert "detect" not in toy.asked, "the phrases had begun to be read; nothing came after them"


async def test_a_purge_of_the_image_forgets_what_was_found(start: "Start") -> None:
    async with finding(start) as server:
        await ask(server, text="red")
        assert (await server.client.delete(f"/v1/images/{ID}")).status_code == 200
        assert (await server.client.post(PATH, json={"text": "red"})).status_code == 404
        await server.send_image(FILE)
        assert (await ask(server, text="red"))["outcome"] == "miss"


async def test_a_model_that_finds_no_concepts_says_which_would(start: "Start") -> None:
    async with start() as server:
        await server.send_image(FILE)
        answer = await server.client.post(PATH, json={"text": "red"})
        assert (answer.status_code, answer.json()["type"]) == (501, "urn:labeling-ground:problem:not-offered")
        assert "toy takes no text" in answer.json()["detail"]
    finder = "labeling_ground.testing.toy_concepts:create"
    async with start(models=(finder,)) as server:
        await server.client.post("/v1/images", content=FILE, params={"model": finder})
        await server.send_image(FILE)
        answer = await server.client.post(PATH, json={"text": "red"})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:labeling-ground:problem:bad-prompt")
        assert answer.json()["detail"] == 'The model toy takes no text. Name one in "model" that does: toy-concepts.'
        assert len((await ask(server, text="red", model="toy-concepts"))["concepts"][0]["instances"]) == 2


async def test_a_model_that_takes_text_only_says_so_of_exemplars(start: "Start") -> None:
    toy = ToyConcepts(capabilities=("points", "box", "mask", "text"))
    async with finding(start, toy) as server:
        assert (await ask(server, text="red"))["outcome"] == "miss"
        answer = await server.client.post(PATH, json={"text": "red", "exemplars": [{"box": [1, 2, 3, 4]}]})
        assert (answer.status_code, "takes no text and exemplars" in answer.json()["detail"]) == (501, True)
        [model] = (await server.client.get("/v1/models")).json()["models"]
        assert "text" in model["capabilities"]
