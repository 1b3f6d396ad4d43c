"""Decoding in the browser: a real decoder in a real worker gives the server's masks, and steps back when it cannot."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.inference.engines import disc_files
from tests.needs import needs, needs_browser_runtime
from tests.sam.references_sam2 import exported_sam2
from tests.web.both_ways import both_ways
from tests.web.conftest import PLAIN, Served
from tests.web.labeler import Labeler, dropped, reload, requests

from labeling_ground.codec import mask as mask_codec
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.sam.family import Family

COFFEE = (600, 400)
KEY = "a-key-of-the-annotators"
TOLERANCE = 1e-4
"""Share of a mask's pixels that may differ from the server's: both compute in fp32, in another order."""

PROMPTS = [
    {"points": [{"x": 300, "y": 200, "label": 1}], "box": None},
    {"points": [{"x": 20, "y": 390, "label": 1}, {"x": 310, "y": 210, "label": 0}], "box": None},
    {"points": [], "box": [100, 80, 420, 330]},
    {"points": [{"x": 250, "y": 150, "label": 1}, {"x": 410, "y": 300, "label": 0}], "box": [80, 60, 500, 390]},
    {"points": [{"x": 40 * i + 7, "y": 25 * i + 3, "label": int(i % 4 != 0)} for i in range(14)], "box": None},
]


def light_encoder(family: Family, like: Path, target: Path) -> None:
    """Write an encoder that only averages and mixes colours: it takes no time, and its embedding depends on the image.

    Its metadata is that of the decoder ``like``, with which it has to agree.
    """
    onnx = needs("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(9)
    nodes, weights, outputs = [], [], []
    for name, shape in family.embedding_shapes.items():
        step = 1024 // shape[2]
        nodes.append(
            helper.make_node("AveragePool", ["image"], [f"{name}_seen"], kernel_shape=[step] * 2, strides=[step] * 2)
        )
        nodes.append(helper.make_node("Conv", [f"{name}_seen", f"{name}_mixed"], [name]))
        mixed = rng.normal(size=(shape[1], 3, 1, 1)).astype(np.float32)
        weights.append(numpy_helper.from_array(mixed, f"{name}_mixed"))
        outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 3, 1024, 1024))
    graph = helper.make_graph(nodes, "encoder", [image], outputs, weights)
    theirs = onnx.load(str(like))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=theirs.ir_version)
    model.metadata_props.extend(theirs.metadata_props)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def store_of(folder: Path, family: Family, decoder: Path, fast_decoder: Path) -> Path:
    """A real model's decoders behind that encoder."""
    encoder = folder / "encoder.onnx"
    light_encoder(family, decoder, encoder)
    store = ModelStore(folder / "store")
    for role, file in ((Role.ENCODER, encoder), (Role.DECODER, decoder), (Role.FAST_DECODER, fast_decoder)):
        store.add(file, name="my-sam", role=role, family=family.value)
    return store.folder


def discs(folder: Path) -> Path:
    """SAM with masks that are discs."""
    made = disc_files()
    return store_of(folder, Family.SAM, made["decoder_path"], made["fast_decoder_path"])


def sam2(folder: Path) -> Path:
    """SAM 2.1 with random weights, whose masks are noise."""
    made = exported_sam2()[0]
    return store_of(folder, Family.SAM2, made / "decoder.onnx", made / "decoder-fast.onnx")


def serving(folder: Path, models: Path, **settings: str) -> Served:
    chosen = {"MODELS_DIR": str(models), "MODEL": "my-sam", "ENGINE": "onnx", "API_KEYS": KEY, **settings}
    return Served(folder, **{f"LABELING_GROUND_{name}": value for name, value in chosen.items()})


