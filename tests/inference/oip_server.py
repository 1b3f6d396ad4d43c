"""A server of the Open Inference Protocol as it is specified, over a toy engine: in a thread, and it can misbehave."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.inference.toy_engine import LONG_S, NAMES, VERSION, ToyEngine, backend_of, listener, pool
from tests.running import in_thread

from labeling_ground.inference.remote.backend import RemoteBackend
from labeling_ground.inference.remote.oip import OipClient
from labeling_ground.inference.remote.pool import EnginePool
from labeling_ground.inference.remote.wire import Description, EngineRole
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import version_number
from labeling_ground.sam.prompts import PromptTensors
from labeling_ground.types import ModelVersion

LENGTH = "Inference-Header-Content-Length"
DTYPES = {"FP16": "<f2", "FP32": "<f4"}
TENSORS = {
    "point_coords": [-1, -1, 2],
    "point_labels": [-1, -1],
    "mask_input": [-1, 1, 256, 256],
    "has_mask_input": [-1],
}


@dataclass
class Spoilt:
    """An infer answer on its way out, to be spoilt: the JSON, the tensors' bytes, and the headers."""

    header: dict[str, Any]
    parts: list[bytes]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def output(self) -> dict[str, Any]:
        first: dict[str, Any] = self.header["outputs"][0]
        return first


Spoil = Callable[[Spoilt], Response | None]


