"""TorchServe archives: what is in them, and what is refused. Whether TorchServe serves them: ``tests/torchserve``."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.models.filled_store import PARTS, filled
from tests.needs import needs_program

from labeling_ground.errors import BadInput, BadSettings, UnknownModel
from labeling_ground.models import archive as archives
from labeling_ground.models.archive import Serving, archive, version_files
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.types import ModelVersion

VERSION = ModelVersion("my-sam", "ab" * 32)


def opened(path: Path) -> tuple[zipfile.ZipFile, dict[str, Any]]:
    found = zipfile.ZipFile(path)
    return found, json.loads(found.read("model.json"))


def test_an_archive_holds_its_half_of_the_model_and_says_which(tmp_path: Path) -> None:
    needs_program("torch-model-archiver")
    store, out = filled(tmp_path), tmp_path / "a folder, with a comma"
    encode = archive(store, "my-sam", Role.ENCODER, VERSION, out / "my_encode.mar")
    decode = archive(store, "my-sam", Role.DECODER, VERSION, out / "my_decode.mar", serving=Serving(4, 50, workers=3))
    assert sorted(path.name for path in out.iterdir()) == ["my_decode.mar", "my_encode.mar"]

    weights = hashlib.sha256(PARTS[Role.ENCODER_DATA]).hexdigest()
    with opened(encode)[0] as found:
        about = opened(encode)[1]
        common = {"MAR-INF/MANIFEST.json", "handler.py", "model-config.yaml", "model.json"}
        assert set(found.namelist()) == {"encoder.onnx", f"sha256-{weights}"} | common
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in found.infolist())
        assert found.read("encoder.onnx") == PARTS[Role.ENCODER]
        assert found.read(f"sha256-{weights}") == PARTS[Role.ENCODER_DATA]
        manifest = json.loads(found.read("MAR-INF/MANIFEST.json"))["model"]
        assert (manifest["modelName"], manifest["modelVersion"]) == ("my_encode", "ab" * 8)
        config = found.read("model-config.yaml")
        assert b"Workers" not in config  # how many there are is the server's setting
        assert b"responseTimeout: 600\n" in config
    assert (about["model"], about["digest"], about["role"]) == ("my-sam", VERSION.digest, "encoder")
    assert (about["precision"], about["note"]) == ("fp32", "")
    assert about["files"]["encoder-data"]["sha256"] == weights

    with opened(decode)[0] as found:
        assert set(found.namelist()) == {"decoder.onnx", "decoder-fast.onnx"} | common
        lines = found.read("model-config.yaml").decode().splitlines()
        assert {"batchSize: 4", "maxBatchDelay: 50", "minWorkers: 3", "maxWorkers: 3"} <= set(lines)
    assert opened(decode)[1]["role"] == "decoder"


def test_an_archive_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    needs_program("torch-model-archiver")
    store, target = filled(tmp_path), tmp_path / "out" / "decode.mar"
    target.parent.mkdir()
    target.write_bytes(b"an older one")
    archive(store, "my-sam", Role.DECODER, VERSION, target)
    assert zipfile.is_zipfile(target)


@pytest.mark.parametrize(
    ("name", "precision", "words"),
    [
        ("random-sam", None, "random numbers"),
        ("my-sam", "int8", "rounded to int8"),
        ("my-sam", "fp32", ""),
    ],
)
def test_a_model_of_lesser_quality_says_so(tmp_path: Path, name: str, precision: str | None, words: str) -> None:
    needs_program("torch-model-archiver")
    store = filled(tmp_path, name, precision=precision)
    note = opened(archive(store, name, Role.ENCODER, VERSION, tmp_path / "encode.mar"))[1]["note"]
    assert (words in note) if words else note == ""


def test_the_version_is_of_what_computes(tmp_path: Path) -> None:
    store = filled(tmp_path)
    read = [path.read_bytes() for path in version_files(store, "my-sam")]
    assert read == [PARTS[Role.ENCODER], PARTS[Role.DECODER], PARTS[Role.FAST_DECODER]]


def test_what_is_not_here_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ModelStore(tmp_path)
    with pytest.raises(UnknownModel, match="labeling-ground models pull mobile-sam"):
        version_files(store, "mobile-sam")
    for name in ("a b.mar", "käfer.mar", "-a.mar", ".mar", "encode.zip"):
        with pytest.raises(BadInput, match=r"then \.mar"):
            archive(store, "mobile-sam", Role.ENCODER, VERSION, tmp_path / name)
    monkeypatch.setattr(archives, "ARCHIVER", "no_such_module")
    with pytest.raises(BadSettings, match="pip install torch-model-archiver"):
        archive(store, "mobile-sam", Role.ENCODER, VERSION, tmp_path / "encode.mar")


def test_an_archiver_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    monkeypatch.setattr(archives, "ARCHIVER", "zipfile")  # a module without what is called
    with pytest.raises(BadSettings, match="zipfile"):
        archive(store, "my-sam", Role.ENCODER, VERSION, tmp_path / "out" / "encode.mar")
    assert list((tmp_path / "out").iterdir()) == []
