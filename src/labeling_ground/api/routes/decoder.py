"""For clients that decode by themselves: the model's decoder, and what the labeling page runs it with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, Response

from labeling_ground.api import responses
from labeling_ground.api.errors import problem_responses
from labeling_ground.api.requests import caller_of, model_for, pools_of, state_of
from labeling_ground.api.schemas.common import SHA256
from labeling_ground.errors import NotFound
from labeling_ground.inference.backend import Backend
from labeling_ground.inference.graphs import Precision, version_from
from labeling_ground.inference.sam import SamBackend
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.settings import Settings
from labeling_ground.types import ModelVersion
from labeling_ground.web import browser_runtime
from labeling_ground.web.pages import WASM_HEADERS, matches

router = APIRouter(prefix="/v1/models", tags=["models"])

_FOR_EVER = "max-age=31536000, immutable"
_ROLES = (Role.ENCODER, Role.DECODER, Role.FAST_DECODER)


@dataclass(frozen=True, slots=True)
class DecoderFile:
    """A decoder that a client can run.

    Attributes:
        path: the ONNX file.
        sha256: of its bytes, hex.
        bytes: its size.
        family: a value of ``Family``: which prompts it reads, and how its logits lie over the image.
    """

    path: Path
    sha256: str
    bytes: int
    family: str


def find_decoder(settings: Settings, backend: Backend, version: ModelVersion) -> DecoderFile:
    """The decoder of a model version that is served: to embeddings of another one it would answer with noise.

    It is the one for prompts of few tokens where there are two, as it takes any prompt and most have few. Reads a
    manifest, so it is for a thread.

    Raises:
        NotFound: the model has none, it is not here, or clients may not have it.
    """
    name = version.model
    if not settings.share_decoder:
        raise NotFound("This server keeps its decoders to itself: ask for masks instead.")
    store = ModelStore(settings.models_dir)
    noted, here = store.noted(name), store.get(name)
    files = here.files if here is not None else {}
    role = Role.FAST_DECODER if Role.FAST_DECODER in files else Role.DECODER
    if noted is None or role not in files:
        raise NotFound(
            f"The decoder of {name} is no file of this server, so only the server can run it: ask for masks instead."
        )
    digests = [noted.files[part].sha256 for part in _ROLES if part in noted.files]
    if version not in (version_from(name, digests, precision) for precision in get_args(Precision)):
        raise NotFound(f"The files of {name} on this server are not those of the version that is served.")
    if isinstance(backend, SamBackend):
        family: str | None = backend.family.value
    else:
        family = store.known.model(name).family if name in store.known else noted.family
    if family is None:
        raise NotFound(f"Of which family {name} is stands nowhere, so nobody could tell how to run its decoder.")
    return DecoderFile(store.blob(files[role].sha256), files[role].sha256, files[role].bytes, family)


@router.get(
    "/{model}/decoder",
    summary="The model's decoder",
    response_class=Response,
    responses={
        200: {
            "description": "An ONNX file. Its `ETag` is its SHA-256.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "The client has it (`If-None-Match`)"},
        **problem_responses(401, 404, 422, 503, 507),
    },
)
async def get_model_decoder(
    request: Request,
    model: Annotated[str, InPath(description="A model id of `/v1/models`.", examples=["mobile-sam"])],
    sha256: Annotated[
        str | None,
        Query(
            pattern=SHA256,
            description="Its digest, from `/v1/models`: the answer is then this file, for ever, or 404.",
        ),
    ] = None,
) -> Response:
    """For clients that run it on the image's embedding themselves. 404 for a model whose decoder is no such file.

    Embedding and decoder must be of one `model_version`: the `X-Model-Version` of both answers is the same.
    """
    caller_of(request)
    backend = (await model_for(request, model)).predictor.backend
    version = backend.info.version
    found = await pools_of(request).files.run(find_decoder, state_of(request).settings, backend, version)
    if sha256 is not None and sha256.lower() != found.sha256:
        raise NotFound(f"{model} has another decoder by now. Ask /v1/models for its digest.")
    headers = {
        "ETag": f'"{found.sha256}"',
        "Cache-Control": f"private, {_FOR_EVER if sha256 else 'no-cache'}",
        "X-Model-Version": str(version),
    }
    if matches(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return FileResponse(found.path, headers=headers, media_type="application/octet-stream")


def install_runtime(app: FastAPI, runtime: Path | None) -> None:
    """Serve ONNX Runtime Web to the labeling page, or tell it that there is none.

    Args:
        app: before the pages' own files are installed in it, which have the rest of ``/web``.
        runtime: what ``browser_runtime.find`` found.
    """
    version = browser_runtime.VERSION
    told = {"version": version, "module": f"web/runtime/{version}/{browser_runtime.MODULE}"} if runtime else None

    @app.get("/web/decoder.json", include_in_schema=False)
    async def what_there_is() -> Response:
        answer = responses.as_json({"runtime": told})
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    @app.get("/web/runtime/{of}/{name}", include_in_schema=False)
    async def file(of: str, name: str) -> Response:
        known = browser_runtime.FILES.get(name)
        if runtime is None or known is None or of != version:
            raise NotFound("ONNX Runtime Web is not here: get it with 'labeling-ground browser-decoder'.")
        headers = {**WASM_HEADERS, "Cache-Control": f"public, {_FOR_EVER}", "ETag": f'"{known.sha256}"'}
        return FileResponse(runtime / name, headers=headers, media_type=known.media_type)
