"""Roboflow's real SDK against the server of a test."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest
from tests.api.conftest import LONG_S, GatedConcepts
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file

from labeling_ground.codec import mask as mask_codec

if TYPE_CHECKING:
    from tests.api.conftest import RealServer, StartReal

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parent / "drivers" / "roboflow.py"
WIDTH, HEIGHT = 500, 340
KEY = "a-long-key-for-ann"
CLICK = {"points": [{"x": 150, "y": 122, "positive": True}]}
BOX = {"box": {"x": 200, "y": 100, "width": 101, "height": 60}}
"""By its centre."""


def call(python: Path, url: str, image: Path, *calls: tuple[str, dict[str, Any]], **how: Any) -> list[Any]:
    told = {"url": url, "key": None, "transport": None, "image": str(image), "calls": calls, **how}
    done = subprocess.run(
        [python, DRIVER], input=json.dumps(told), stdout=subprocess.PIPE, text=True, timeout=2 * LONG_S, check=True
    )
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def masks_of_v1(server: "RealServer", file: bytes, *prompts: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    with httpx.Client(base_url=server.url, headers=headers, timeout=LONG_S) as client:
        image_id = client.post("/v1/images", content=file).json()["image_id"]
        answer = client.post(f"/v1/images/{image_id}/masks", json={"prompts": prompts}).json()
    return [prediction["masks"][0]["rle"] for prediction in answer["predictions"]]


@pytest.mark.parametrize("base", ["", "/roboflow", "/roboflow/"])
def test_the_sdks_calls_are_v1s_masks_of_one_encode(
    tool: Callable[[str], Path], start_real: "StartReal", make_image: Callable[..., bytes], tmp_path: Path, base: str
) -> None:
    python, file = tool("roboflow"), make_image(WIDTH, HEIGHT)
    (tmp_path / "photo.png").write_bytes(file)
    both = {"prompts": [CLICK, BOX]}
    with start_real() as server:
        embedded, rle, polygons, visual, async_rle, text = call(
            python,
            server.url + base,
            tmp_path / "photo.png",
            ("sam3_embed_image", {}),
            ("sam2_segment_image", {**both, "mask_input_format": "rle"}),
            ("sam2_segment_image", both),
            ("sam3_visual_segment", {**both, "mask_input_format": "rle"}),
            ("sam2_segment_image_async", {**both, "mask_input_format": "rle"}),
            ("sam3_concept_segment", {"prompts": [{"type": "text", "text": "disc"}]}),
        )
        expected = masks_of_v1(server, file, {"points": [{"x": 150, "y": 122}]}, {"box": [149.5, 70, 250.5, 130]})
        assert (server.backend.encodes, server.backend.decodes) == (1, 2)
    assert embedded["image_id"]
    for answer in (rle, visual, async_rle):
        assert [prediction["masks"] for prediction in answer["predictions"]] == expected
    for prediction, mask in zip(polygons["predictions"], expected, strict=True):
        canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
        for ring in prediction["masks"]:
            cv2.fillPoly(canvas, [np.array(ring, np.int32)], 1)
        assert (canvas == mask_codec.from_rle(**mask)).all()
    assert text["status"] == 501
    assert "text" in text["reason"]


def test_the_sdks_concepts_are_v1s(tool: Callable[[str], Path], start_real: "StartReal", tmp_path: Path) -> None:
    """By phrases, by boxes of examples, and by both; in each form."""
    python, file, toy = tool("roboflow"), squares_file(), GatedConcepts()
    (tmp_path / "photo.png").write_bytes(file)
    example = {"x": 22, "y": 22, "width": 6, "height": 8}
    phrases = {"prompts": [{"type": "text", "text": "Red"}, {"type": "text", "text": "blue"}]}
    boxes = {"prompts": [{"type": "visual", "boxes": [example], "box_labels": [1]}]}
    with start_real(backend=toy) as server:
        toy.asked.clear()  # what warmed the model up
        rle, polygons, async_rle, less, shown = call(
            python,
            server.url,
            tmp_path / "photo.png",
            ("sam3_concept_segment", {**phrases, "format": "rle"}),
            ("sam3_concept_segment", phrases),
            ("sam3_concept_segment_async", {**phrases, "format": "rle"}),
            ("sam3_concept_segment", {**phrases, "format": "rle", "output_prob_thresh": 0.1}),
            ("sam3_concept_segment", {**boxes, "format": "rle"}),
        )
        with httpx.Client(base_url=server.url, timeout=LONG_S) as client:
            image_id = client.post("/v1/images", content=file).json()["image_id"]
            asked = {"phrases": ["Red", "blue"]}
            expected = client.post(f"/v1/images/{image_id}/concepts", json=asked).json()["concepts"]
        assert toy.asked.count("trunk") == 1
    masks = [[one["rle"] for one in concept["instances"]] for concept in expected]
    for answer in (rle, async_rle):
        assert [[one["masks"] for one in each["predictions"]] for each in answer["prompt_results"]] == masks
    for each, own in zip(polygons["prompt_results"], masks, strict=True):
        for one, mask in zip(each["predictions"], own, strict=True):
            canvas = np.zeros((48, 64), np.uint8)
            for ring in one["masks"]:
                cv2.fillPoly(canvas, [np.array(ring, np.int32)], 1)
            assert (canvas == mask_codec.from_rle(**mask)).all()
    assert [len(each["predictions"]) for each in less["prompt_results"]] == [len(RED_BOXES), len(BLUE_BOXES)]
    assert [one["masks"] for one in shown["prompt_results"][0]["predictions"]] == masks[1]


@pytest.mark.parametrize("transport", [None, "header", "legacy", "both"])
def test_the_sdks_keys_are_taken_and_its_user_reads_why_one_is_not(
    tool: Callable[[str], Path],
    start_real: "StartReal",
    make_image: Callable[..., bytes],
    tmp_path: Path,
    transport: str | None,
) -> None:
    """An array is sent as another file, which is the same one each time."""
    python, file = tool("roboflow"), make_image(WIDTH, HEIGHT)
    (tmp_path / "photo.png").write_bytes(file)
    asked = ("sam2_segment_image", {"prompts": [CLICK], "as_array": True})
    with start_real(api_keys=(KEY,)) as server:
        url, image = server.url, tmp_path / "photo.png"
        one, other = call(python, url, image, asked, asked, key=KEY, transport=transport)
        assert one["predictions"] == other["predictions"]
        assert (server.backend.encodes, server.backend.decodes) == (1, 1)
        [refused] = call(python, url, image, asked, key="another-long-key", transport=transport)
    assert refused["status"] == 401
    assert "API key" in refused["reason"]