@pytest.fixture(scope="module")
def segmenting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of SAM with the runtime, for those with a key."""
    needs("onnxruntime")
    needs_browser_runtime()
    server = serving(tmp_path_factory.mktemp("segmenting"), discs(tmp_path_factory.mktemp("discs")))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def context(context: Any) -> Any:
    """With the key."""
    keep = f"sessionStorage.setItem('labeling-ground-key', '{KEY}')"
    context.add_init_script(f"if (location.protocol === 'http:') {keep}")  # an empty page has nothing to keep it in
    return context


def opened(context: Any, url: str, photo: Path) -> Labeler:
    labeler = Labeler(context.new_page(), url)
    labeler.page.uncheck("#hover")
    labeler.open(photo)
    return labeler


def switch_on(labeler: Labeler, state: str = "ready") -> str:
    """Switch it on and wait until it is ``state``; returns what the page says of it."""
    for _ in range(5):
        with dropped(labeler.page) as missing:
            labeler.page.check("#decode-here")
            settled = "#decode-state[data-state=ready], #decode-state[data-state=unfit]"
            reached = labeler.page.wait_for_selector(settled, state="attached").get_attribute("data-state")
        if reached == state or not missing:
            break
        labeler.page.uncheck("#decode-here")  # what the worker loads is not asked for again by itself
    labeler.page.wait_for_selector(f"#decode-state[data-state={state}]", state="attached")
    said: str = labeler.page.locator("#decode-state").inner_text()
    return said


def outcome_of_a_click(labeler: Labeler, x: int = 300, y: int = 200) -> str:
    """How a click is answered; the object is finished."""
    labeler.begin(x, y, COFFEE)
    labeler.page.wait_for_selector("#prompt-bar[data-mask=yes]")
    outcome: str = labeler.page.locator("#badge").get_attribute("data-outcome")
    labeler.finish()
    return outcome


def check_both_ways(page: Any) -> dict[str, Any]:
    """The same prompts decoded here and there: the same candidates, scores and pixels."""
    for _ in range(5):
        with dropped(page) as missing:
            got = both_ways(page, PROMPTS)
        if not missing:
            break
    assert got["trouble"] is None
    assert len(got["found"]) == len(PROMPTS)
    for here, there in got["found"]:
        assert (here["outcome"], here["model"]) == ("here", there["model"])
        assert len(here["masks"]) == len(there["masks"]) == 3
        for mine, theirs in zip(here["masks"], there["masks"], strict=True):
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
            pixels, wanted = (mask_codec.from_rle(one["rle"]["size"], one["rle"]["counts"]) for one in (mine, theirs))
            assert pixels.shape == wanted.shape == COFFEE[::-1]
            assert mine["area"] == int(pixels.sum()) > 0
            assert np.mean(pixels != wanted) <= TOLERANCE
    return got


@pytest.mark.parametrize("cores", [2, 3])
def test_masks_decoded_in_the_browser_are_the_servers(
    segmenting: Served, context: Any, photos: dict[str, Path], cores: int
) -> None:
    """By clicks, boxes and many points; with a thread, and with two where the browser has a third core to spare."""
    context.add_init_script(f"Object.defineProperty(navigator, 'hardwareConcurrency', {{value: {cores}}})")
    labeler = opened(context, segmenting.url, photos["coffee"])
    assert check_both_ways(labeler.page)["isolated"]


@pytest.mark.slow
def test_masks_of_sam_2_are_the_servers_too(
    context: Any, photos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Another frame, other tokens, three tensors."""
    needs("onnxruntime")
    needs_browser_runtime()
    server = serving(tmp_path_factory.mktemp("sam2"), sam2(tmp_path_factory.mktemp("models")))
    try:
        server.start()
        check_both_ways(opened(context, server.url, photos["coffee"]).page)
    finally:
        server.kill()


