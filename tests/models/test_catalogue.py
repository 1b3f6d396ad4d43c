"""The catalogue is complete, and says no when it is not."""

import math
from importlib import resources

import pytest

from labeling_ground.errors import BadSettings, UnknownModel
from labeling_ground.models.catalogue import CatalogueModel, Format, Role, catalogue, load
from labeling_ground.sam.family import Family

TEXT = resources.files("labeling_ground.models").joinpath("catalogue.toml").read_text(encoding="utf-8")
MODELS = catalogue().models
EVERY_MODEL = pytest.mark.parametrize("model", MODELS, ids=[model.name for model in MODELS])
_PULLED = [model for model in MODELS if not model.bring]
EVERY_PULLED_MODEL = pytest.mark.parametrize("model", _PULLED, ids=[model.name for model in _PULLED])


def test_all_the_models_that_we_promise_are_there() -> None:
    assert [model.name for model in MODELS] == [
        "sam-vit-b",
        "sam-vit-l",
        "sam-vit-h",
        "mobile-sam",
        "sam-hq-vit-b",
        "sam-hq-vit-l",
        "sam-hq-vit-h",
        "sam2.1-tiny",
        "sam2.1-small",
        "sam2.1-base-plus",
        "sam2.1-large",
        "efficient-sam-ti",
        "efficient-sam-s",
        "efficient-tam-ti",
        "efficient-tam-s",
        "edge-tam",
        "sam3",
    ]


_WITHOUT_ONNX = (
    *("sam-hq-vit-b", "sam-hq-vit-l", "sam-hq-vit-h"),
    *("efficient-tam-ti", "efficient-tam-s", "edge-tam"),
)
"""The catalogue has the authors' checkpoints of these alone: they are exported, or served by torch as they are."""


@EVERY_PULLED_MODEL
def test_every_model_can_be_had_ready_to_serve(model: CatalogueModel) -> None:
    roles = [artifact.role for artifact in model.files()]
    ready = [Role.CHECKPOINT] if model.name in _WITHOUT_ONNX else [Role.DECODER, Role.ENCODER]
    assert sorted(roles) == ready
    assert model.formats[0] is (Format.PYTORCH if model.name in _WITHOUT_ONNX else Format.ONNX)
    assert model.licence == "Apache-2.0"
    assert model.input_size == 1024


@EVERY_MODEL
def test_sizes_are_those_of_such_a_model(model: CatalogueModel) -> None:
    for artifact in model.artifacts:
        assert artifact.bytes in (None, artifact.about_bytes)
        assert 5e6 < artifact.about_bytes < 3e9
        if artifact.role is Role.CHECKPOINT:  # fp32, and little else in the file
            assert artifact.bytes is not None
            assert math.isclose(artifact.bytes, 4 * model.parameters, rel_tol=0.01)


@EVERY_MODEL
def test_what_an_image_costs_follows_from_its_tensors(model: CatalogueModel) -> None:
    exceptions = {"sam-hq": (6 << 20, 12 << 20), "sam2": (8 << 20, 16 << 20), "sam3": (2 * 10_616_832, 4 * 10_616_832)}
    expected = exceptions.get(model.family, (2 << 20, 4 << 20))
    assert (model.embedding_bytes("fp16"), model.embedding_bytes("fp32")) == expected


@EVERY_MODEL
def test_tensors_are_named_as_our_own_exports_name_them(model: CatalogueModel) -> None:
    named = {tensor.name: tensor.shape for tensor in model.embedding}
    assert named.pop("trunk", None) == ((1, 72 * 72, 1024) if model.family == "sam3" else None)
    assert named == Family(model.family).embedding_shapes


def test_addresses_and_digests_stand_there_once_and_are_whole() -> None:
    every = [artifact for model in MODELS for artifact in model.artifacts]
    assert len({artifact.url for artifact in every}) == len(every) == 35
    assert len({artifact.sha256 for artifact in every}) == len(every)
    assert len({artifact.file for artifact in every}) == len(every)
    for artifact in every:
        assert "..." not in artifact.url
        assert catalogue().identify(artifact.sha256) == (_owner(artifact.sha256), artifact)
    assert catalogue().identify("0" * 64) is None


def _owner(sha256: str) -> CatalogueModel:
    return next(model for model in MODELS if any(artifact.sha256 == sha256 for artifact in model.artifacts))


def test_an_unknown_name_gets_near_ones_back() -> None:
    with pytest.raises(UnknownModel, match=r"Did you mean .*mobile-sam"):
        catalogue().model("mobilesam")
    with pytest.raises(UnknownModel, match="It has: sam-vit-b, "):
        catalogue().model("zzz")


def test_a_format_that_is_not_there_is_said() -> None:
    with pytest.raises(UnknownModel, match="not in the catalogue as pytorch, only as onnx"):
        catalogue().model("efficient-sam-s").files(Format.PYTORCH)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('name = "sam-vit-l"', 'name = "sam-vit-b"', "model sam-vit-b stands there twice"),
        ('name = "sam-vit-l"', 'name = "SAM L"', "the name may hold"),
        ("edbcf1a0", "EDBCF1A0", "no SHA-256"),
        ("edbcf1a0", "edbcf1a", "no SHA-256"),
        ('url = "https://dl.', 'url = "http://dl.', "is not https"),
        ("bytes = 8_743_656\n", "", "either bytes or about_bytes"),
        ("bytes = 8_743_656\n", "bytes = 8_743_656\nabout_bytes = 9\n", "either bytes or about_bytes"),
        ('io = "acly"', 'io = "unheard"', "does not describe this encoder"),
        ('role = "checkpoint"', 'role = "decoder"', "a decoder is not pytorch"),
        ('role = "checkpoint"', 'role = "soup"', "soup"),
        ('family = "sam2"', 'family = "yolo"', "family 'yolo'"),
        ("parameters = 93_700_000", "parameter = 93_700_000", "parameter"),
        ("input_size = 1024", "", "input_size"),
        ("shape = [1, 256, 64, 64]", "shape = []", "no shape"),
        ('precision = "int8"', 'precision = "fp8"', "fp8"),
        ("bring = ", "brought = ", "it has files, or says how they are brought"),
        ('source = "https://github', 'bring = "by hand"\nsource = "https://github', "it has files, or says how"),
        ("[[models]]", "[[models]", "catalogue cannot be used"),
    ],
)
def test_a_catalogue_that_is_not_whole_is_refused_with_its_reason(before: str, after: str, words: str) -> None:
    assert before in TEXT
    with pytest.raises(BadSettings, match=words):
        load(TEXT.replace(before, after, 1))


def test_conventions_are_in_words() -> None:
    for model in _PULLED:
        for artifact in model.files(Format.ONNX) if model.name not in _WITHOUT_ONNX else ():
            assert artifact.io is not None
            assert len(catalogue().conventions[artifact.io][artifact.role]) > 5
