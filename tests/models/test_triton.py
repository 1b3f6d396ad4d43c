"""Triton model repositories: what is in them, and what is refused. Whether Triton serves them: ``tests/tools``."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.models.filled_store import filled, stored
from tests.needs import needs

from labeling_ground.errors import BadInput, BadSettings, UnknownModel
from labeling_ground.models import triton
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.sam.preprocess import version_number
from labeling_ground.types import ModelVersion

VERSION, OTHER = ModelVersion("my-sam", "ab" * 32), ModelVersion("my-sam", "cd" * 32)
NUMBER = version_number(VERSION)


def words_of(config: str) -> dict[str, Any]:
    found = re.search(r'key: "labeling_ground" value: \{ string_value: (".*") \}', config)
    assert found is not None
    words: dict[str, Any] = json.loads(json.loads(found[1]))
    return words


def test_a_folder_holds_the_graph_under_its_number_and_a_configuration_of_its_tensors(tmp_path: Path) -> None:
    store, out = stored(tmp_path), tmp_path / "repository"
    made = triton.archive(store, "my-sam", Role.ENCODER, VERSION, out / "sam_encode")
    assert sorted(path.name for path in made.iterdir()) == [str(NUMBER), "config.pbtxt"]
    assert (made / str(NUMBER) / "model.onnx").read_bytes() == (tmp_path / "encoder.onnx").read_bytes()
    config = (made / "config.pbtxt").read_text()
    lines = config.splitlines()
    assert lines[:4] == [
        'name: "sam_encode"',
        'backend: "onnxruntime"',
        "max_batch_size: 0",
        f"version_policy: {{ specific: {{ versions: [ {NUMBER} ] }} }}",
    ]
    assert lines[4:6] == [
        'input [ { name: "image" data_type: TYPE_FP32 dims: [ -1, 3, -1 ] } ]',
        'output [ { name: "embedding" data_type: TYPE_FP32 dims: [ -1, 3, -1 ] } ]',
    ]
    words = words_of(config)
    assert (words["model"], words["digest"], words["role"]) == ("my-sam", VERSION.digest, "encoder")
    assert words["family"] == store.installed()["my-sam"].family == "sam"
    assert (words["precision"], words["preprocessing_version"]) == ("fp32", "1")


def test_numbers_are_of_the_digest_and_fit_64_bits_with_a_sign() -> None:
    assert 0 < NUMBER < 1 << 63
    assert version_number(OTHER) != NUMBER
    assert version_number(ModelVersion("renamed", VERSION.digest)) == NUMBER


def test_the_weights_of_a_large_encoder_lie_beside_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    monkeypatch.setattr(triton, "_tensors", lambda _: ([], []))
    made = triton.archive(store, "my-sam", Role.ENCODER, VERSION, tmp_path / "encode")
    names = sorted(path.name for path in (made / str(NUMBER)).iterdir())
    assert names == ["model.onnx", store.path_of("my-sam", Role.ENCODER_DATA).name]


def test_a_new_version_takes_the_place_of_the_one_before_in_the_configuration(tmp_path: Path) -> None:
    store, target = stored(tmp_path), tmp_path / "sam_encode"
    for version in (VERSION, OTHER, OTHER):
        triton.archive(store, "my-sam", Role.ENCODER, version, target)
    folders = {path.name for path in target.iterdir() if path.is_dir()}
    assert folders == {str(NUMBER), str(version_number(OTHER))}  # what is being served stays whole
    config = (target / "config.pbtxt").read_text()
    assert f"versions: [ {version_number(OTHER)} ]" in config
    assert words_of(config)["digest"] == OTHER.digest


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="labeling-ground models pull mobile-sam"):
        triton.archive(ModelStore(tmp_path), "mobile-sam", Role.ENCODER, VERSION, tmp_path / "encode")
    with pytest.raises(BadInput, match="letters, digits"):
        triton.archive(filled(tmp_path), "my-sam", Role.ENCODER, VERSION, tmp_path / "a name")
    needs("onnxruntime")
    with pytest.raises(BadSettings, match="cannot be loaded by ONNX Runtime"):
        triton.archive(filled(tmp_path), "my-sam", Role.ENCODER, VERSION, tmp_path / "encode")
    with pytest.raises(BadSettings, match=r"image is a tensor\(double\)"):
        triton.archive(stored(tmp_path / "of doubles", "DOUBLE"), "my-sam", Role.ENCODER, VERSION, tmp_path / "encode")
    assert not (tmp_path / "encode").exists()
