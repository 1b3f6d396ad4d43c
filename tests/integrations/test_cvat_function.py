"""``integrations/cvat_function.py`` against a real server, with stand-ins for cvat-sdk's names."""

import ast
import importlib.util
import io
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from tests.api.conftest import LONG_S, GatedConcepts, RealServer, StartReal
from tests.coloured import BLUE_BOXES, RED_BOXES, squares
from tests.integrations.cvat_names import BadFunctionError, Context, Prompts, decode_mask, installed

from labeling_ground.codec import mask as mask_codec
from labeling_ground.errors import Overloaded, StoreFailed

FILE = Path(__file__).parents[2] / "integrations" / "cvat_function.py"
WIDTH, HEIGHT = 64, 48


@pytest.fixture
def function() -> Iterator[Any]:
    """The file as a module, as cvat-cli loads it."""
    with installed():
        spec = importlib.util.spec_from_file_location("__cvat_function__", FILE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def image(make_image: Callable[..., bytes]) -> Pillow.Image:
    """A frame of a task, as Pillow reads it."""
    return Pillow.open(io.BytesIO(make_image(WIDTH, HEIGHT)))


def stateless(server: RealServer, image_id: str, **prompt: Any) -> NDArray[np.bool_]:
    """The best mask by ``/v1``."""
    answer = httpx.post(f"{server.url}/v1/images/{image_id}/masks", json=prompt, timeout=LONG_S)
    assert answer.status_code == 200, answer.text
    rle = answer.json()["masks"][0]["rle"]
    return mask_codec.from_rle(rle["size"], rle["counts"])


def shown(shape: Any) -> NDArray[np.bool_]:
    return decode_mask(shape.points, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("prompts", "prompt"),
    [
        (Prompts([(20.25, 17.75)]), {"points": [{"x": 20.25, "y": 17.75, "label": 1}]}),
        (
            Prompts([(20.5, 17)], [(23, 17)]),
            {"points": [{"x": 20.5, "y": 17, "label": 1}, {"x": 23, "y": 17, "label": 0}]},
        ),
        (Prompts(bounding_box=((0, 0), (12.5, 9.5))), {"box": [0, 0, 12.5, 9.5]}),
        (
            Prompts((), [(5, 5)], ((0, 0), (30, 30))),
            {"points": [{"x": 5, "y": 5, "label": 0}], "box": [0, 0, 30, 30]},
        ),
    ],
    ids=["point", "negative point", "box at the corner", "box and negative point"],
)
def test_the_interactor_gives_the_pixels_of_v1(
    function: Any, image: Pillow.Image, start_real: StartReal, prompts: Prompts, prompt: dict[str, Any]
) -> None:
    with start_real() as server:
        interactor = function.create(server.url)
        prepared = interactor.preprocess_image(None, image)
        (shape,) = interactor.detect(None, prepared, prompts)
        expected = stateless(server, prepared.image_id, **prompt)
        assert shape.type == "mask"
        assert expected.any()
        assert (shown(shape) == expected).all()
        (score,) = shape.attributes
        assert (score.spec_id, score.value) == (0, "0.9000")  # text: numbers are dropped by CVAT
        assert (server.backend.encodes, server.backend.decodes) == (1, 1)


def test_an_image_is_sent_once_and_again_where_the_server_forgot_it(
    function: Any, image: Pillow.Image, start_real: StartReal
) -> None:
    with start_real() as server:
        interactor = function.create(server.url)
        prepared = interactor.preprocess_image(None, image)
        first = interactor.detect(None, prepared, Prompts([(20, 17)]))
        interactor.detect(None, prepared, Prompts([(30, 17)]))
        # A second agent has the same frame of the same pixels, from a file of another format.
        again = Pillow.open(io.BytesIO(_as_file(image, "BMP")))
        assert function.create(server.url).preprocess_image(None, again) == prepared
        assert server.backend.encodes == 1
        gone = httpx.delete(f"{server.url}/v1/images/{prepared.image_id}", timeout=LONG_S)
        assert gone.json()["deleted"] > 0
        assert interactor.detect(None, prepared, Prompts([(20, 17)])) == first
        assert server.backend.encodes == 2


def test_a_function_asks_the_model_that_it_was_made_for(
    function: Any, image: Pillow.Image, start_real: StartReal
) -> None:
    with start_real() as server:
        for model in ("", "toy"):
            interactor = function.create(server.url, model=model)
            (shape,) = interactor.detect(None, interactor.preprocess_image(None, image), Prompts([(20, 17)]))
            assert shown(shape).any()
        other = function.create(server.url, model="another")
        with pytest.raises(BadFunctionError, match=r"'another' is not served here\. Served: toy"):
            other.detect(None, other.preprocess_image(None, image), Prompts([(20, 17)]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F", "YCbCr"])
def test_frames_of_every_mode_are_taken(function: Any, image: Pillow.Image, start_real: StartReal, mode: str) -> None:
    frame = Pillow.new("I;16", image.size, 900) if mode == "I;16" else image.convert(mode)
    with start_real() as server:
        interactor = function.create(server.url)
        (shape,) = interactor.detect(None, interactor.preprocess_image(None, frame), Prompts([(20, 17)]))
        assert shown(shape).any()


def test_a_frame_is_not_turned_away_from_its_prompts(function: Any, image: Pillow.Image, start_real: StartReal) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    frame = Pillow.open(io.BytesIO(_as_file(image, "JPEG", exif=exif)))
    with start_real() as server:
        interactor = function.create(server.url)
        (shape,) = interactor.detect(None, interactor.preprocess_image(None, frame), Prompts([(60, 10)]))
        assert shown(shape)[10, 60]


def test_a_point_on_the_far_edge_belongs_to_the_last_pixel(
    function: Any, image: Pillow.Image, start_real: StartReal
) -> None:
    with start_real() as server:
        interactor = function.create(server.url)
        prepared = interactor.preprocess_image(None, image)
        (shape,) = interactor.detect(None, prepared, Prompts([(WIDTH, HEIGHT)]))
        assert shown(shape)[HEIGHT - 1, WIDTH - 1]
        with pytest.raises(BadFunctionError, match=r"The point \(65, 5\) is outside the image"):
            interactor.detect(None, prepared, Prompts([(WIDTH + 1, 5)]))


def test_refusals_carry_the_sentence_of_the_server(function: Any, image: Pillow.Image, start_real: StartReal) -> None:
    with start_real(api_keys=("key-of-the-team",), max_image_bytes=1 << 20) as server:
        with pytest.raises(BadFunctionError, match="API key"):
            _click(function.create(server.url), image)
        interactor = function.create(server.url, "key-of-the-team")
        assert len(_click(interactor, image)) == 1
        with pytest.raises(BadFunctionError, match="the prompt is empty: give points"):
            interactor.detect(None, interactor.preprocess_image(None, image), Prompts())
        noise = np.random.default_rng(1).integers(0, 256, (700, 700, 3), np.uint8)
        with pytest.raises(BadFunctionError, match=r"larger than .* bytes"):
            _click(interactor, Pillow.fromarray(noise))


def test_the_key_may_be_in_the_environment(
    function: Any, image: Pillow.Image, start_real: StartReal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABELING_GROUND_API_KEY", "key-of-the-team")
    with start_real(api_keys=("key-of-the-team",)) as server:
        assert len(_click(function.create(server.url), image)) == 1


def test_a_busy_server_is_waited_for(function: Any, image: Pillow.Image, start_real: StartReal) -> None:
    with start_real() as server:
        interactor = function.create(server.url)
        _click(interactor, image)
        server.backend.fail_decode = Overloaded("Too many wait.", retry_after=1)
        begun = server.backend.decodes

        def recover() -> None:
            while server.backend.decodes == begun:
                threading.Event().wait(0.01)
            server.backend.fail_decode = None

        helper = threading.Thread(target=recover)
        helper.start()
        assert len(_click(interactor, image, (40, 20))) == 1
        helper.join(LONG_S)


def test_what_does_not_get_better_in_time_is_said(function: Any, image: Pillow.Image, start_real: StartReal) -> None:
    with start_real() as server:
        interactor = function.create(server.url, timeout_s=0.5)
        server.backend.fail_decode = Overloaded("Too many wait.", retry_after=30)
        with pytest.raises(BadFunctionError, match="Too many wait"):
            _click(interactor, image)
    with pytest.raises(BadFunctionError, match="does not answer"):
        _click(interactor, image)


def test_an_image_is_sent_where_the_cache_does_not_answer_whether_it_is_kept(
    function: Any, image: Pillow.Image, start_real: StartReal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: str) -> None:
        raise StoreFailed("It is down.")

    with start_real() as server:
        [tier] = server.app_state.predictor.store.lower
        monkeypatch.setattr(tier.store, "get", fail)
        assert len(_click(function.create(server.url, timeout_s=5), image)) == 1
        assert server.backend.encodes == 1


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (404, {}, "answered 404"),
        (502, {}, "answered 502"),
        (302, {"Location": "http://elsewhere.example/"}, "answered 302"),
        (200, {}, "does not answer"),
    ],
)
def test_what_is_not_labeling_ground_is_named(
    function: Any, image: Pillow.Image, status: int, headers: dict[str, str], expected: str
) -> None:
    with _something_else(status, headers) as url, pytest.raises(BadFunctionError, match=expected):
        _click(function.create(url, "key"), image)


@pytest.mark.parametrize(
    "given", [{"url": "localhost:8000"}, {"url": "file:///x"}, {"url": "http://x", "kind": "tracker"}]
)
def test_parameters_that_make_no_sense_are_named(function: Any, given: dict[str, str]) -> None:
    wrong = "kind" if "kind" in given else "url"
    with pytest.raises(BadFunctionError, match=f"{wrong} must .*{re.escape(repr(given[wrong]))}"):
        function.create(**given)


def test_the_detector_gives_the_masks_of_everything(function: Any, image: Pillow.Image, start_real: StartReal) -> None:
    thresholds = {"pred_iou_thresh": 0.5}
    with start_real() as server:
        detector = function.create(server.url, kind="detector", label="cell", points_per_side=4)
        assert [(label.name, label.id) for label in detector.spec.labels] == [("cell", 0)]
        found = detector.detect(Context(conf_threshold=0.5), image)
        image_id = function.picture(image).image_id
        address = f"{server.url}/v1/images/{image_id}/everything"
        answer = httpx.post(address, json={"points_per_side": 4, **thresholds}, timeout=LONG_S).json()
        assert answer["outcome"] == "hit"  # the very same question
        expected = [mask_codec.from_rle(one["rle"]["size"], one["rle"]["counts"]) for one in answer["masks"]]
        assert len(expected) > 1
        assert [(shape.type, shape.label_id) for shape in found] == [("mask", 0)] * len(expected)
        assert all((shown(shape) == mask).all() for shape, mask in zip(found, expected, strict=True))
        assert detector.detect(Context(conf_threshold=1.0), image) == []


def test_the_detector_gives_outer_rings_where_masks_are_not_wanted(
    function: Any, image: Pillow.Image, start_real: StartReal
) -> None:
    with start_real() as server:
        detector = function.create(server.url, kind="detector", points_per_side=4)
        found = detector.detect(Context(conf_threshold=0.5, conv_mask_to_poly=True), image)
        assert len(found) > 1
        assert {shape.type for shape in found} == {"polygon"}
        assert all(len(shape.points) >= 6 and len(shape.points) % 2 == 0 for shape in found)
    ring = np.zeros((HEIGHT, WIDTH), np.bool_)
    ring[10:30, 10:30] = True
    ring[15:25, 15:25] = False
    rings = mask_codec.to_polygons(ring)
    outer = [[list(point) for point in one] for one in rings if function._is_outer([list(point) for point in one])]
    assert len(rings) == 2
    assert len(outer) == 1
    assert min(x for x, _ in outer[0]) == 10


def test_the_finder_gives_what_its_labels_name_under_them(function: Any, start_real: StartReal) -> None:
    image = Pillow.fromarray(squares())
    toy: Any = GatedConcepts()
    with start_real(backend=toy) as server:
        finder = function.create(server.url, kind="finder", label="red, blue,")
        assert [(label.name, label.id) for label in finder.spec.labels] == [("red", 0), ("blue", 1)]
        found = finder.detect(Context(conf_threshold=0.1), image)
        for number, boxes in enumerate((RED_BOXES, BLUE_BOXES)):
            expected = np.zeros((HEIGHT, WIDTH), np.bool_)
            for x0, y0, x1, y1 in boxes:
                expected[y0:y1, x0:x1] = True
            own = [shape for shape in found if shape.label_id == number]
            assert [shape.type for shape in own] == ["mask"] * len(boxes)
            assert (np.any([shown(shape) for shape in own], axis=0) == expected).all()
        assert len(finder.detect(Context(), image)) == 4, "the server's own least score"
        rings = finder.detect(Context(conf_threshold=0.1, conv_mask_to_poly=True), image)
        assert [(shape.type, shape.label_id) for shape in rings] == [("polygon", 0)] * 3 + [("polygon", 1)] * 2
        assert toy.asked.count("detect") == 2
    with start_real() as server, pytest.raises(BadFunctionError, match="takes no text"):
        function.create(server.url, kind="finder", label="red").detect(Context(), image)
    with pytest.raises(BadFunctionError, match="say what to find"):
        function.create("http://localhost:1", kind="finder", label=" , ")


def test_a_mask_with_nothing_in_it_is_one_pixel_of_background(function: Any) -> None:
    nothing = function.base64.b64encode(mask_codec.to_png(np.zeros((HEIGHT, WIDTH), np.bool_))).decode()
    assert function._runs({"png": nothing, "bbox": [0, 0, 0, 0]}) == [1, 0, 0, 0, 0]


def test_the_file_needs_cvat_sdk_pillow_and_the_standard_library_only() -> None:
    tree = ast.parse(FILE.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}
    assert roots - sys.stdlib_module_names == {"cvat_sdk", "PIL"}


def _click(interactor: Any, image: Pillow.Image, at: tuple[float, float] = (20, 17)) -> list[Any]:
    shapes: list[Any] = interactor.detect(None, interactor.preprocess_image(None, image), Prompts([at]))
    return shapes


def _as_file(image: Pillow.Image, form: str, **saving: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **saving)
    return out.getvalue()


@contextmanager
def _something_else(status: int, headers: dict[str, str]) -> Iterator[str]:
    """A web server that answers everything in one way."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(LONG_S)
