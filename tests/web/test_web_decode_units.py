"""What decodes in the browser, in node: the numbers are those that the server makes of the same."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.needs import needs_program

from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec import tensors as tensor_codec
from labeling_ground.key import canonical
from labeling_ground.sam import masks, prompts
from labeling_ground.sam.family import Family
from labeling_ground.types import Box, Embedding, Point, Prompt

UNITS = Path(__file__).parent / "units"
FAMILIES = (Family.SAM, Family.SAM2, Family.EFFICIENT_TAM)
SIZES = ((256, 256), (600, 400), (400, 600), (1024, 1024), (2000, 1501), (1, 300), (1999, 3), (37, 41))
"""Widths and heights of images."""
TOLERANCE = 1e-4
"""Share of a mask's outline that may be another pixel: where a logit is 0 but for rounding."""

PROMPTS: tuple[dict[str, Any], ...] = (
    {"points": [(10, 20, 1)]},
    {"points": [(30, 5, 0), (10, 20, 1), (10, 7, 1), (10, 20, 0)]},
    {"points": [], "box": [1, 2, 30, 35]},
    {"points": [(12, 3, 0), (11, 30, 1)], "box": [1, 2, 30, 35]},
)


def logits() -> NDArray[np.float32]:
    """Five times four candidates: discs, rims, small and ragged things, noise, nothing and everything."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[0:256, 0:256].astype(np.float32)
    far = np.hypot(x - 100.3, y - 88.7)
    made = [
        [60 - far, 30 - far, np.abs(far - 50) - 12, 40 - np.hypot(x - 2, y - 3)],
        [rng.normal(size=(256, 256)), far - 70, 2.2 - far, 300 - far],
        [np.full_like(far, -1), np.full_like(far, 0), np.full_like(far, 1), np.where(far < 1, 5, -5)],
        [8 * np.sin(x / 5) * np.cos(y / 7) - 3, 40 - np.abs(x - 250), 20 - np.abs(y - 251), x - 128],
        [rng.normal(size=(256, 256)) + 40 - far, 50 - np.abs(x - y), 6 - np.abs(far - 90), 128 - y],
    ]
    return np.asarray(made, np.float32)


def scores() -> NDArray[np.float32]:
    return np.asarray(
        [[0.1, 0.9, 0.8, 0.7], [1, 0.2, 0.3, 0.1], [0, 0.5, 0.5, 0.5], [0, 0.5, 0.6, 0.5], [0, 0, 0.1, 0.2]], np.float32
    )


def prompt_of(asked: dict[str, Any]) -> Prompt:
    points = [Point(*point) for point in asked["points"]]
    return canonical(points, Box(*asked["box"]) if "box" in asked else None)


def start_of(width: int, height: int) -> NDArray[np.bool_]:
    """A mask to start from, of an image of this size."""
    y, x = np.mgrid[:height, :width]
    return np.asarray((x / width - 0.6) ** 2 + (y / height - 0.3) ** 2 < 0.09, np.bool_)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the modules make."""
    node = needs_program("node")
    folder = tmp_path_factory.mktemp("decode")
    rng = np.random.default_rng(5)
    tensors: dict[str, NDArray[Any]] = {
        "half": rng.normal(size=(3, 5)).astype(np.float16),
        "odd": np.array([0.0, -0.0, 6e-8, -6e-5, 65504, np.inf, -np.inf], np.float16),
        "whole": rng.normal(size=(1, 2, 3)).astype(np.float32),
    }
    embedding = Embedding(tensors, 3, 4)
    (folder / "embedding.safetensors").write_bytes(tensor_codec.to_safetensors(embedding, metadata={"model": "m"}))
    asks: dict[str, list[Any]] = {"masks": [], "prompts": [], "starts": []}
    answers = []
    for family in FAMILIES:
        for width, height in SIZES:
            shared = {"family": family.value, "width": width, "height": height}
            asks["masks"].append({**shared})
            asks["starts"].append({**shared, "rle": mask_codec.to_rle(start_of(width, height))})
            asks["prompts"] += [
                {
                    **shared,
                    "points": [{"x": x, "y": y, "label": label} for x, y, label in asked["points"]],
                    "box": asked.get("box"),
                }
                for asked in PROMPTS
            ]
    for which, (candidates, their_scores) in enumerate(zip(logits(), scores(), strict=True)):
        (folder / "logits.bin").write_bytes(candidates.tobytes())
        for ask in asks["masks"]:
            ask["scores"] = their_scores.tolist()
        (folder / "asks.json").write_text(json.dumps(asks | ({"prompts": [], "starts": []} if which else {})))
        done = subprocess.run(
            [node, str(UNITS / "decode.mjs"), str(folder)], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    return {"asks": asks, "answers": answers, "tensors": tensors}


def test_masks_are_the_servers(made: Any) -> None:
    """The same candidates in the same order, and the same pixels but for those where rounding decides."""
    prompt = prompt_of(PROMPTS[0])
    compared = differing = 0
    for candidates, their_scores, answer in zip(logits(), scores(), made["answers"], strict=True):
        for ask, found in zip(made["asks"]["masks"], answer["masks"], strict=True):
            family = Family(ask["family"])
            frame = family.frame(ask["height"], ask["width"])
            wanted = masks.prediction(candidates, their_scores, prompt, frame, family)
            assert [mask["score"] for mask in found] == pytest.approx([mask.score for mask in wanted.masks], abs=1e-6)
            for mask, theirs in zip(found, wanted.masks, strict=True):
                pixels = mask_codec.from_rle(tuple(mask["rle"]["size"]), mask["rle"]["counts"])
                assert pixels.shape == theirs.pixels.shape == (ask["height"], ask["width"])
                assert mask["area"] == int(pixels.sum())
                assert mask["rle"] == mask_codec.to_rle(pixels)
                wrong = int((pixels != theirs.pixels).sum())
                rim = int((theirs.pixels[:, 1:] != theirs.pixels[:, :-1]).sum())
                assert wrong <= 1 + TOLERANCE * rim, (ask, wrong, rim)
                compared += 1
                differing += wrong > 0
    assert compared == len(FAMILIES) * len(SIZES) * 5 * 3
    assert differing <= compared / 10


def test_prompts_are_the_servers(made: Any) -> None:
    """Coordinates, labels, corners and padding, in the server's order."""
    answers = made["answers"][0]["prompts"]
    assert len(answers) == len(made["asks"]["prompts"]) == len(FAMILIES) * len(SIZES) * len(PROMPTS)
    for ask, found, asked in zip(
        made["asks"]["prompts"], answers, PROMPTS * (len(answers) // len(PROMPTS)), strict=True
    ):
        family = Family(ask["family"])
        wanted = prompts.tensors(prompt_of(asked), family.frame(ask["height"], ask["width"]), family)
        assert found["labels"] == wanted.point_labels[0].tolist()
        assert found["coords"] == wanted.point_coords[0].ravel().tolist()


def test_masks_to_start_from_are_the_servers(made: Any) -> None:
    """Where an image is made smaller; OpenCV enlarges in another way, and the edge alone is another then."""
    for ask, found in zip(made["asks"]["starts"], made["answers"][0]["starts"], strict=True):
        size = ask["height"], ask["width"]
        wanted = prompts.low_res_logits(start_of(*reversed(size)), Family(ask["family"]).frame(*size))
        apart = np.abs(np.asarray(found, np.float32).reshape(256, 256) - wanted)
        if min(size) >= 256:
            assert apart.max() < 0.2, ask
        assert (apart > 0.2).mean() < 0.02, ask


def test_tensors_are_the_servers(made: Any) -> None:
    """Half precision becomes single precision without a bit lost; words come along."""
    found = made["answers"][0]
    assert found["metadata"] == {"model": "m", "height": "3", "width": "4"}
    assert set(found["tensors"]) == set(made["tensors"])
    for name, tensor in made["tensors"].items():
        assert tuple(found["tensors"][name]["shape"]) == tensor.shape
        wide = tensor.astype(np.float32).ravel()
        assert found["tensors"][name]["bits"] == wide.view(np.uint32).tolist()
