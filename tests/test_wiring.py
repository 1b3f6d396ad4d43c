"""Which model is served, and by what, follows from the settings and from what is installed."""

from pathlib import Path

import pytest
from tests.needs import needs
from tests.sam.references import exported

from labeling_ground.errors import BadSettings, UnknownModel
from labeling_ground.inference.sam import SamBackend
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_backend, build_segmenter

pytestmark = pytest.mark.anyio


def settings(folder: Path, **chosen: object) -> Settings:
    return Settings(models_dir=folder / "models", disk_bytes=0, **chosen)  # type: ignore[arg-type]


async def test_without_weights_the_weight_free_engine_serves(tmp_path: Path) -> None:
    backend, why = build_backend(settings(tmp_path))
    assert (backend.version.model, why) == ("classical", "")
    await backend.aclose()


def test_a_model_whose_weights_are_not_here_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="labeling-ground models pull mobile-sam"):
        build_backend(settings(tmp_path, model="mobile-sam"))


def test_a_family_that_is_not_served_yet_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="not served yet"):
        build_backend(settings(tmp_path, model="sam2.1-tiny"))


def test_a_factory_of_ones_own_must_make_a_backend(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="made no backend"):
        build_backend(settings(tmp_path, model="builtins:dict"))


@pytest.mark.parametrize("engine", ["onnx", "openvino", "auto"])
async def test_exported_files_are_served_by_the_engine_that_is_asked_for(tmp_path: Path, engine: str) -> None:
    for module in ("onnxruntime", "openvino"):
        needs(module)
    folder, _ = exported()
    store = ModelStore(tmp_path / "models")
    for role, file in ((Role.ENCODER, "encoder"), (Role.DECODER, "decoder"), (Role.FAST_DECODER, "decoder-fast")):
        store.add(folder / f"{file}.onnx", name="my-sam", role=role, family="sam")
    chosen = settings(tmp_path, model="my-sam", engine=engine, encode_workers=2)
    backend, why = build_backend(chosen)
    assert isinstance(backend, SamBackend)
    assert backend.version.model == "my-sam"
    assert backend.note == ""
    assert "in fp32: an image took" in why
    assert engine == "auto" or why.startswith(engine)
    segmenter = build_segmenter(chosen, backend=backend)
    assert segmenter.encode_lane.slots == 1
    await segmenter.aclose()
