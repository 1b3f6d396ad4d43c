"""What is no SAM 3 is refused in words, before anything is left random."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.needs import needs
from tests.sam.references_sam3 import tiny

from labeling_ground.errors import BadSettings

torch = needs("torch")
needs("transformers")
Tensors = dict[str, Any]
HEAD = "tracker_model.mask_decoder.conv_s0.weight"


def refusal(files: dict[str, Path]) -> str:
    from labeling_ground.networks.sam3 import load

    with pytest.raises(BadSettings) as refused:
        load(files)
    return str(refused.value)


def files() -> dict[str, Path]:
    from labeling_ground.networks.sam3_files import files_of

    return files_of(tiny())


def with_weights(folder: Path, change: Callable[[Tensors], object]) -> dict[str, Path]:
    safetensors = needs("safetensors.torch")
    weights = safetensors.load_file(files()["weights"])
    change(weights)
    path = folder / "changed.safetensors"
    safetensors.save_file(weights, path)
    return files() | {"weights": path}


def test_what_fits_is_loaded_to_the_last_weight() -> None:
    from labeling_ground.networks.sam3 import load

    weights = needs("safetensors.torch").load_file(files()["weights"])
    loaded = load(files())
    ours = {f"detector_model.{name}": tensor for name, tensor in loaded.detector.state_dict().items()}
    for name, tensor in loaded.tracker.state_dict().items():
        neck = name.removeprefix("vision_encoder.neck.")
        ours[f"tracker_neck.{neck}" if neck != name else f"tracker_model.{name}"] = tensor
    shared = "tracker_model.vision_encoder.backbone."
    assert all((ours[name] == tensor).all() for name, tensor in weights.items() if name in ours)
    only_of_videos = {name.split(".")[1] for name in weights.keys() - ours.keys()}
    assert all(
        re.match("memory|mask_downsample|no_|object_pointer|temporal|occlusion", part) for part in only_of_videos
    )
    assert {name for name in ours.keys() - weights.keys() if not name.startswith(shared)} == set()
    trunks = loaded.detector.vision_encoder.backbone, loaded.tracker.vision_encoder.backbone
    assert trunks[0] is trunks[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop(HEAD), "of the tracker mask_decoder.conv_s0.weight are missing"),
        (
            lambda w: w.pop("tracker_neck.fpn_layers.1.proj1.bias"),
            "vision_encoder.neck.fpn_layers.1.proj1.bias are miss",
        ),
        (lambda w: w.pop("detector_model.text_projection.bias"), "of the detector text_projection.bias are missing"),
        (lambda w: w.update({"detector_model.lora.weight": w[HEAD].clone()}), "lora.weight are not known"),
        (
            lambda w: w.update({"tracker_model.lora.weight": w[HEAD].clone()}),
            "of the tracker lora.weight are not known",
        ),
        (lambda w: w.update({"head.weight": w[HEAD].clone()}), "head.weight are not known"),
        (lambda w: w.update({HEAD: w[HEAD][:, :8].clone()}), "conv_s0.weight have another shape than config.json says"),
        (lambda w: w.clear(), "and 359 more are missing; of the tracker .* and 202 more are missing"),
        (
            lambda w: w.update({HEAD.replace("mask_dec", "interactive_mask_dec"): w.pop(HEAD)}),
            r"weights of SAM 3\.1, which calls tensors otherwise \(tracker_model\.interactive_mask_decoder",
        ),
    ],
    ids=["head", "neck", "text", "more", "more heads", "stranger", "shape", "nothing", "3.1"],
)
def test_weights_that_do_not_fit_exactly_are_named(
    tmp_path: Path, change: Callable[[Tensors], object], words: str
) -> None:
    assert re.search(words, refusal(with_weights(tmp_path, change)))


def test_a_checkpoint_in_the_authors_layout_is_not_read(tmp_path: Path) -> None:
    torch.save({HEAD: torch.zeros(1)}, tmp_path / "sam3.1_multiplex.pt")
    said = refusal(files() | {"weights": tmp_path / "sam3.1_multiplex.pt"})
    assert "sam3.1_multiplex.pt is no safetensors file" in said
    assert "served from model.safetensors" in said


def test_a_folder_says_what_is_missing_in_it(tmp_path: Path) -> None:
    from labeling_ground.networks.sam3_files import files_of

    for role in ("weights", "config"):
        shutil.copy(files()[role], tmp_path)
    (tmp_path / "sam3.pt").touch()
    with pytest.raises(BadSettings, match=r"no vocab\.json, merges\.txt, which come.*sam3\.pt are in another layout"):
        files_of(tmp_path)
    given = files()
    del given["merges"]
    assert refusal(given).startswith("SAM 3 needs merges.txt too")


@pytest.mark.parametrize(
    ("role", "content", "words"),
    [
        (
            "config",
            json.dumps({"model_type": "sam3_lite_text"}),
            "describes a model 'sam3_lite_text', not 'sam3_video'",
        ),
        ("config", "[]", "is no configuration of SAM 3"),
        ("config", "{", "is no configuration of SAM 3"),
        ("vocabulary", "{", "are no vocabulary of SAM 3's tokenizer"),
        ("merges", "a b c\n", "are no vocabulary of SAM 3's tokenizer"),
        ("vocabulary", json.dumps({"a": 0}), "there is no token <|startoftext|> and no <|endoftext|>"),
        ("vocabulary", json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 517}), "more than the 517 tokens of"),
        ("vocabulary", None, "cannot be read"),
        ("config", None, "cannot be read"),
        ("weights", None, "cannot be read"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, role: str, content: str | None, words: str) -> None:
    path = tmp_path / "given"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert words in refusal(files() | {role: path})
