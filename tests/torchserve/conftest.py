"""One TorchServe for all tests, with archives of a small SAM; and the engine in this process over the same files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.inference.engines import disc_folder
from tests.needs import needs, needs_program
from tests.sam.parity import photo
from tests.torchserve.server import TorchServe, torchserve

from labeling_ground.inference.graphs import FloatArray, version_of
from labeling_ground.models.archive import SERVING, Serving, archive, version_files
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.sam.preprocess import resize_sam
from labeling_ground.types import ModelVersion

MODEL = "random-small"
ENCODER, DECODER, BATCHED = "small_encode", "small_decode", "small_decode_batched"
BATCH = 4
THREADS = 2


@dataclass(frozen=True, slots=True)
class Archives:
    """What there is to serve.

    Attributes:
        folder: of the ``.mar`` files.
        store: where the model is.
        version: of the model.
    """

    folder: Path
    store: ModelStore
    version: ModelVersion


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    for program in ("torchserve", "torch-model-archiver", "java"):
        needs_program(program)
    for module in ("yaml", "onnxruntime"):
        needs(module)
    store = ModelStore(tmp_path_factory.mktemp("models"))
    for role in (Role.ENCODER, Role.DECODER, Role.FAST_DECODER):
        store.add(disc_folder() / f"{role}.onnx", name=MODEL, role=role, family="sam")
    folder = tmp_path_factory.mktemp("archives")
    version = version_of(MODEL, version_files(store, MODEL), "fp32")
    one = replace(SERVING[Role.ENCODER], workers=1)
    archive(store, MODEL, Role.ENCODER, version, folder / f"{ENCODER}.mar", serving=one)
    archive(store, MODEL, Role.DECODER, version, folder / f"{DECODER}.mar")
    # It waits long for a batch to fill, and not a moment longer than that: so a batch is full however slow we are.
    full = Serving(batch=BATCH, batch_delay_ms=20_000, workers=1)
    archive(store, MODEL, Role.DECODER, version, folder / f"{BATCHED}.mar", serving=full)
    return Archives(folder, store, version)


@pytest.fixture(scope="session")
def server(archives: Archives, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    environment = {
        "LABELING_GROUND_THREADS": str(THREADS),
        "LABELING_GROUND_EMBEDDING_STORE_DIR": str(tmp_path_factory.mktemp("kept", numbered=True)),
    }
    models = {ENCODER: 1, DECODER: 2, BATCHED: 1}
    with torchserve(archives.folder, "decode", models, environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def engine(archives: Archives) -> Any:
    """The engine in this process, over the same files, with as many threads."""
    from labeling_ground.inference.onnx import OnnxEngine

    files = version_files(archives.store, MODEL)
    return OnnxEngine(*files, precision="fp32", encode_threads=THREADS, decode_threads=THREADS)


@pytest.fixture(scope="session")
def pixels() -> NDArray[np.uint8]:
    return resize_sam(photo(211, 307))


@pytest.fixture(scope="session")
def embedding(engine: Any, pixels: NDArray[np.uint8]) -> Mapping[str, FloatArray]:
    """Of the picture, by the engine in this process."""
    made: dict[str, FloatArray] = engine.encode(pixels)
    return made
