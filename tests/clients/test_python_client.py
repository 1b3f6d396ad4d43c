"""The Python client against a real server: what it sends, what it spares, what it gives back."""

import ast
import inspect
import io
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, assert_type

import httpx
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image as Pillow
from pycocotools import mask as coco
from tests.api.conftest import GatedConcepts, soon
from tests.coloured import BLUE_BOXES, RED_BOXES, squares, squares_file

from labeling_ground.errors import BackendFailed
from labeling_ground_client import (
    AsyncClient,
    AsyncImage,
    Client,
    ClientError,
    Everything,
    Found,
    FoundMask,
    Image,
    Prediction,
    ProblemError,
    Prompt,
    UnreachableError,
)
from labeling_ground_client.values import prediction_from

if TYPE_CHECKING:
    from tests.api.conftest import RealServer, StartReal

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools with numpy 2
]
PROJECT = Path(__file__).parents[2] / "clients" / "python"


class Wire(httpx.HTTPTransport):
    """The network, which notes what is sent, and on which a test can have things happen before."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.headers: list[httpx.Headers] = []
        self.before: list[httpx.Response | Exception | Callable[[], object] | None] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = re.sub("^/v1/images/[^/]+", "/v1/images", request.url.path).removeprefix("/v1/")
        self.headers.append(request.headers)
        self.sent.append(f"{request.method} {path}")
        happens = self.before.pop(0) if self.before else None
        if isinstance(happens, Exception):
            raise happens
        if isinstance(happens, httpx.Response):
            return happens
        if happens is not None:
            happens()
        return super().handle_request(request)


def busy(retry_after: str | None, status: int = 503) -> httpx.Response:
    body = {"type": "urn:labeling-ground:problem:overloaded", "detail": "Too many wait. Come back.", "status": status}
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, json=body, headers=headers)


@pytest.fixture
def server(start_real: "StartReal") -> "Iterator[RealServer]":
    with start_real() as running:
        yield running


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def client(server: "RealServer", wire: Wire) -> Iterator[Client]:
    with Client(server.url, transport=wire) as client:
        yield client


@pytest.fixture
def photo(tmp_path: Path, make_image: Callable[..., bytes]) -> Path:
    path = tmp_path / "cat.jpg"
    path.write_bytes(make_image(64, 48, "JPEG"))
    return path


def raw(server: "RealServer", image: Image | AsyncImage, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.post(f"{server.url}/v1/images/{image.id}/masks", json=body).json()
    return answer


def reference(rle: dict[str, Any]) -> NDArray[np.bool_]:
    return np.asarray(coco.decode({"size": rle["size"], "counts": rle["counts"].encode()}) > 0)


# -- three lines ---------------------------------------------------------------------------------------------------


def test_a_click_gives_the_mask_of_the_server(server: "RealServer", client: Client, photo: Path) -> None:
    cat = client.open(photo)
    prediction = cat.click(32, 24)
    assert (prediction.mask.dtype, prediction.mask.shape) == (np.dtype(np.bool_), (48, 64))
    assert (cat.width, cat.height, prediction.outcome, prediction.model) == (64, 48, "miss", "toy")
    answer = raw(server, cat, points=[{"x": 32, "y": 24}])
    assert answer["outcome"] == "hit"
    assert (prediction.id, prediction.scores) == (answer["prediction_id"], answer["scores"])
    for candidate, mask, theirs in zip(prediction.candidates, prediction.masks, answer["masks"], strict=True):
        np.testing.assert_array_equal(mask, reference(theirs["rle"]))
        assert (candidate.area, list(candidate.bbox)) == (mask.sum(), theirs["bbox"])
    assert prediction.note == answer["note"]
    assert prediction.model_version == answer["model_version"]


def test_a_prediction_of_an_embedding_in_int8_says_so() -> None:
    said = {"prediction_id": f"{'a' * 32}~int8", "masks": [], "outcome": "hit", "embedding_precision": "int8"}
    origin = {"model": "toy", "model_version": "toy@1", "seconds": 0.1}
    rounded = prediction_from(said, Prompt([(1, 2)]), origin, multimask=True)
    assert (rounded.is_int8, rounded.id) == (True, said["prediction_id"])
    del said["embedding_precision"]
    assert not prediction_from(said, Prompt([(1, 2)]), origin, multimask=True).is_int8


def test_masks_that_travel_as_png_are_the_same(server: "RealServer", client: Client, photo: Path) -> None:
    with Client(server.url, mask_format="png") as other:
        found = other.open(photo).click(30, 20)
        assert "png" in found.candidates[0].encoded
        np.testing.assert_array_equal(found.masks, client.open(photo).click(30, 20).masks)


def test_boxes_several_prompts_and_one_candidate(server: "RealServer", client: Client, photo: Path) -> None:
    cat = client.open(photo)
    box = cat.box(10, 8, 30.5, 40)
    many = cat.predict_many([Prompt(box=np.array([10, 8, 30.5, 40])), Prompt([(32, 24), (50, 24, 0)])])
    assert [one.outcome for one in many] == ["hit", "miss"]
    np.testing.assert_array_equal(many[0].masks, box.masks)
    answer = raw(server, cat, points=[{"x": 50, "y": 24, "label": 0}, {"x": 32, "y": 24, "label": 1}])
    assert (answer["outcome"], answer["prediction_id"]) == ("hit", many[1].id)
    assert not many[1].mask[24, 50]
    one = cat.predict(np.array([[32, 24, 1], [50, 24, 0]]), multimask=False)
    assert (len(one.candidates), one.outcome) == (1, "miss")


def test_a_refined_mask_starts_from_the_earlier_one(server: "RealServer", client: Client, photo: Path) -> None:
    cat = client.open(photo)
    first = cat.predict([(32, 24)], box=(10, 8, 54, 40))
    for candidate in (0, 1):
        refined = cat.refine(first, 20, 10, 0, candidate=candidate)
        points = [{"x": 32, "y": 24}, {"x": 20, "y": 10, "label": 0}]
        by_hand = {"prediction_id": first.id, "index": candidate}
        answer = raw(server, cat, points=points, box=[10, 8, 54, 40], mask_input=by_hand)
        assert (answer["outcome"], answer["prediction_id"]) == ("hit", refined.id)
    alone = cat.predict(mask_input=first)
    assert alone.id == cat.predict(mask_input=(first, 0)).id != cat.predict(mask_input=(first, 2)).id
    logits = np.full((256, 256), 1.0, np.float16)
    assert cat.predict([(1, 1)], mask_input=logits).id == cat.predict([(1, 1)], mask_input=logits.astype(">f4")).id


@pytest.fixture
def finder(start_real: "StartReal") -> "Iterator[RealServer]":
    """A server whose model finds colours."""
    toy: Any = GatedConcepts()
    with start_real(backend=toy) as server:
        yield server


def boxes_of(found: Found) -> set[tuple[float, ...]]:
    return {one.box for one in found.instances}


def test_all_that_a_phrase_names_or_an_exemplar_shows_is_found(finder: "RealServer") -> None:
    with Client(finder.url) as client:
        image = client.open(squares_file())
        red = image.find("Red", score_threshold=0.1)
        assert (red.phrase, boxes_of(red), red.found, red.outcome) == ("red", {*RED_BOXES}, 3, "miss")
        for one, mask in zip(red.instances, red.masks, strict=True):
            x0, y0, x1, y1 = map(int, one.box)
            assert mask[y0:y1, x0:x1].all()
            assert mask.sum() == one.area
        assert [one.score for one in red.instances] == sorted((one.score for one in red.instances), reverse=True)
        best = image.find("red", max_instances=1)
        assert (len(best.instances), best.outcome) == (1, "hit")
        blue, again = image.find_many(["blue", "red"], score_threshold=0.1)
        assert (boxes_of(blue), boxes_of(again), again.outcome) == ({*BLUE_BOXES}, {*RED_BOXES}, "hit")
        like = image.find(exemplars=[(22, 22, 28, 30)], unlike=[(5, 5, 10, 10)])
        assert (like.phrase, boxes_of(like)) == (None, {*BLUE_BOXES})
        with pytest.raises(ProblemError, match="say what to find"):
            image.find()


def test_an_instance_is_refined_also_when_it_went_from_the_cache(finder: "RealServer") -> None:
    with Client(finder.url) as client:
        image = client.open(squares_file())
        second = image.find("red", score_threshold=0.1).instances[1]
        refined = image.refine(second, 35, 8, multimask=False)
        assert refined.id == image.predict([(35, 8)], mask_input=second.mask, multimask=False).id
        assert image.delete() > 0
        assert image.refine(second, 35, 8, multimask=False).id == refined.id


async def test_concepts_are_awaited_too(finder: "RealServer") -> None:
    async with AsyncClient(finder.url) as client:
        image = await client.open(squares_file())
        assert boxes_of(await image.find("blue")) == {*BLUE_BOXES}
        assert [each.phrase for each in await image.find_many(["red", "blue"])] == ["red", "blue"]


def test_any_mask_can_be_refined(client: Client, photo: Path) -> None:
    cat = client.open(photo)
    first = cat.predict([(32, 24)])
    by_hand = first.mask.copy()
    by_hand[:10] = True
    refined = cat.predict([(32, 24)], mask_input=by_hand)
    assert refined.id != cat.predict([(32, 24)]).id
    assert cat.predict([(32, 24)], mask_input=by_hand).outcome == "hit"
    with pytest.raises(ProblemError, match="10 × 10 pixels, and the image 64 × 48"):
        cat.predict([(32, 24)], mask_input=np.ones((10, 10), np.bool_))


def test_an_embedding_is_a_dictionary_of_arrays(server: "RealServer", client: Client, photo: Path) -> None:
    cat = client.open(photo)
    embedding = cat.embedding()
    file = httpx.get(f"{server.url}/v1/images/{cat.id}/embedding").content
    expected = safetensors.numpy.load(file)
    assert embedding.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(embedding[name], tensor)
    assert (embedding.metadata["image_id"], embedding.metadata["width"]) == (cat.id, "64")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"points": [(1,)]}, "A point is"),
        ({"points": [(1, 2, 1, 1)]}, "A point is"),
        ({"box": (1, 2, 3)}, "A box has four numbers"),
        ({"mask_input": np.zeros((48, 64), np.float32)}, "256 × 256"),
        ({"mask_input": np.zeros((48, 64, 1), np.bool_)}, "height and width"),
    ],
)
def test_a_prompt_of_another_shape_is_refused_before_it_is_sent(
    client: Client, wire: Wire, photo: Path, arguments: dict[str, Any], sentence: str
) -> None:
    cat = client.open(photo)
    wire.sent.clear()
    with pytest.raises(ValueError, match=sentence):
        cat.predict(**arguments)
    assert wire.sent == []


# -- what is spared ------------------------------------------------------------------------------------------------


def test_a_file_that_the_server_knows_is_not_sent(
    server: "RealServer", client: Client, wire: Wire, photo: Path
) -> None:
    client.open(photo)
    assert wire.sent == ["GET images", "POST images"]
    wire.sent.clear()
    for image in (photo, str(photo), photo.read_bytes()):
        assert client.open(image).click(1, 1).outcome in ("miss", "hit")
    assert not any(call == "POST images" for call in wire.sent)
    assert server.backend.encodes == 1


ASKS: dict[str, Callable[[Image], object]] = {
    "click": lambda image: image.click(32, 24).mask.sum(),
    "predict_many": lambda image: [one.id for one in image.predict_many([Prompt([(3, 3)]), Prompt(box=(1, 1, 9, 9))])],
    "embedding": lambda image: sorted(image.embedding()),
    "everything": lambda image: [found.area for found in image.everything(points_per_side=3).result()],
}


@pytest.mark.parametrize("verb", ASKS)
def test_what_the_server_has_forgotten_is_sent_again_and_the_call_repeated_once(
    server: "RealServer", client: Client, wire: Wire, photo: Path, verb: str
) -> None:
    cat = client.open(photo)
    expected = ASKS[verb](cat)
    for image in (cat, client.open(photo.read_bytes())):
        assert httpx.delete(f"{server.url}/v1/images/{cat.id}").json()["deleted"] > 0
        wire.sent.clear()
        assert ASKS[verb](image) == expected
        assert wire.sent[1] == "POST images"
        assert len(wire.sent) == 3
        assert wire.sent[0] == wire.sent[2]


def test_an_image_that_the_server_forgets_at_once_is_an_error_and_no_loop(
    server: "RealServer", client: Client, wire: Wire, photo: Path
) -> None:
    cat = client.open(photo)
    assert cat.delete() > 0
    wire.sent.clear()
    wire.before = [None, None, lambda: httpx.delete(f"{server.url}/v1/images/{cat.id}")]
    with pytest.raises(ProblemError, match="Send it again") as refused:
        cat.click(1, 1)
    assert refused.value.is_of_type("unknown-image")
    assert len(wire.sent) == 3


def test_a_file_that_changed_meanwhile_is_not_sent_as_the_other_one(client: Client, photo: Path) -> None:
    cat = client.open(photo)
    cat.delete()
    photo.write_bytes(b"another")
    with pytest.raises(ClientError, match="has changed since"):
        cat.click(1, 1)


def test_what_a_refinement_starts_from_is_asked_for_again_if_it_is_gone(
    server: "RealServer", client: Client, photo: Path
) -> None:
    cat = client.open(photo)
    second = cat.refine(cat.click(32, 24, multimask=False), 10, 10)
    third = cat.refine(second, 5, 5, 0)
    server.backend.decodes = 0
    assert httpx.delete(f"{server.url}/v1/cache", params={"model": "toy"}).json()["deleted"] > 0
    again = cat.refine(second, 5, 5, 0)
    assert (again.id, again.outcome, server.backend.decodes) == (third.id, third.outcome, 3)
    np.testing.assert_array_equal(again.masks, third.masks)


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_an_error_is_the_sentence_of_the_server(server: "RealServer", client: Client, photo: Path) -> None:
    cat = client.open(photo)
    with pytest.raises(ProblemError) as refused:
        cat.click(1000, 24)
    answer = raw(server, cat, points=[{"x": 1000, "y": 24}])
    assert (str(refused.value), refused.value.status, refused.value.type, refused.value.title) == (
        answer["detail"], 422, "urn:labeling-ground:problem:bad-prompt", answer["title"],
    )  # fmt: skip
    with pytest.raises(ProblemError, match="the prompt is empty"):
        cat.predict()


def test_an_unknown_model_and_a_broken_image_are_errors(client: Client, wire: Wire, photo: Path) -> None:
    with pytest.raises(ProblemError, match="'nope' is not served here") as unknown:
        client.open(photo, model="nope")
    assert (unknown.value.status, wire.sent) == (404, ["GET images"])
    with pytest.raises(ProblemError) as broken:
        client.open(b"no image")
    assert broken.value.status == 415


@pytest.mark.parametrize("named_for", ["the client", "the image"])
async def test_each_verb_asks_the_model_that_was_named(start_real: "StartReal", photo: Path, named_for: str) -> None:
    """And no other one: the default model has nothing to do."""
    of_client, of_image = ("classical", None) if named_for == "the client" else ("toy", "classical")
    with start_real(models=("classical",)) as server:
        with Client(server.url, model=of_client) as client:
            cat = client.open(photo, model=of_image)
            clicked = cat.click(32, 24)
            asked = [clicked, cat.box(8, 8, 40, 40), cat.predict([(9, 9)]), *cat.predict_many([Prompt([(5, 5)])])]
            asked.append(cat.refine(clicked, 20, 20))
            everything = cat.everything(points_per_side=2)
            everything.result()
            embedding = cat.embedding()
        async with AsyncClient(server.url, model=of_client) as asynchronous:
            image = await asynchronous.open(photo, model=of_image)
            asked += [await image.click(32, 25), await image.box(8, 8, 40, 41), await image.predict([(9, 8)])]
            asked += [await image.refine(asked[-1], 20, 21), *await image.predict_many([Prompt([(5, 6)])])]
            stream = await image.everything(points_per_side=3)
            await stream.result()
            other = await image.embedding()
        assert {answer.model for answer in asked} == {"classical"}
        assert {everything.model, stream.model} == {"classical"}
        assert {found.metadata["model"] for found in (embedding, other)} == {"classical"}
        assert (server.backend.encodes, server.backend.decodes) == (0, 0)


def test_a_key_is_sent_and_a_missing_one_is_an_error(start_real: "StartReal", photo: Path) -> None:
    with start_real(api_keys=["a-good-key"]) as server:
        with Client(server.url, "a-good-key") as client:
            assert client.open(photo).click(1, 1).outcome == "miss"
        with Client(server.url) as client, pytest.raises(ProblemError, match="API key") as refused:
            client.open(photo)
        assert refused.value.status == 401


def test_a_busy_server_is_asked_again(client: Client, wire: Wire, photo: Path) -> None:
    cat = client.open(photo)
    wire.sent.clear()
    wire.before = [busy("0"), busy("0")]
    assert cat.click(1, 1).outcome == "miss"
    assert len(wire.sent) == 3


@pytest.mark.parametrize(("retry_after", "calls"), [("3600", 1), ("Tue, 01 Jan 2099 00:00:00 GMT", 1), ("0", 4)])
def test_a_server_that_stays_busy_is_an_error_in_the_end(
    server: "RealServer", wire: Wire, photo: Path, retry_after: str, calls: int
) -> None:
    with Client(server.url, retry_for_s=0.35, transport=wire) as client:
        cat = client.open(photo)
        wire.sent.clear()
        wire.before = [busy(retry_after) for _ in range(10)]
        with pytest.raises(ProblemError, match="Too many wait") as refused:
            cat.click(1, 1)
    assert (refused.value.status, len(wire.sent)) == (503, calls)
    assert refused.value.retry_after_s is not None


def test_an_engine_that_comes_back_is_waited_for(server: "RealServer", client: Client, wire: Wire, photo: Path) -> None:
    cat = client.open(photo)
    server.backend.fail_decode = BackendFailed("The model is on holiday. Try again.")

    def comes_back() -> None:
        server.backend.fail_decode = None

    wire.before = [None, comes_back]
    assert cat.click(1, 1).outcome == "miss"


def test_what_is_not_busy_is_not_asked_again(client: Client, wire: Wire, photo: Path) -> None:
    cat = client.open(photo)
    wire.sent.clear()
    wire.before = [httpx.Response(502, html="<h1>Bad Gateway</h1>")]
    with pytest.raises(ProblemError, match="answered 502 Bad Gateway") as refused:
        cat.click(1, 1)
    assert (refused.value.status, refused.value.type, len(wire.sent)) == (502, "about:blank", 1)


def test_a_broken_connection_is_tried_once_more(client: Client, wire: Wire, photo: Path) -> None:
    cat = client.open(photo)
    broken = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    wire.before = [broken]
    assert cat.click(1, 1).outcome == "miss"
    wire.before = [broken, broken]
    with pytest.raises(UnreachableError, match="disconnected"):
        cat.click(2, 2)
    assert wire.before == []


def test_a_server_that_is_not_there_is_an_error_with_its_address(photo: Path) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
        client.open(photo)
    with Client("127.0.0.1:8000") as client, pytest.raises(UnreachableError, match="protocol"):
        client.open(photo)


def test_an_answer_that_is_not_of_the_api_is_an_error(client: Client, wire: Wire, photo: Path) -> None:
    cat = client.open(photo)
    for verb in ASKS.values():
        wire.before = [httpx.Response(200, html="<h1>Sign in</h1>")]
        with pytest.raises(ClientError, match="answered with text/html"):
            verb(cat)


def test_a_server_below_a_path_and_the_name_of_who_works(start_real: "StartReal", wire: Wire, photo: Path) -> None:
    with start_real(root_path="/label") as server:
        for url in (f"{server.url}/label", f"{server.url}/label/", server.url):
            with Client(url, client_id="annotator-7", transport=wire) as client:
                assert client.open(photo).click(1, 1).mask.shape == (48, 64)
    assert {headers["x-client-id"] for headers in wire.headers} == {"annotator-7"}


# -- everything ----------------------------------------------------------------------------------------------------


def test_everything_comes_row_by_row_and_ends_with_the_answer(
    server: "RealServer", client: Client, photo: Path
) -> None:
    cat = client.open(photo)
    options = {"points_per_side": 5, "pred_iou_thresh": 0.0}
    for outcome in ("miss", "hit"):
        grid = cat.everything(points_per_side=5, pred_iou_thresh=0.0)
        assert (len(grid), grid.points, grid.width, grid.height) == (5, 25, 64, 48)
        rows = list(grid)
        assert len(rows) == len(grid)
        assert (rows[-1].done, rows[-1].points, grid.outcome) == (25, 25, outcome)
        assert [one.done for one in rows] == sorted(one.done for one in rows)
        answer = httpx.post(f"{server.url}/v1/images/{cat.id}/everything", json=options).json()
        assert rows[-1].masks == grid.masks == grid.result()
        assert [found.id for found in grid.masks] == [one["id"] for one in answer["masks"]]
        for found, one in zip(grid.masks, answer["masks"], strict=True):
            np.testing.assert_array_equal(found.mask, reference(one["rle"]))
            assert (found.score, found.stability, list(found.point)) == (one["score"], one["stability"], one["point"])


def test_who_leaves_everything_early_ends_the_work(server: "RealServer", client: Client, photo: Path) -> None:
    cat = client.open(photo)
    server.backend.decode_may_go_on.clear()
    with cat.everything(points_per_side=9):
        pass
    soon(lambda: server.app_state.models.default.everything.jobs.running == 0)
    server.backend.decode_may_go_on.set()
    assert cat.click(1, 1).outcome == "miss"


def lines(*events: dict[str, Any]) -> httpx.Response:
    content = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    return httpx.Response(200, content=content, headers={"Content-Type": "application/x-ndjson"})


START = {"event": "start", "points": 4, "width": 64, "height": 48, "model": "toy", "model_version": "toy@1",
         "options": {"points_per_side": 2}}  # fmt: skip


def test_a_stream_that_fails_or_is_cut_off_is_an_error(client: Client, wire: Wire, photo: Path) -> None:
    cat = client.open(photo)
    wire.before = [lines(START, {"event": "progress", "done": 2, "points": 4, "standing": [], "masks": []})]
    grid = cat.everything()
    assert [next(iter(grid)).done] == [2]
    with pytest.raises(UnreachableError, match="cut off"):
        grid.result()
    problem = {"event": "problem", "status": 503, "type": "urn:labeling-ground:problem:backend-failed",
               "detail": "The model is on holiday.", "title": "…", "retry_after": 1}  # fmt: skip
    wire.before = [lines(START, problem)]
    with pytest.raises(ProblemError, match="on holiday") as failed:
        cat.everything().result()
    assert (failed.value.status, failed.value.retry_after_s) == (503, 1)
    wire.before = [lines()]
    with pytest.raises(UnreachableError, match="cut off"):
        cat.everything()


# -- pixels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 64), (48, 64, 4)])
def test_an_array_is_sent_as_its_pixels(server: "RealServer", client: Client, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
    if len(shape) == 3 and shape[2] == 4:
        pixels[..., 3] = 255
    image = client.open(pixels)
    assert image.click(3, 3).mask.shape == shape[:2]
    shown = Pillow.open(io.BytesIO(httpx.get(f"{server.url}/v1/images/{image.id}/preview").content))
    expected = pixels[..., None].repeat(3, 2) if pixels.ndim == 2 else pixels[..., :3]
    np.testing.assert_array_equal(np.asarray(shown), expected)
    # Equal pixels are one image, whatever their memory looks like and whatever a file said beside them.
    picture = Pillow.fromarray(pixels)
    picture.info = {"dpi": (300, 300), "icc_profile": b"profile", "comment": b"!"}
    assert client.open(np.asfortranarray(pixels)).id == client.open(picture).id == image.id
    assert server.backend.encodes == 1


def test_pillow_images_of_other_modes_are_sent_as_what_they_show(client: Client) -> None:
    colours = Pillow.fromarray(np.random.default_rng(6).integers(0, 256, (48, 64, 3), np.uint8))
    for mode in ("P", "CMYK", "YCbCr"):
        picture = colours.convert(mode)
        assert client.open(picture).id == client.open(picture.convert("RGB")).id
    clear = colours.convert("P")
    clear.info["transparency"] = 0
    assert client.open(clear).id == client.open(clear.convert("RGBA")).id != client.open(colours.convert("P")).id
    assert client.open(np.ones((8, 8), np.bool_)).id == client.open(np.full((8, 8), 255, np.uint8)).id


def test_a_deep_image_is_stretched_where_it_is_wanted(server: "RealServer", client: Client, wire: Wire) -> None:
    pixels = np.random.default_rng(7).integers(0, 1000, (48, 64), np.uint16)
    plain, stretched = client.open(pixels), client.open(pixels.astype(">u2"), stretch=(0.5, 99.50))
    assert stretched.id == f"{plain.id}~stretch-0.5-99.5"
    assert wire.sent.count("POST images") == 1, "a known file is not sent again to be read in another way"
    shown = Pillow.open(io.BytesIO(httpx.get(f"{server.url}/v1/images/{stretched.id}/preview").content))
    assert np.asarray(shown).max() == 255
    stretched.delete()
    again = client.open(pixels, stretch=(0.5, 99.5))
    assert (again.id, wire.sent.count("POST images")) == (stretched.id, 2)
    assert again.click(3, 3).outcome == "miss"


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((0, 4), np.uint8),
        Pillow.new("F", (4, 4)),
        Pillow.new("I", (4, 4)),
    ],
)
def test_pixels_without_a_rule_are_refused(client: Client, wire: Wire, image: Any) -> None:
    with pytest.raises(ValueError, match=r"uint8|Convert it"):
        client.open(image)
    assert wire.sent == []


def test_what_is_no_image_is_refused(client: Client, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not list"):
        client.open([[1, 2], [3, 4]])  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        client.open(tmp_path / "none.jpg")


# -- the asynchronous twin -----------------------------------------------------------------------------------------


async def test_the_asynchronous_client_does_the_same(server: "RealServer", photo: Path) -> None:
    with Client(server.url) as blocking:
        cat = blocking.open(photo)
        first = cat.click(32, 24)
        async with AsyncClient(server.url) as client:
            same = await client.open(photo)
            assert (same.id, same.width, same.height, same.note) == (cat.id, cat.width, cat.height, cat.note)
            hit = await same.click(32, 24)
            assert (hit.id, hit.outcome) == (first.id, "hit")
            np.testing.assert_array_equal(hit.mask, first.mask)
            assert (await same.box(1, 2, 30, 40)).id == cat.box(1, 2, 30, 40).id
            assert (await same.refine(hit, 3, 3, 0)).id == cat.refine(first, 3, 3, 0).id
            assert (await same.predict([(5, 5)], multimask=False)).id == cat.predict([(5, 5)], multimask=False).id
            [one] = await same.predict_many([Prompt([(6, 6)])])
            assert one.id == cat.click(6, 6).id
            assert (await same.embedding()).metadata == cat.embedding().metadata
            async with await same.everything(points_per_side=3) as grid:
                rows = [row async for row in grid]
            assert len(rows) == len(grid) == 3
            assert [found.id for found in await grid.result()] == [
                found.id for found in cat.everything(points_per_side=3).result()
            ]
            assert await same.delete() > 0
            assert (await same.click(32, 24)).outcome == "miss"
            with pytest.raises(ProblemError, match="image"):
                await same.click(1000, 1)
        assert server.backend.encodes == 2
    async with AsyncClient("http://127.0.0.1:9") as client:
        with pytest.raises(UnreachableError):
            await client.open(photo)


async def test_an_asynchronous_stream_that_is_cut_off_is_an_error(photo: Path) -> None:
    about = {"width": 64, "height": 48}
    played = [httpx.Response(200, json=about), busy("0"), lines(START)]
    transport = httpx.MockTransport(lambda request: played.pop(0))
    async with AsyncClient("http://server", transport=transport) as client:
        grid = await (await client.open(photo)).everything()
        with pytest.raises(UnreachableError, match="cut off"):
            await grid.result()
    assert played == []


def test_both_clients_have_the_same_verbs() -> None:
    def verbs(kind: type) -> dict[str, list[str]]:
        public = {name: verb for name, verb in vars(kind).items() if not name.startswith("_")}
        assert all(verb.__doc__ for verb in public.values())
        return {name: list(inspect.signature(verb).parameters) for name, verb in public.items()}

    assert verbs(Image) == verbs(AsyncImage)
    assert verbs(Client)["open"] == verbs(AsyncClient)["open"]


if TYPE_CHECKING:  # what a type checker makes of the verbs

    async def types(blocking: Client, client: AsyncClient) -> None:
        assert_type(blocking.open("cat.jpg").click(412, 301), Prediction)
        assert_type(blocking.open("cat.jpg").click(412, 301).mask, NDArray[np.bool_])
        assert_type(await (await client.open("cat.jpg")).predict_many([]), list[Prediction])
        blocking.open("cat.jpg").click("a", 1)  # type: ignore[arg-type]
        blocking.open("cat.jpg").everything(points_per_sid=1)  # type: ignore[call-arg]


async def test_the_examples_of_the_readme_run(
    finder: "RealServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pillow.fromarray(squares()).resize((1024, 768), Pillow.Resampling.NEAREST).save(tmp_path / "cat.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    shown: list[list[FoundMask]] = []
    lengths: list[int] = []

    def tqdm(rows: Everything) -> Everything:
        """Stands for the progress bar, which asks for the length first."""
        lengths.append(len(rows))
        return rows

    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=tqdm))
    names: dict[str, Any] = {"show": shown.append}
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        source = block.replace("http://127.0.0.1:8000", finder.url).replace("points_per_side=32", "")
        source = source.replace("everything()", "everything(points_per_side=4)")
        code = compile(source, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)
        if inspect.isawaitable(running):
            await running
    assert (lengths, len(shown)) == ([4], 8)
    assert [found.id for found in shown[-1]] == [found.id for found in names["masks"]]
    assert (names["mask"].shape, finder.backend.encodes) == ((768, 1024), 1)


# -- the distribution ----------------------------------------------------------------------------------------------


def test_it_needs_three_packages_and_nothing_of_the_server() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert [name.partition(">=")[0] for name in project["dependencies"]] == ["httpx", "numpy", "pillow"]
    listing = "import sys, labeling_ground_client; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True, timeout=120)
    unwanted = {"labeling_ground", "safetensors", "pycocotools", "pydantic", "cv2", "scipy"}
    assert "labeling_ground_client" in loaded.stdout.split()
    assert not unwanted & set(loaded.stdout.split())


def test_the_wheel_has_its_types_and_its_licence(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True, timeout=120)
    [wheel] = tmp_path.iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert "labeling_ground_client/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert (PROJECT / "LICENSE").read_bytes() == (PROJECT.parents[1] / "LICENSE").read_bytes()
