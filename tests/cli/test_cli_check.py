"""``models check``: the masks of each engine and precision against those of fp32, as a table, as data, and kept."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tests.cli.photos import photo
from tests.inference import disc_engine
from tests.inference.engines import files
from tests.needs import needs

from labeling_ground.cli import cli
from labeling_ground.cli.check import DISAGREE, photographs
from labeling_ground.errors import BadInput, UnknownModel
from labeling_ground.inference.agreement import this_machine
from labeling_ground.inference.auto import remembered
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.settings import Settings
from labeling_ground.verdict import Verdict
from labeling_ground.wiring import models
from labeling_ground.wiring.models import list_models, model_of, rounds_embeddings


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> ModelStore:
    """With a model of engines whose masks are discs."""
    made = ModelStore(tmp_path / "models")
    for role in (Role.ENCODER, Role.DECODER):
        (tmp_path / role).write_bytes(role.encode())
        made.add(tmp_path / role, name="my-sam", role=role, family="sam")
    monkeypatch.setattr(models, "ENGINES", disc_engine.ENGINES)
    monkeypatch.setenv("LABELING_GROUND_MODELS_DIR", str(made.folder))
    (tmp_path / "one.png").write_bytes(photo(1, (300, 200)))
    (tmp_path / "two.png").write_bytes(photo(2, (200, 300)))
    return made


def verdicts_in(store: ModelStore, name: str = "my-sam") -> dict[tuple[str, str], Verdict]:
    noted = store.noted(name)
    assert noted is not None
    return {(each.engine, each.embedding or each.precision): each for each in noted.verdicts[this_machine()]}


def test_what_agrees_is_said_and_kept_and_then_shown_and_decides(
    store: ModelStore, runner: CliRunner, tmp_path: Path
) -> None:
    images = ["--image", str(tmp_path / "one.png"), "--image", str(tmp_path / "two.png")]
    result = runner.invoke(cli, ["models", "check", "my-sam", *images])
    assert result.exit_code == 0, result.output
    assert "openvino in bf16 agrees: least 0.9" in result.stdout
    assert [line.split()[:3] for line in result.stdout.splitlines() if line.startswith("openvino  ")] == [
        ["openvino", "bf16", "one.png"],
        ["openvino", "bf16", "two.png"],
        ["openvino", "int8", "embedding"],
        ["openvino", "int8", "embedding"],
    ]
    kept = verdicts_in(store)["openvino", "bf16"]
    assert (kept.source, kept.masks, kept.failed) == ("check", 18, "")
    listed = runner.invoke(cli, ["models", "list"]).stdout
    assert f"bf16 IoU ≥ {kept.least_iou:.3f}" in " ".join(listed.split())
    own = json.loads(runner.invoke(cli, ["models", "list", "--json"]).stdout)[-1]
    assert (own["name"], own["verdicts"][-2]["least_iou"]) == ("my-sam", kept.least_iou)
    settings = Settings(models_dir=store.folder, model="my-sam")
    assert kept in list_models(settings)[0].verdicts
    chosen = remembered(model_of(settings, store, "my-sam", 1), tuple(verdicts_in(store).values()))
    assert chosen is not None
    assert chosen.precision == "bf16"
    assert "on photographs" in chosen.backend.info.note


def test_what_does_not_agree_has_an_exit_status_of_its_own(
    store: ModelStore, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_options", lambda settings: {"openvino": {"shift": 6.0, "slow_s": 0.0}})
    result = runner.invoke(cli, ["models", "check", "my-sam", "--json", "--image", str(tmp_path / "one.png")])
    assert result.exit_code == DISAGREE == 3
    told = json.loads(result.stdout)
    assert (told["model"], told["machine"], told["least_iou"]) == ("my-sam", this_machine(), 0.95)
    agree = {(each["engine"], each["precision"]): each["agrees"] for each in told["verdicts"] if not each["embedding"]}
    assert agree == {("openvino", "fp32"): True, ("onnx", "fp32"): True, ("openvino", "bf16"): False}
    ious = told["verdicts"][-2]["photographs"]["one.png"]
    assert list(ious) == ["click", "box", "3 clicks"]
    assert all(0 < iou < 0.95 for kind in ious.values() for iou in kind)
    assert verdicts_in(store)["openvino", "bf16"].least_iou == min(iou for kind in ious.values() for iou in kind)
    monkeypatch.setenv("LABELING_GROUND_ENGINE_LEAST_IOU", "0.1")
    again = runner.invoke(cli, ["models", "check", "my-sam", "--image", str(tmp_path / "one.png")])
    assert again.exit_code == 0, again.output


def test_masks_that_say_nothing_do_not_pass(
    store: ModelStore, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ENGINES", {"openvino": f"{disc_engine.__name__}:flat"})
    result = runner.invoke(cli, ["models", "check", "my-sam", "--image", str(tmp_path / "one.png")])
    assert result.exit_code == DISAGREE
    assert "openvino in bf16 does NOT agree" in result.stdout


def test_a_wrong_wish_is_said_before_anything_is_computed(store: ModelStore, runner: CliRunner, tmp_path: Path) -> None:
    assert isinstance(runner.invoke(cli, ["models", "check", "no-such"]).exception, UnknownModel)
    result = runner.invoke(cli, ["models", "check", "my-sam", "--image", str(tmp_path / "nowhere.png")])
    assert result.exit_code == 2
    (tmp_path / "text.png").write_text("no image")
    result = runner.invoke(cli, ["models", "check", "my-sam", "--image", str(tmp_path / "text.png")])
    assert isinstance(result.exception, BadInput)


def test_embeddings_in_int8_are_compared_with_the_same_in_fp16_and_decide_where_they_are_asked_for(
    store: ModelStore, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(models_dir=store.folder, int8_embeddings="checked")
    assert not rounds_embeddings(settings, "my-sam"), "nobody has checked it"
    command = ["models", "check", "my-sam", "--image", str(tmp_path / "one.png")]
    monkeypatch.setattr(models, "ENGINES", {"openvino": f"{disc_engine.__name__}:by_embedding"})
    monkeypatch.setattr(disc_engine, "LARGEST", 4.0)
    result = runner.invoke(cli, command)
    assert "Embeddings in int8, by openvino: what comes of them agrees with fp16's" in result.stdout
    kept = verdicts_in(store)["openvino", "int8"]
    assert (kept.source, kept.masks, kept.precision) == ("check", 9, "fp32")
    assert 0.95 < kept.least_iou <= 1
    listed = runner.invoke(cli, ["models", "list"]).stdout
    assert f"int8 IoU ≥ {kept.least_iou:.3f}" in " ".join(listed.split())
    assert rounds_embeddings(settings, "my-sam")
    assert not rounds_embeddings(settings, "another")
    assert not rounds_embeddings(settings.model_copy(update={"int8_embeddings": "off"}), "my-sam")
    # One place of the channel far above the rest takes the steps of all others.
    monkeypatch.setattr(disc_engine, "LARGEST", 5000.0)
    result = runner.invoke(cli, command)
    assert "what comes of them does NOT agree with fp16's" in result.stdout
    assert result.exit_code == 0, "nobody has asked for it"
    assert not rounds_embeddings(settings, "my-sam")
    assert rounds_embeddings(settings.model_copy(update={"int8_embeddings": "always"}), "my-sam")
    monkeypatch.setenv("LABELING_GROUND_INT8_EMBEDDINGS", "checked")
    assert runner.invoke(cli, command).exit_code == DISAGREE


def test_the_photographs_come_with_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    found = photographs(Settings())
    assert sorted(found) == ["astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"]
    assert {(pixels.dtype, pixels.shape[2]) for pixels in found.values()} == {(np.dtype(np.uint8), 3)}
    assert all(cv2.Laplacian(pixels, cv2.CV_64F).var() > 10 for pixels in found.values())
    monkeypatch.setattr("labeling_ground.cli.check.PHOTOGRAPHS", ("no-such.png",))
    with pytest.raises(BadInput, match="give some with --image FILE"):
        photographs(Settings())


@pytest.mark.slow
def test_real_engines_agree_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> None:
    for module in ("onnxruntime", "openvino"):
        needs(module)
    made = ModelStore(tmp_path / "models")
    roles = {"encoder_path": Role.ENCODER, "decoder_path": Role.DECODER, "fast_decoder_path": Role.FAST_DECODER}
    for part, role in roles.items():
        made.add(files()[part], name="my-sam", role=role, family="sam")
    monkeypatch.setenv("LABELING_GROUND_MODELS_DIR", str(made.folder))
    (tmp_path / "one.png").write_bytes(photo(1, (300, 200)))
    result = runner.invoke(cli, ["models", "check", "my-sam", "--image", str(tmp_path / "one.png")])
    assert result.exit_code in (0, DISAGREE), result.output
    found = verdicts_in(made)
    assert found["onnx", "fp32"].masks == found["openvino", "fp32"].masks > 0
    assert found["onnx", "fp32"].least_iou > 0.99
    assert found["openvino", "fp32"].least_iou == 1
    assert f"masks; the bound is {Settings().engine_least_iou}" in result.stdout