@dataclass
class OipServer:
    """What is served, and how it misbehaves.

    Attributes:
        engine: what computes.
        datatype: of all tensors, in and out.
        version: what the configuration tells; ``None``: it tells nothing, as of a server that has no such endpoint.
        number: the version that is served; ``None``: there are no versions.
        spoil: does something to an infer answer, or gives another one.
        ready: whether the server says that it is.
        asked: the paths of all requests.
    """

    engine: ToyEngine
    datatype: str = "FP32"
    version: ModelVersion | None = VERSION
    number: str | None = str(version_number(VERSION))
    spoil: Spoil | None = None
    ready: bool = True
    preprocessing: str = "1"
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def app(self) -> Starlette:
        model = "/v2/models/{model}"
        return Starlette(
            routes=[
                Route("/v2/health/ready", self._health),
                Route(model, self._metadata),
                Route(f"{model}/config", self._config),
                Route(f"{model}/infer", self._infer, methods=["POST"]),
                Route(f"{model}/versions/{{version}}/infer", self._infer, methods=["POST"]),
            ]
        )

    def exchange(self, version: ModelVersion, engine: ToyEngine) -> None:
        """Serve another model from now on."""
        self.version, self.number, self.engine = version, str(version_number(version)), engine

    def _tensors(self, role: str) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        embedding = {name: list(shape) for name, shape in self.engine.family.embedding_shapes.items()}
        if role == NAMES[EngineRole.ENCODER]:
            return {"image": [1, 3, 1024, 1024]}, embedding
        return {**embedding, **TENSORS}, {"low_res_masks": [-1, 4, 256, 256], "iou_predictions": [-1, 4]}

    async def _health(self, _: Request) -> Response:
        return Response(status_code=200 if self.ready else 503)

    async def _metadata(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name not in NAMES.values():
            return JSONResponse({"error": f"Request for unknown model: '{name}' is not found"}, 404)
        told: dict[str, Any] = {"name": name, "platform": "toy"}
        if self.number is not None:
            told["versions"] = [self.number]
        for kind, tensors in zip(("inputs", "outputs"), self._tensors(name), strict=True):
            told[kind] = [{"name": each, "datatype": self.datatype, "shape": tensors[each]} for each in tensors]
        return JSONResponse(told)

    async def _config(self, _: Request) -> Response:
        if self.version is None:
            return JSONResponse({"error": "not found"}, 404)
        words = {
            "model": self.version.model,
            "digest": self.version.digest,
            "preprocessing_version": self.preprocessing,
            "note": "of a toy",
            # Archives of former versions told none.
            **({"family": self.engine.family} if self.engine.family is Family.EFFICIENT_TAM else {}),
        }
        return JSONResponse({"parameters": {"labeling_ground": {"string_value": json.dumps(words)}}})

    async def _infer(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        version = request.path_params.get("version")
        if version not in (None, self.number):
            words = f"Request for unknown model: '{request.path_params['model']}' version {version} is not found"
            return JSONResponse({"error": words}, 404)
        body = await request.body()
        given, outputs = self._read(body, int(request.headers[LENGTH]))
        made = await asyncio.to_thread(self._compute, given)
        answer = Spoilt({"model_name": request.path_params["model"], "outputs": []}, [])
        if self.number is not None:
            answer.header["model_version"] = self.number
        for name in outputs:
            tensor = np.ascontiguousarray(made[name], DTYPES[self.datatype])
            about = {"name": name, "datatype": self.datatype, "shape": list(tensor.shape)}
            answer.header["outputs"].append({**about, "parameters": {"binary_data_size": tensor.nbytes}})
            answer.parts.append(tensor.tobytes())
        instead = self.spoil(answer) if self.spoil else None
        if instead is not None:
            return instead
        header = json.dumps(answer.header).encode()
        headers = {LENGTH: str(len(header)), **answer.headers}
        headers = {name: value for name, value in headers.items() if value != "absent"}
        return Response(header + b"".join(answer.parts), 200, headers, "application/octet-stream")

    def _read(self, body: bytes, at: int) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """The tensors of a request and the outputs that it wants, with nothing left over."""
        header, given = json.loads(body[:at]), {}
        for each in header["inputs"]:
            size = each["parameters"]["binary_data_size"]
            assert each["datatype"] == self.datatype
            given[each["name"]] = np.frombuffer(body[at : at + size], DTYPES[self.datatype]).reshape(each["shape"])
            at += size
        assert at == len(body)
        assert all(each["parameters"]["binary_data"] for each in header["outputs"])
        return given, [each["name"] for each in header["outputs"]]

    def _compute(self, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        floats = {name: tensor.astype(np.float32) for name, tensor in given.items()}
        if "image" in floats:
            self.engine.encodes += 1
            return {**self.engine.embedding_of(floats["image"])}
        prompt = PromptTensors(*(floats.pop(name) for name in TENSORS))
        logits, scores = self.engine.decode(floats, prompt, alone=True)
        return {"low_res_masks": logits[None], "iou_predictions": scores[None]}


@contextlib.contextmanager
def oip_served(server: OipServer) -> Iterator[OipServer]:
    """Serve from a thread."""
    made = listener()
    server.url = f"http://127.0.0.1:{made.getsockname()[1]}"
    with in_thread(server.app(), [made]):
        yield server


class PatientOip(OipClient):
    """Waits for the answers to its probes as long as for any other."""

    async def describe(self, deadline_s: float | None = LONG_S) -> Description:
        return await super().describe(deadline_s)


def oip_pool(role: EngineRole, *urls: str, **limits: float) -> EnginePool:
    """The engines of one half at these addresses, whose servers tell which model they have."""
    return pool(role, *urls, kind=partial(PatientOip, number="auto", declared=None), **limits)  # type: ignore[arg-type]


@contextlib.contextmanager
def oip_remote(server: OipServer, **limits: float) -> Iterator[RemoteBackend]:
    """A backend over a server of both halves."""
    with oip_served(server):
        yield backend_of(*(oip_pool(role, server.url, **limits) for role in (EngineRole.ENCODER, EngineRole.DECODER)))


def oip_standing() -> RemoteBackend:
    """The same, as a backend that ends its server when it is closed."""
    with contextlib.ExitStack() as opening:
        backend = opening.enter_context(oip_remote(OipServer(ToyEngine())))
        stack, close = opening.pop_all(), backend.aclose

    async def aclose() -> None:
        await close()
        await asyncio.to_thread(stack.close)

    backend.aclose = aclose  # type: ignore[method-assign]
    return backend
