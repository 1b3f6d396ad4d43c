"""``models``: the list to stdout, what is done to stderr, and a sentence when it does not work."""

import hashlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.models.weights_server import (
    Answer,
    WeightsServer,
    artifact_of,
    bytes_of,
    catalogue_of,
    model_of,
    weights_server,
)

from labeling_ground.errors import BadInput, PullFailed, UnknownModel
from labeling_ground.models.catalogue import Role, catalogue
from labeling_ground.models.store import ModelStore

# Not «from labeling_ground.cli import models»: that name is the group, once the commands are put together.
command = importlib.import_module("labeling_ground.cli.models")
ENCODER, DECODER = bytes_of(1, 100_000), bytes_of(2, 60_000)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> Path:
    monkeypatch.setenv("LABELING_GROUND_MODELS_DIR", str(tmp_path / "weights"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "weights"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[WeightsServer]:
    """A host with one small model, which is then all of the catalogue."""
    with weights_server() as running:
        running.files = {"/enc.onnx": ENCODER, "/dec.onnx": DECODER}
        model = model_of(
            artifact_of(Role.ENCODER, f"{running.url}/enc.onnx", ENCODER),
            artifact_of(Role.DECODER, f"{running.url}/dec.onnx", DECODER),
        )
        monkeypatch.setattr(command, "catalogue", lambda: catalogue_of(model))
        yield running


def said(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stderr or result.stdout


def test_list_shows_every_model_uncut(runner: CliRunner, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    result = runner.invoke(command.models, ["list"])
    assert result.stderr == ""
    words = said(result)
    assert "…" not in words
    lines = [" ".join(line.split()) for line in words.splitlines()]
    assert "sam-vit-h sam Apache-2.0 665 int8 2565 2 / 4 512 / 256 –" in lines
    assert "sam2.1-tiny sam2 Apache-2.0 ~130 156 8 / 16 128 / 64 –" in lines
    assert str(folder) in words
    assert not folder.exists()


def test_list_as_data(runner: CliRunner, folder: Path) -> None:
    result = runner.invoke(command.models, ["list", "--json"])
    assert result.stderr == ""
    found: dict[str, Any] = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert set(found) == {model.name for model in catalogue().models}
    sam2 = found["sam2.1-large"]
    assert sam2["embedding_bytes"] == {"fp16": 8 << 20, "fp32": 16 << 20}
    assert sam2["images_per_gib"] == {"fp16": 128, "fp32": 64}
    assert sam2["downloads"]["pytorch"] | {"files": []} == {"bytes": 898083611, "estimated": False, "files": []}
    assert sam2["downloads"]["onnx"]["estimated"] is True
    assert {file["io"] for file in sam2["downloads"]["onnx"]["files"]} == {"osam-sam2"}
    assert sam2["installed"] == {}


def test_pull_list_path_and_remove(runner: CliRunner, folder: Path, server: WeightsServer) -> None:
    result = runner.invoke(command.models, ["pull", "tiny-sam", "tiny-sam"])
    assert result.stdout == ""
    assert "tiny-sam is here: encoder, decoder, 156.2 KiB, verified." in said(result)
    assert len(server.seen) == 2
    (entry,) = json.loads(runner.invoke(command.models, ["list", "--json"]).stdout)
    assert entry["installed"]["encoder"]["sha256"] == hashlib.sha256(ENCODER).hexdigest()
    assert "onnx" in said(runner.invoke(command.models, ["list"])).splitlines()[2]
    result = runner.invoke(command.models, ["path", "tiny-sam", "--role", "encoder"])
    assert Path(result.stdout.strip()).read_bytes() == ENCODER
    result = runner.invoke(command.models, ["path", "tiny-sam"])
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["decoder", "encoder"]
    assert "tiny-sam is gone; 156.2 KiB are free again" in said(runner.invoke(command.models, ["remove", "tiny-sam"]))
    result = runner.invoke(command.models, ["path", "tiny-sam"])
    assert isinstance(result.exception, UnknownModel)
    assert "models pull tiny-sam" in str(result.exception)


def test_pull_from_a_mirror_named_by_option_or_environment(
    runner: CliRunner, folder: Path, server: WeightsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = {"/mirror/enc.onnx": ENCODER, "/mirror/dec.onnx": DECODER}
    said(runner.invoke(command.models, ["pull", "tiny-sam", "--mirror", f"{server.url}/mirror"]))
    said(runner.invoke(command.models, ["remove", "tiny-sam"]))
    monkeypatch.setenv("LABELING_GROUND_MODELS_MIRROR", f"{server.url}/mirror/{{file}}")
    said(runner.invoke(command.models, ["pull", "tiny-sam"]))
    assert {path for path, _ in server.seen} == {"/mirror/enc.onnx", "/mirror/dec.onnx"}


def test_pull_says_why_it_tries_again(runner: CliRunner, folder: Path, server: WeightsServer) -> None:
    server.script = [Answer(503, headers={"Retry-After": "0"})]
    words = " ".join(said(runner.invoke(command.models, ["pull", "tiny-sam"])).split())
    assert "enc.onnx: 127.0.0.1:" in words
    assert "answers 503 Service Unavailable; trying again in 0 s" in words


def test_pull_fails_with_a_sentence(runner: CliRunner, folder: Path, server: WeightsServer) -> None:
    server.default = Answer(body=DECODER)
    result = runner.invoke(command.models, ["pull", "tiny-sam"])
    assert isinstance(result.exception, PullFailed)
    result = runner.invoke(command.models, ["pull", "tiny-sam", "large-sam"])
    assert isinstance(result.exception, UnknownModel)
    result = runner.invoke(command.models, ["pull", "tiny-sam", "--format", "pytorch"])
    assert isinstance(result.exception, UnknownModel)
    assert runner.invoke(command.models, ["pull"]).exit_code == 2


def test_ctrl_c_says_that_it_can_go_on(
    runner: CliRunner, folder: Path, server: WeightsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "pull_model", interrupted)
    result = runner.invoke(command.models, ["pull", "tiny-sam"])
    assert result.exit_code == 130
    assert "run the same command again" in result.stderr


def test_add_by_hand(runner: CliRunner, folder: Path, server: WeightsServer, tmp_path: Path) -> None:
    file = tmp_path / "download (3)"
    file.write_bytes(ENCODER)
    assert "belongs to tiny-sam. Here of it now: encoder." in said(runner.invoke(command.models, ["add", str(file)]))
    assert "encoder only" in said(runner.invoke(command.models, ["list"]))
    assert server.seen == []
    file.write_bytes(b"my own weights")
    assert isinstance(runner.invoke(command.models, ["add", str(file)]).exception, BadInput)
    assert runner.invoke(command.models, ["add", str(file), "--role", "encoder"]).exit_code == 2
    own = ["add", str(file), "--as", "my-sam", "--role", "checkpoint", "--family", "sam"]
    assert "belongs to my-sam" in said(runner.invoke(command.models, own))
    assert "your own" in said(runner.invoke(command.models, ["list"]))
    entries = json.loads(runner.invoke(command.models, ["list", "--json"]).stdout)
    assert (entries[1]["name"], entries[1]["own"]) == ("my-sam", True)


def test_an_older_version_of_a_model_is_called_that(
    runner: CliRunner, folder: Path, server: WeightsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(runner.invoke(command.models, ["pull", "tiny-sam"]))
    newer = model_of(
        artifact_of(Role.ENCODER, f"{server.url}/enc.onnx", ENCODER),
        artifact_of(Role.DECODER, f"{server.url}/dec2.onnx", ENCODER + DECODER),
    )
    monkeypatch.setattr(command, "catalogue", lambda: catalogue_of(newer))
    assert "onnx (not the catalogue's)" in said(runner.invoke(command.models, ["list"]))
    server.files["/dec2.onnx"] = ENCODER + DECODER
    said(runner.invoke(command.models, ["pull", "tiny-sam"]))
    assert [path for path, _ in server.seen] == ["/enc.onnx", "/dec.onnx", "/dec2.onnx"]
    assert len(list((ModelStore(folder).folder / "blobs").iterdir())) == 2


def test_the_default_folder_is_where_data_belongs(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    words = said(runner.invoke(command.models, ["list"]))
    assert str(tmp_path / "data" / "labeling-ground" / "models") in words.replace("\n", "")
