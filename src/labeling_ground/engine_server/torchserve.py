"""The handler of our TorchServe archives. ``handle`` is what TorchServe calls in each of its worker processes.

Light on purpose: every worker has its own copy of what is imported here. What an archive holds is written by
``models.archive``; TorchServe unpacks it into a folder and names that folder in its context.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from labeling_ground.errors import BadSettings
from labeling_ground.inference.graphs import Engine
from labeling_ground.inference.onnx_halves import CPU, PROMPTS, OnnxDecoder, OnnxEncoder, providers
from labeling_ground.inference.remote import wire
from labeling_ground.inference.remote.embedding_store import EmbeddingStore, default_folder
from labeling_ground.inference.remote.handler import InferenceHandler
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION
from labeling_ground.types import ModelVersion

log = logging.getLogger(__name__)

LAYOUT = 1
"""Of ``model.json``; what ``models.archive`` writes."""
THREADS, EMBEDDING_STORE_DIR, EMBEDDING_STORE_BYTES = (
    f"LABELING_GROUND_{name}" for name in ("THREADS", "EMBEDDING_STORE_DIR", "EMBEDDING_STORE_BYTES")
)
"""Environment: threads of one worker (all cores), and where and how much a decoder's workers keep of embeddings."""
BATCH_HEADER = "x-batch"
"""Of an answer: how many asks the worker was handed together with this one, itself included."""


_handlers: list[InferenceHandler] = []
"""The one engine of this process, once it is loaded."""


def handle(data: Sequence[Mapping[str, Any]] | None, context: Any) -> list[bytes]:
    """Answer a batch of requests, computed together: a bad one spoils no other. Without data: load the model.

    Raises:
        BadSettings: the archive cannot be used. TorchServe logs it and gives the worker up.
    """
    if data is None:
        _handlers[:] = [
            open_handler(Path(context.system_properties["model_dir"]), context.system_properties.get("gpu_id"))
        ]
        return []
    bodies = []
    for index, reply in enumerate(_handlers[0].answer_all([_body(row) for row in data])):
        if reply.status != 200:
            context.set_response_status(reply.status, "", index)
        context.set_response_content_type(index, reply.media_type)
        for name, value in {**reply.headers, BATCH_HEADER: str(len(data))}.items():
            context.set_response_header(index, name, value)
        bodies.append(reply.body)
    return bodies


def open_handler(folder: Path, gpu: int | None = None, environment: Mapping[str, str] = os.environ) -> InferenceHandler:
    """Load the half of a model that an archive holds.

    Args:
        folder: the unpacked archive.
        gpu: the number of the GPU that TorchServe has given this worker; without one, or where this build of ONNX
            Runtime cannot use it, the processor computes.
        environment: see ``THREADS``, ``EMBEDDING_STORE_DIR``, ``EMBEDDING_STORE_BYTES``.

    Raises:
        BadSettings: it cannot be used.
    """
    about = _about(folder)
    try:
        version, role = ModelVersion(about["model"], about["digest"]), wire.EngineRole(about["role"])
        files = {name: folder / file["file"] for name, file in about["files"].items()}
        given = {
            name: environment.get(name, "").strip() for name in (THREADS, EMBEDDING_STORE_DIR, EMBEDDING_STORE_BYTES)
        }  # empty: not set
        threads = int(given[THREADS] or os.cpu_count() or 1)
        embedding_store_bytes = int(given[EMBEDDING_STORE_BYTES] or 1 << 29)
        if threads < 1 or embedding_store_bytes < 0:
            raise ValueError(f"{THREADS} is {threads}, {EMBEDDING_STORE_BYTES} is {embedding_store_bytes}")
        half: OnnxEncoder | OnnxDecoder
        chosen = providers(gpu)
        if role is wire.EngineRole.ENCODER:
            half, kept = OnnxEncoder(files["encoder"], threads, chosen), None
        else:
            half = OnnxDecoder(
                files["decoder"],
                files.get("decoder-fast"),
                threads,
                chosen,
                many_at_once=False,
                together=1 if chosen == (CPU,) else PROMPTS,
            )
            kept = EmbeddingStore(Path(given[EMBEDDING_STORE_DIR] or default_folder()), embedding_store_bytes)
        description = wire.Description(version, half.family, about["precision"], role, about["note"], half.together)
    except (KeyError, TypeError, ValueError) as error:
        raise BadSettings(f"The archive or its environment cannot be used: {error!r}.") from error
    log.info("%s of %s is loaded: %d threads, %s", role, version, threads, half.computed_by)
    # A handler calls only that half of an engine that its description names.
    return InferenceHandler(cast("Engine", half), description, kept)


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / "model.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BadSettings(f"The archive has no model.json that can be read: {error}.") from error
    expected = {"layout": LAYOUT, "preprocessing_version": PREPROCESSING_VERSION}
    if not isinstance(about, dict) or any(about.get(name) != value for name, value in expected.items()):
        raise BadSettings("The archive was made for another version of labeling-ground: make it again.")
    return about


def _body(row: Mapping[str, Any]) -> bytes:
    """What was posted. TorchServe reads JSON and forms itself; such bodies are no asks of ours."""
    body = row.get("body")
    return bytes(body) if isinstance(body, (bytes, bytearray)) else b""
