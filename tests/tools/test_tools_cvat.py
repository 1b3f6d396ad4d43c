"""``integrations/cvat_function.py`` in the real cvat-cli, with its agent and its ``task auto-annotate``."""

import io
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from tests.api.conftest import LONG_S, GatedConcepts, RealServer, StartReal
from tests.coloured import BLUE_BOXES, RED_BOXES, squares
from tests.integrations.cvat_names import decode_mask
from tests.tools.played_cvat import HEIGHT, WIDTH, PlayedCvat, played_cvat

from labeling_ground.codec import mask as mask_codec

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[2] / "integrations" / "cvat_function.py"
PATIENCE_S = 180


@dataclass(frozen=True)
class CvatCli:
    """The real program, with the function."""

    program: Path
    home: Path

    def __call__(self, cvat: PlayedCvat, server: RealServer, *words: str, **parameters: str) -> str:
        """Run it; what it printed."""
        command = [str(self.program), "--server-host", cvat.url, *words, "--function-file", str(FILE)]
        for name, value in {"url": server.url, **parameters}.items():
            command += ["-p", f"{name}=str:{value}"]
        env = {**os.environ, "CVAT_ACCESS_TOKEN": "token", "HOME": str(self.home)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def cvat_cli(tool: Callable[[str], Path], tmp_path: Path) -> CvatCli:
    return CvatCli(tool("cvat").parent / "cvat-cli", tmp_path)


@pytest.fixture
def frame(make_image: Callable[..., bytes]) -> bytes:
    """The task's image."""
    return make_image(WIDTH, HEIGHT)


def stateless(server: RealServer, pixels: Pillow.Image, **prompt: Any) -> NDArray[np.bool_]:
    """The best mask by ``/v1`` on an image of the same pixels."""
    file = io.BytesIO()
    pixels.save(file, "BMP")
    image_id = httpx.post(f"{server.url}/v1/images", content=file.getvalue(), timeout=LONG_S).json()["image_id"]
    answer = httpx.post(f"{server.url}/v1/images/{image_id}/masks", json=prompt, timeout=LONG_S)
    assert answer.status_code == 200, answer.text
    rle = answer.json()["masks"][0]["rle"]
    return mask_codec.from_rle(rle["size"], rle["counts"])


def test_an_agent_answers_interactions(cvat_cli: CvatCli, frame: bytes, start_real: StartReal) -> None:
    with start_real() as server, played_cvat(frame) as cvat:
        number = cvat_cli(cvat, server, "function", "create-native", "Labeling Ground").strip()
        (function,) = cvat.functions
        assert number == "1"
        assert (function["kind"], function["min_pos_points"], function["min_neg_points"]) == ("interactor", 0, 0)
        assert function["startswith_box_optional"] is True
        cvat.interact("point", [(60.25, 40.5)])
        cvat.interact("point-again", [(60.25, 40.5)])
        cvat.interact("negative", [(60.25, 40.5)], [(75, 40)])
        cvat.interact("box", (), (), [(0, 0), (50.5, 30)])
        cvat.interact("roi", [(10, 10)], roi=[20, 20, 80, 70])
        cvat.interact("outside", [(500, 10)])
        cvat.interact("nothing")
        cvat_cli(cvat, server, "function", "run-agent", number, "--burst")

        whole = Pillow.open(io.BytesIO(frame))
        part = whole.crop((20, 20, 80, 70))
        point = {"x": 60.25, "y": 40.5, "label": 1}
        expected = {
            "point": stateless(server, whole, points=[point]),
            "point-again": stateless(server, whole, points=[point]),
            "negative": stateless(server, whole, points=[point, {"x": 75, "y": 40, "label": 0}]),
            "box": stateless(server, whole, box=[0, 0, 50.5, 30]),
            "roi": stateless(server, part, points=[{"x": 10, "y": 10, "label": 1}]),
        }
        assert set(cvat.completed) == set(expected)
        for name, mask in expected.items():
            (shape,) = cvat.completed[name]
            assert shape["type"] == "mask"
            assert (decode_mask(shape["points"], mask.shape[1], mask.shape[0]) == mask).all(), name
            assert mask.any()
            assert [(each["spec_id"], each["value"]) for each in shape["attributes"]] == [(0, "0.9000")]
        assert "The point (500, 10) is outside the image" in cvat.failed["outside"]
        assert "the prompt is empty" in cvat.failed["nothing"]


def test_an_agent_finds_all_objects(cvat_cli: CvatCli, frame: bytes, start_real: StartReal) -> None:
    with start_real() as server, played_cvat(frame) as cvat:
        number = cvat_cli(cvat, server, "function", "create-native", "All objects", kind="detector").strip()
        (function,) = cvat.functions
        assert (function["kind"], [label["name"] for label in function["labels_v2"]]) == ("detector", ["object"])
        cvat.detect("masks", 0.5)
        cvat.detect("polygons", 0.5, polygons=True)
        cvat_cli(cvat, server, "function", "run-agent", number, "--burst", kind="detector")
        assert cvat.failed == {}
        assert {shape["type"] for shape in cvat.completed["masks"]} == {"mask"}
        assert {shape["type"] for shape in cvat.completed["polygons"]} == {"polygon"}
        assert server.backend.encodes == 1


def test_an_agent_and_a_whole_task_find_what_the_labels_name(cvat_cli: CvatCli, start_real: StartReal) -> None:
    out, toy = io.BytesIO(), GatedConcepts()
    Pillow.fromarray(squares(width=WIDTH, height=HEIGHT)).save(out, "PNG")
    finder = {"kind": "finder", "label": "Red,blue"}
    with start_real(backend=toy) as server, played_cvat(out.getvalue(), "Red", "blue") as cvat:
        toy.asked.clear()  # what warmed the model up
        number = cvat_cli(cvat, server, "function", "create-native", "Find", **finder).strip()
        assert [label["name"] for label in cvat.functions[0]["labels_v2"]] == ["Red", "blue"]
        cvat.detect("masks", 0.5)
        cvat.detect("paler", 0.1)
        cvat_cli(cvat, server, "function", "run-agent", number, "--burst", **finder)
        cvat_cli(cvat, server, "task", "auto-annotate", "1", "--conf-threshold", "0.5", **finder)
        assert cvat.failed == {}
        whole_task, agents = cvat.annotations, [cvat.completed[name] for name in ("masks", "paler")]
    for shapes, reds in ((agents[0], 2), (agents[1], 3), (whole_task, 2)):
        for label_id, boxes in ((7, RED_BOXES[:reds]), (8, BLUE_BOXES)):
            own = [decode_mask(shape["points"], WIDTH, HEIGHT) for shape in shapes if shape["label_id"] == label_id]
            found = {(x, y, x + width, y + height) for x, y, width, height in map(mask_codec.bbox, own)}
            assert (found, len(own)) == ({*boxes}, len(boxes))
    assert toy.asked.count("trunk") == 1


def test_a_task_is_annotated(cvat_cli: CvatCli, frame: bytes, start_real: StartReal) -> None:
    words = ("task", "auto-annotate", "1", "--conf-threshold", "0.5")
    with start_real() as server, played_cvat(frame) as cvat:
        cvat_cli(cvat, server, *words, kind="detector")
        shapes = cvat.annotations
        assert len(shapes) > 1
        assert {(shape["type"], shape["label_id"], shape["frame"], shape["source"]) for shape in shapes} == {
            ("mask", 7, 0, "auto")
        }
        assert all(decode_mask(shape["points"], WIDTH, HEIGHT).any() for shape in shapes)

        cvat.annotations = []
        cvat_cli(cvat, server, *words, "--conv-mask-to-poly", kind="detector")
        assert {shape["type"] for shape in cvat.annotations} == {"polygon"}
        assert all(len(shape["points"]) >= 6 for shape in cvat.annotations)
