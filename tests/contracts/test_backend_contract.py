"""Every backend under the one suite; to add a backend, add its maker."""

import importlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.doubles import ToyBackend
from tests.inference.engines import checkpoint_files, disc_files, with_discs
from tests.inference.oip_server import oip_standing
from tests.inference.sam3_backends import sam3_of_discs
from tests.inference.toy_engine import ToyEngine, standing
from tests.needs import needs

from labeling_ground.inference.backend import Backend
from labeling_ground.inference.classical import create as create_classical
from labeling_ground.testing.backend_contract import BackendContract
from labeling_ground.testing.toy_concepts import ToyConcepts


def engine(module: str, package: str, **options: Any) -> Callable[[], Backend]:
    """A maker of a SAM backend with random weights, whose masks are discs around the first point."""

    def make() -> Backend:
        needs(package)
        backend: Backend = importlib.import_module(f"labeling_ground.inference.{module}").create(
            1, 2, **disc_files(), **options
        )
        return backend

    return make


def torch_engine() -> Backend:
    """The same of the torch engine, which takes the checkpoint."""
    needs("torch")
    return with_discs(
        importlib.import_module("labeling_ground.inference.torch_engine").create(
            1, 2, **checkpoint_files(), device="cpu"
        )
    )


MAKERS: dict[str, Callable[[], Backend]] = {
    "remote": lambda: standing(ToyEngine()),  # over a loopback server
    "oip": oip_standing,
    "onnx": engine("onnx", "onnxruntime"),
    "onnx-cuda": engine("onnx_cuda", "onnxruntime", device="cpu"),  # its steps, where there is no GPU
    "openvino": engine("openvino", "openvino"),
    "sam3": sam3_of_discs,
    "torch": torch_engine,
    "toy": ToyBackend,
    "toy-concepts": ToyConcepts,
    "classical": lambda: create_classical(encode_threads=1, decode_threads=2),
}


class TestBackends(BackendContract):
    @pytest.fixture(params=sorted(MAKERS))
    async def backend(self, request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
        if request.param == "torch":  # its sums are in another order where a lone decode has two threads
            self.tolerance = 1e-6
        made = MAKERS[request.param]()
        yield made
        await made.aclose()
