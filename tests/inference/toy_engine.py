"""An engine of a few lines with SAM's shapes, and engine servers on it: in a thread, or in a process to be killed.

Its masks depend on the image and on the prompt, so that a mix-up of either shows.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.running import in_thread

from labeling_ground.cli.running import run
from labeling_ground.draining import Drain
from labeling_ground.engine_server.app import ModelEndpoint, create_engine_app
from labeling_ground.inference.graphs import Engine, EngineAsk, FloatArray, together
from labeling_ground.inference.remote.addresses import Address, Addresses, Resolve
from labeling_ground.inference.remote.backend import RemoteBackend, connect
from labeling_ground.inference.remote.client import EngineClient, EngineLimits
from labeling_ground.inference.remote.concept_backend import RemoteConceptBackend
from labeling_ground.inference.remote.embedding_store import EmbeddingStore
from labeling_ground.inference.remote.handler import InferenceHandler
from labeling_ground.inference.remote.pool import EnginePool, EngineSelection
from labeling_ground.inference.remote.wire import Description, EngineRole
from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import LOW_RES, SIDE
from labeling_ground.sam.preprocess import preprocess
from labeling_ground.sam.prompts import PromptTensors
from labeling_ground.service.queues import FairQueue
from labeling_ground.settings import Settings
from labeling_ground.types import ModelVersion

VERSION = ModelVersion("toy-sam", "a" * 64)
OTHER = ModelVersion("toy-sam", "b" * 64)
NAMES = {EngineRole.ENCODER: "toy_encode", EngineRole.DECODER: "toy_decode"}
LONG_S = 60.0
"""So long is waited for what certainly happens: a busy machine may stand still for seconds."""


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class ToyEngine:
    """See above.

    Attributes:
        family: whose shapes.
        decode_s: how long a decode takes.
        go: no decode ends before it is set.
        seed: another one is another model.
    """

    family: Family = Family.SAM
    decode_s: float = 0.0
    seed: int = 1
    encodes: int = 0
    decodes: int = 0
    most_at_once: int = 0
    at_once: int = 0
    go: threading.Event = field(default_factory=_set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        with self.lock:
            self.encodes += 1
        return self.embedding_of(preprocess(pixels, self.family))

    def embedding_of(self, square: FloatArray) -> dict[str, FloatArray]:
        pooled = square.reshape(3, 64, SIDE // 64, 64, SIDE // 64).mean(axis=(0, 2, 4))
        made = {}
        for name, shape in self.family.embedding_shapes.items():
            scales = np.linspace(0.5, 1.5, shape[1], dtype=np.float32) * self.seed
            grown = pooled.repeat(shape[2] // 64, 0).repeat(shape[3] // 64, 1)
            made[name] = (scales[:, None, None] * grown)[None].astype(np.float32)
        return made

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        del alone
        with self.lock:
            self.decodes += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.decode_s)
        self.go.wait(LONG_S)
        seen = np.mean([x.astype(np.float64).mean(axis=(0, 1)).mean() for x in embedding.values()])
        image = embedding["image_embeddings"][0, 7].repeat(4, 0).repeat(4, 1)
        y, x = np.mgrid[0:LOW_RES, 0:LOW_RES].astype(np.float32)
        logits = np.full((LOW_RES, LOW_RES), -1e3, np.float32)
        for (px, py), label in zip(prompt.point_coords[0] / 4, prompt.point_labels[0], strict=True):
            if label >= 1:
                logits = np.maximum(logits, 20 - np.hypot(x - px, y - py) + 5 * np.tanh(image))
        if prompt.has_mask_input[0]:
            logits = np.maximum(logits, prompt.mask_input[0, 0])
        with self.lock:
            self.at_once -= 1
        scores = np.array([0.9, 0.7, 0.8, 0.6]) + 0.05 * np.tanh(seen)
        return np.stack([logits + 4 * i for i in range(4)]).astype(np.float32), scores.astype(np.float32)


@dataclass
class TogetherEngine(ToyEngine):
    """Takes four asks in one run, and notes how many each run had."""

    encodes_together: int = 4
    decodes_together: int = 4
    runs: list[int] = field(default_factory=list)

    def encode_all(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, FloatArray]]:
        self.runs.append(len(images))
        return [self.encode(pixels) for pixels in images]

    def decode_all(self, asks: Sequence[EngineAsk], *, alone: bool) -> list[tuple[FloatArray, FloatArray]]:
        self.runs.append(len(asks))
        return [self.decode(*ask, alone=alone) for ask in asks]


def endpoint(
    role: EngineRole, engine: Engine, kept: Path, *, version: ModelVersion = VERSION, workers: int = 2
) -> ModelEndpoint:
    description = Description(
        version, engine.family, "fp32", role, together=together(engine)[role is EngineRole.DECODER]
    )
    keeps = EmbeddingStore(kept, 64 << 20) if role is EngineRole.DECODER else None
    detector = FairQueue("detector", 1, 64) if engine.family.finds_concepts else None
    handler = InferenceHandler(engine, description, keeps)
    return ModelEndpoint(NAMES[role], handler, workers=workers, queue=64, detector=detector)


@dataclass
class Served:
    """An engine server in a thread. What it serves can be exchanged."""

    port: int
    management_port: int
    endpoints: list[ModelEndpoint]
    host: str = "127.0.0.1"
    drain: Drain = field(default_factory=Drain)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def listener(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    made.listen(64)
    made.setblocking(False)
    return made


@contextlib.contextmanager
def served(*endpoints: ModelEndpoint, port: int = 0, host: str = "127.0.0.1") -> Iterator[Served]:
    """Serve from a thread."""
    sockets = [listener(port, host), listener()]
    ports = [made.getsockname()[1] for made in sockets]
    drain = Drain()
    app = create_engine_app(
        endpoints, management_port=ports[1], most_bytes=32 << 20, most_held=256 << 20, silence_s=LONG_S, drain=drain
    )
    with in_thread(app, sockets):
        yield Served(ports[0], ports[1], list(endpoints), host, drain)


class Patient(EngineClient):
    """Waits for the answers to its probes as long as for any other: a machine that stands still is no busy engine."""

    async def describe(self, deadline_s: float | None = LONG_S) -> Description:
        return await super().describe(deadline_s)


def pool(
    role: EngineRole,
    *urls: str,
    management: str = "",
    kind: Callable[[Address, EngineLimits], EngineClient] = Patient,
    resolve: Resolve | None = None,
    **limits: float,
) -> EnginePool:
    """The engines of one half at these addresses."""
    chosen = {"connect_s": LONG_S, "deadline_s": 2 * LONG_S, "most_bytes": 32 << 20, "reset_s": 0.1, **limits}
    is_decoder = role is EngineRole.DECODER
    return EnginePool(
        Addresses(role.value, urls, NAMES[role], [management] * len(urls) if management else (), resolve),
        EngineLimits(**chosen),  # type: ignore[arg-type]
        EngineSelection(by_key=is_decoder, patience=0.5 if is_decoder else 1.0),
        workers=1 + is_decoder,
        ahead=int(is_decoder),
        kind=kind,
    )


def backend_of(encoders: EnginePool, decoders: EnginePool, **chosen: float) -> RemoteBackend:
    serving = connect(encoders, decoders, model="", wait_s=LONG_S)
    settings = {"poll_s": 60.0, "reset_s": 0.1, **chosen}
    kind = RemoteConceptBackend if serving.family.finds_concepts else RemoteBackend
    return kind(encoders, decoders, **settings)  # type: ignore[arg-type]


@contextlib.contextmanager
def remote(engine: Engine, kept: Path, *, workers: int = 2) -> Iterator[RemoteBackend]:
    """A backend over an engine server that serves both halves of an engine."""
    with served(
        endpoint(EngineRole.ENCODER, engine, kept, workers=1),
        endpoint(EngineRole.DECODER, engine, kept, workers=workers),
    ) as both:
        management = f"http://127.0.0.1:{both.management_port}"
        yield backend_of(
            *(pool(role, both.url, management=management) for role in (EngineRole.ENCODER, EngineRole.DECODER))
        )


def standing(engine: Engine) -> RemoteBackend:
    """The same, as a backend that ends its server when it is closed."""
    with contextlib.ExitStack() as opening:
        kept = Path(opening.enter_context(tempfile.TemporaryDirectory()))
        backend = opening.enter_context(remote(engine, kept))
        stack, close = opening.pop_all(), backend.aclose

    async def aclose() -> None:
        await close()
        await asyncio.to_thread(stack.close)

    backend.aclose = aclose  # type: ignore[method-assign]
    return backend


@contextlib.contextmanager
def process(
    role: EngineRole, kept: Path, port: int, *, digest: str = VERSION.digest
) -> Iterator[subprocess.Popen[bytes]]:
    """One half on a port, in a process; ready."""
    command = [sys.executable, "-m", "tests.inference.toy_engine", role.value, str(kept), str(port), digest]
    started = subprocess.Popen(command)
    try:
        until = time.monotonic() + LONG_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert started.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        yield started
    finally:
        started.kill()
        started.wait(10)


def main() -> None:
    role, kept, port, digest = EngineRole(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    one = endpoint(role, ToyEngine(decode_s=0.02), kept, version=ModelVersion("toy-sam", digest))
    drain = Drain()
    app = create_engine_app(
        [one], management_port=0, most_bytes=32 << 20, most_held=256 << 20, silence_s=LONG_S, drain=drain
    )
    run(app, Settings(), listener(port), drain=drain)


if __name__ == "__main__":
    main()