def test_an_annotator_decodes_in_the_browser(
    segmenting: Served, context: Any, photos: dict[str, Path], shots: Path, tmp_path: Path
) -> None:
    """The badge says so, no prompt reaches the server, the choice outlives a reload, and clicks a dead server."""
    labeler = opened(context, segmenting.url, photos["coffee"])
    page = labeler.page
    asked = requests(page, lambda request: request.url.endswith("/masks"))
    assert outcome_of_a_click(labeler) != "here"
    assert len(asked) == 1
    assert switch_on(labeler) == "Clicks need no server."
    assert outcome_of_a_click(labeler, 320, 210) == "here"
    assert page.locator("#badge b").inner_text() == "in the browser"
    assert "all of it in this browser" in page.locator("#badge").get_attribute("title")
    labeler.drag((100, 80, 420, 330), COFFEE)
    page.screenshot(path=shots / "decoded-here.png")
    labeler.finish()
    assert len(asked) == 1
    reload(page)
    labeler.wait_for_start()
    labeler.wait()  # without an image, ready would mean nothing
    page.wait_for_selector("#decode-state[data-state=ready]")
    segmenting.kill()
    assert outcome_of_a_click(labeler, 200, 180) == "here"
    segmenting.start()
    page.check("#hover")
    page.mouse.move(*labeler.place(250, 250, COFFEE))
    page.mouse.move(*labeler.place(260, 240, COFFEE))
    assert outcome_of_a_click(labeler, 260, 240) == "here"
    assert len(asked) == 1
    coco = labeler.coco(tmp_path)
    assert len(coco["annotations"]) == 5
    page.uncheck("#decode-here")
    page.uncheck("#hover")
    assert outcome_of_a_click(labeler, 330, 220) != "here"
    assert len(asked) == 2


@pytest.mark.parametrize("status", [404, 500])
def test_without_the_decoder_the_server_decodes(
    segmenting: Served, context: Any, photos: dict[str, Path], status: int
) -> None:
    """And the page says why, in its panel and at the badge."""
    labeler = opened(context, segmenting.url, photos["coffee"])
    problem = '{"type": "about:blank", "detail": "The dog ate it."}'
    labeler.page.route("**/decoder?*", lambda route: route.fulfill(status=status, body=problem))
    said = switch_on(labeler, "unfit")
    assert "The server decodes" in said
    assert "The dog ate it." in said
    assert outcome_of_a_click(labeler) != "here"
    assert "The dog ate it." in labeler.page.locator("#badge").get_attribute("title")


def test_an_embedding_that_is_not_to_be_had_is_the_servers_business(
    segmenting: Served, context: Any, photos: dict[str, Path]
) -> None:
    labeler = opened(context, segmenting.url, photos["coffee"])
    page = labeler.page
    page.route("**/embedding", lambda route: route.fulfill(status=404, body='{"detail": "It is gone."}'))
    assert "It is gone." in switch_on(labeler, "unfit")
    assert outcome_of_a_click(labeler) != "here"
    page.unroute("**/embedding")
    page.uncheck("#decode-here")
    switch_on(labeler)
    assert outcome_of_a_click(labeler) == "here"


def test_a_worker_that_dies_leaves_the_clicks_to_the_server(
    segmenting: Served, context: Any, photos: dict[str, Path]
) -> None:
    labeler = opened(context, segmenting.url, photos["coffee"])
    switch_on(labeler)
    assert outcome_of_a_click(labeler) == "here"
    [worker] = labeler.page.workers
    with worker.expect_event("close"):
        worker.evaluate("setTimeout(() => { throw new Error('out of luck'); }, 0)")
    assert outcome_of_a_click(labeler, 320, 210) != "here"
    assert "out of luck" in labeler.page.locator("#decode-state").inner_text()


def test_on_plain_http_from_another_machine_one_thread_decodes(
    segmenting: Served, context: Any, photos: dict[str, Path]
) -> None:
    """Such a page is not isolated, and the browser has nothing to complain about."""
    labeler = opened(context, f"http://{PLAIN}:{segmenting.port}/", photos["coffee"])
    assert not labeler.page.evaluate("crossOriginIsolated")
    switch_on(labeler)
    assert outcome_of_a_click(labeler) == "here"


def test_without_the_runtime_the_server_decodes(context: Any, photos: dict[str, Path], tmp_path: Path) -> None:
    """As on every server that was not given it."""
    server = Served(tmp_path, LABELING_GROUND_BROWSER_RUNTIME_DIR=str(tmp_path / "nothing"))
    try:
        server.start()
        labeler = opened(context, server.url, photos["coffee"])
        assert "ONNX Runtime Web is not installed" in switch_on(labeler, "unfit")
        assert outcome_of_a_click(labeler) != "here"
    finally:
        server.kill()
