"""Which model is served, and by what, follows from the settings and from what is installed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.doubles import ToyBackend
from tests.inference.engines import disc_folder
from tests.needs import needs
from tests.sam.references import quick_checkpoint

from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.tier import TierLimits
from labeling_ground.errors import BadSettings, UnknownModel
from labeling_ground.inference.auto import ENGINES, Halves, Model
from labeling_ground.inference.backend import BatchSizes, ModelInfo
from labeling_ground.inference.sam import SamBackend
from labeling_ground.models.catalogue import Role, catalogue
from labeling_ground.models.disk import digest_of
from labeling_ground.models.manifests import StoredFile
from labeling_ground.models.store import ModelStore
from labeling_ground.settings import Settings
from labeling_ground.types import Kind, ModelVersion
from labeling_ground.wiring import build_backend, build_predictor, models
from labeling_ground.wiring.cache import build_store
from labeling_ground.wiring.models import build_endpoints, list_models

pytestmark = pytest.mark.anyio


def settings(folder: Path, **chosen: object) -> Settings:
    return Settings(models_dir=folder / "models", disk_bytes=0, **chosen)  # type: ignore[arg-type]


async def test_without_weights_the_weight_free_engine_serves(tmp_path: Path) -> None:
    backend, why = build_backend(settings(tmp_path))
    assert (backend.info.version.model, why) == ("classical", "")
    await backend.aclose()


def test_a_model_whose_weights_are_not_here_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="labeling-ground models pull mobile-sam"):
        build_backend(settings(tmp_path, model="mobile-sam"))


@pytest.mark.parametrize("model", ["sam2.1-tiny", "efficient-sam-ti"])
async def test_auto_takes_an_installed_model_of_any_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    taken: list[str] = []

    class Chosen:
        def __init__(self, of: Model, *_: object, **given: object) -> None:
            taken.append(of.name)
            family = next(known.family for known in catalogue().models if known.name == model)
            info = ModelInfo(ModelVersion("m", "0" * 64))
            self.engine = "onnx"
            self.backend, self.why = SimpleNamespace(family=family, info=info), "it was there"

    store = ModelStore(tmp_path / "models")
    files = []
    for role in (Role.ENCODER, Role.DECODER):
        path = tmp_path / role
        path.write_bytes(role.encode())
        files.append((StoredFile(role, digest_of(path), path.stat().st_size, role, "by hand"), path))
    store.install(model, files, family=catalogue().model(model).family, own=False)
    monkeypatch.setattr(models, "choose_engine", Chosen)
    _, why = build_backend(settings(tmp_path))
    assert (taken, why) == ([model], "it was there")


def test_a_factory_of_ones_own_must_make_a_backend(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="made no backend"):
        build_backend(settings(tmp_path, model="builtins:dict"))


def test_of_several_models_the_first_is_what_a_command_for_one_takes(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="made no backend"):
        build_backend(settings(tmp_path, models=("builtins:dict", "classical")))


@pytest.mark.parametrize("engine", ["onnx", "openvino", "auto"])
async def test_exported_files_are_served_by_the_engine_that_is_asked_for(tmp_path: Path, engine: str) -> None:
    for module in ("onnxruntime", "openvino"):
        needs(module)
    store = ModelStore(tmp_path / "models")
    for role in (Role.ENCODER, Role.DECODER, Role.FAST_DECODER):
        store.add(disc_folder() / f"{role.value}.onnx", name="my-sam", role=role, family="sam")
    chosen = settings(tmp_path, model="my-sam", engine=engine, encode_workers=2)
    backend, why = build_backend(chosen)
    assert isinstance(backend, SamBackend)
    assert backend.info.version.model == "my-sam"
    assert backend.info.note == ""
    assert "in fp32: an image took" in why
    assert engine == "auto" or why.startswith(engine)
    predictor = build_predictor(chosen, backend=backend)
    assert predictor.encode_queue.slots == 1
    await predictor.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "auto"])
async def test_a_checkpoint_is_served_by_torch_where_that_is_asked_for_or_nothing_else_is_here(
    tmp_path: Path, engine: str
) -> None:
    needs("torch")
    store = ModelStore(tmp_path / "models")
    store.add(quick_checkpoint(), name="my-sam", role=Role.CHECKPOINT, family="sam")
    chosen = settings(tmp_path, model="my-sam", engine=engine, engine_device="cpu", encode_workers=2)
    [facts] = list_models(chosen)
    assert (facts.name, facts.memory_bytes) == ("my-sam", quick_checkpoint().stat().st_size)
    backend, why = build_backend(chosen)
    assert isinstance(backend, SamBackend)
    assert why.startswith("torch in fp32: an image took")
    assert backend.info.encode_batch == BatchSizes(1, 1)
    [encoder], _ = build_endpoints(chosen, Halves(decoder=False))
    assert encoder.handler.description.version == backend.info.version
    await backend.aclose()


def test_a_checkpoint_alone_is_of_no_use_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "has_torch", lambda: False)
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    store = ModelStore(tmp_path / "models")
    store.install(
        "sam-vit-b", [(StoredFile(Role.CHECKPOINT, digest_of(path), 7, "w", "by hand"), path)], family="sam", own=False
    )
    assert list_models(settings(tmp_path))[0].name == "classical"
    with pytest.raises(UnknownModel, match="labeling-ground models pull sam-vit-b"):
        build_backend(settings(tmp_path, model="sam-vit-b"))
    with pytest.raises(UnknownModel, match="labeling-ground models pull mobile-sam --format pytorch"):
        build_backend(settings(tmp_path, model="mobile-sam", engine="torch"))


@pytest.mark.parametrize("gpu", [True, False])
def test_beside_other_engines_auto_tries_torch_on_a_gpu_only_and_for_both_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(models, "has_torch", lambda: True)
    monkeypatch.setattr(models, "has_nvidia_gpu", lambda: gpu)
    store = ModelStore(tmp_path / "models")
    for role in (Role.ENCODER, Role.DECODER, Role.CHECKPOINT):
        (tmp_path / role).write_bytes(role.encode())
        store.add(tmp_path / role, name="my-sam", role=role, family="sam")
    chosen = settings(tmp_path, model="my-sam", engine_compile=False, engine_gpu_bytes=7, engine_floats_bytes=9)
    model = models.model_of(chosen, store, "my-sam", 1)
    assert list(model.engines) == ["torch", "onnx-cuda", "openvino", "onnx"][0 if gpu else 1 :]
    assert model.encoder_path == store.path_of("my-sam", Role.ENCODER)
    if gpu:
        weights = store.path_of("my-sam", Role.CHECKPOINT)
        assert model.options["torch"] == {
            "encoder_path": weights,
            "decoder_path": weights,
            "device": "cuda",
            "compiled": False,
            "gpu_bytes": 7,
            "floats_bytes": 9,
        }
    assert {name: told["floats_bytes"] for name, told in model.options.items()} == dict.fromkeys(ENGINES, 9)
    half = models.model_of(chosen, store, "my-sam", 1, Halves(decoder=False))
    assert "torch" not in half.engines, "the other half may be where torch is not, and is of another version then"


@pytest.mark.parametrize(
    ("chosen", "covered"),
    [
        ({}, None),
        ({"redis_url": "redis://127.0.0.1:1/0", "leases": "none"}, None),
        ({"redis_url": "redis://127.0.0.1:1/0", "leases": "embeddings"}, {Kind.EMBEDDING, Kind.TRUNK}),
        ({"redis_url": "redis://127.0.0.1:1/0"}, set(Kind)),
    ],
)
async def test_flights_are_common_to_all_servers_that_share_a_redis_unless_told_otherwise(
    tmp_path: Path, chosen: dict[str, str], covered: set[Kind] | None
) -> None:
    predictor = build_predictor(settings(tmp_path, model="classical", **chosen))
    shared = predictor.once.shared
    assert (None if shared is None else shared.kinds) == covered
    await predictor.aclose()


async def test_batches_are_what_the_engine_gains_by_within_what_the_settings_allow(tmp_path: Path) -> None:
    chosen = {"encode_batch": 2, "encode_batch_background": 8, "decode_batch": 5, "memory_bytes": 1 << 28}
    backend = ToyBackend(batch=BatchSizes(64, 64))
    predictor = build_predictor(settings(tmp_path, **chosen), backend=backend)
    assert (predictor.encode_queue.batch, predictor.decode_queue.batch) == (BatchSizes(2, 8), BatchSizes(5, 5))
    backend.batch = BatchSizes(1, 3)  # an engine elsewhere may change
    assert (predictor.encode_queue.batch, predictor.decode_queue.batch) == (BatchSizes(1, 3), BatchSizes(1, 3))
    await predictor.aclose()


async def test_the_bounds_of_the_tiers_are_what_the_settings_say(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "write_queue_bytes": 11,
        "tier_answer_s": 12.0,
        "purge_timeout_s": 13.0,
        "shutdown_write_s": 14.0,
    }
    store = build_store(Settings(cache_dir=tmp_path, purge_heard_s=15.0, disk_lock_s=16.0, **given))
    assert store.limits == TierLimits(queue_bytes=11, answer_s=12.0, change_s=13.0, close_s=14.0)
    [tier] = store.lower
    assert (tier.limits, tier.queue.most_bytes) == (store.limits, 11)
    assert isinstance(tier.store, DiskStore)
    assert (tier.store._heard_s, tier.store._index.connections._lock_s) == (15.0, 16.0)
    await store.aclose()
