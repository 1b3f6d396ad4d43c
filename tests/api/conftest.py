"""A server with a tiny honest model, in process or behind a real socket."""

import asyncio
import contextlib
import io
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image as Pillow
from pycocotools import mask as coco
from tests.doubles import until

from labeling_ground.adapters.choose import choose_adapters
from labeling_ground.api.app import create_app
from labeling_ground.api.state import AppState
from labeling_ground.cli.running import configuration, listen
from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import DecodeAsk, ModelInfo
from labeling_ground.settings import Settings
from labeling_ground.testing.toy_concepts import ToyConcepts
from labeling_ground.types import Embedding, Image, Mask, ModelVersion, Prediction, Prompt
from labeling_ground.wiring import build_parts

LONG_S = 60.0
"""Longer than this machine, busy as it may be with other things, stands still."""
PATIENT: dict[str, Any] = dict.fromkeys(("lookup_deadline_ms", "mask_window_ms", "embedding_window_ms"), 1e3 * LONG_S)
"""What is a hit and what a miss says nothing here of how fast the disk is today."""


def from_rle(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask of an answer in COCO's run lengths."""
    decoded: NDArray[np.uint8] = coco.decode({"size": rle["size"], "counts": rle["counts"].encode()})
    return decoded.astype(np.bool_)


@dataclass
class ToyBackend:
    """Discs around the positive points, or the box, less discs around the negative ones. Counts what it is asked."""

    version: ModelVersion = field(default_factory=lambda: ModelVersion("toy", "0" * 64))
    note: str = "A toy: its masks are discs."
    encodes: int = 0
    decodes: int = 0
    cancelled: int = 0
    fail_decode: BaseException | None = None
    fail_encode: BaseException | None = None
    encode_may_go_on: threading.Event = field(default_factory=threading.Event)
    decode_may_go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.encode_may_go_on.set()
        self.decode_may_go_on.set()

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(self.version, self.note)

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        self.encodes += 1
        await self._wait(self.encode_may_go_on)
        if self.fail_encode is not None:
            raise self.fail_encode
        return [self._embed(image) for image in images]

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        self.decodes += 1
        await self._wait(self.decode_may_go_on)
        if self.fail_decode is not None:
            raise self.fail_decode
        return [self._predict(*ask) for ask in asks]

    async def aclose(self) -> None:
        return

    async def _wait(self, event: threading.Event) -> None:
        try:
            while not event.is_set():  # noqa: ASYNC110 -- tests set it from other threads
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @staticmethod
    def _embed(image: Image) -> Embedding:
        grey = image.pixels[:: max(1, image.height // 8), :: max(1, image.width // 8), :].astype(np.float32)
        return Embedding({"toy": grey}, image.height, image.width)

    @staticmethod
    def _predict(embedding: Embedding, prompt: Prompt) -> Prediction:
        rows, columns = np.mgrid[: embedding.height, : embedding.width]
        masks = []
        for index, share in enumerate((0.25, 0.35, 0.15) if prompt.multimask else (0.25,)):
            radius = share * min(embedding.height, embedding.width)
            pixels = np.zeros((embedding.height, embedding.width), np.bool_)
            if prompt.mask_input is not None:
                pixels |= bool(prompt.mask_input.max() > 0)
            if prompt.box is not None:
                box = prompt.box
                pixels |= (columns >= box.x0) & (columns < box.x1) & (rows >= box.y0) & (rows < box.y1)
            for label in (1, 0):
                for point in prompt.points:
                    if point.label == label:
                        disc = (columns - point.x) ** 2 + (rows - point.y) ** 2 <= radius**2
                        pixels = pixels | disc if label else pixels & ~disc
            refined = 0.0 if prompt.mask_input is None else float(prompt.mask_input.mean()) / 2
            logits = np.full((256, 256), 1.0 + index + refined, np.float32)
            masks.append(Mask(pixels, 0.9 - 0.1 * index, logits))
        return Prediction(tuple(masks))


class GatedConcepts(ToyConcepts):
    """Finds colours; waits until a test in another thread lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.encode_may_go_on, self.decode_may_go_on = threading.Event(), threading.Event()
        self.decode_may_go_on.set()

    async def _work(self, seconds: float) -> None:
        while not self.decode_may_go_on.is_set():  # noqa: ASYNC110 -- tests set it from other threads
            await asyncio.sleep(0.002)
        await super()._work(seconds)


@dataclass
class Running:
    """A server that a test talks to."""

    app: FastAPI
    app_state: AppState
    backend: ToyBackend
    client: httpx.AsyncClient

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds."""
        await until(holds, most_s=LONG_S)

    async def until_asked(self, askers: int) -> None:
        """Wait until so many wait for one computation."""
        flights = self.app_state.predictor.flights._flights
        await self.until(lambda: any(flight.askers == askers for flight in flights.values()))

    async def until_ready(self) -> None:
        """Wait for the model's warm-up."""
        await self.until(lambda: bool(self.app.state.model_check == "ok"))

    async def send_image(self, file: bytes, **headers: str) -> str:
        """Send an image, and give its id."""
        answer = await self.client.post("/v1/images", content=file, headers=headers)
        assert answer.status_code == 200, answer.text
        image_id: str = answer.json()["image_id"]
        return image_id

    async def click(self, image_id: str, x: float, y: float, **more: Any) -> httpx.Response:
        """Ask for masks at one point."""
        return await self.client.post(f"/v1/images/{image_id}/masks", json={"points": [{"x": x, "y": y}], **more})


Start = Callable[..., AbstractAsyncContextManager[Running]]
StartReal = Callable[..., AbstractContextManager["RealServer"]]


@dataclass
class RealServer:
    """A server behind a real socket, on a thread of its own."""

    url: str
    port: int
    backend: ToyBackend
    app_state: AppState
    stop: Callable[[], None]
    """Has it stop, as a signal would."""


def soon(holds: Callable[[], bool], timeout: float = LONG_S) -> None:
    """Wait until something holds, in a test that is not asynchronous."""
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


@pytest.fixture
def make_backend() -> type[ToyBackend]:
    """A toy model to be handed to ``start``, for a test that must hold it before the server runs."""
    return ToyBackend


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a small server with its own folder."""

    def make(**chosen: Any) -> Settings:
        small: dict[str, Any] = {"cache_dir": tmp_path / "cache", "memory_bytes": 64 << 20, "disk_bytes": 256 << 20}
        return Settings(**{**small, **PATIENT, **chosen})

    return make


@pytest.fixture
def start(make_settings: Callable[..., Settings]) -> Start:
    """Start a server in this process: ``async with start(max_points=3) as server``."""

    @contextlib.asynccontextmanager
    async def started(
        *, backend: ToyBackend | None = None, real_engine: bool = False, warm: bool = True, **chosen: Any
    ) -> AsyncIterator[Running]:
        toy = backend or ToyBackend()
        app_state = build_parts(make_settings(**chosen), backend=None if real_engine else toy)
        app = create_app(app_state, choose_adapters(app_state))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://server", timeout=LONG_S) as client,
        ):
            running = Running(app, app_state, toy, client)
            if warm:
                await running.until_ready()
                toy.encodes = toy.decodes = 0
            yield running

    return started


@pytest.fixture
async def server(start: Start) -> AsyncIterator[Running]:
    """A server with default limits, its model warm."""
    async with start() as running:
        yield running


@pytest.fixture
def start_real(make_settings: Callable[..., Settings]) -> StartReal:
    """Start a server on a free port: ``with start_real() as server``."""

    @contextlib.contextmanager
    def started(*, backend: ToyBackend | None = None, **chosen: Any) -> Iterator[RealServer]:
        toy = backend or ToyBackend()
        settings = make_settings(**{"shutdown_grace_s": 5, **chosen})
        app_state = build_parts(settings, backend=toy)
        app = create_app(app_state, choose_adapters(app_state))
        uvicorn_server = uvicorn.Server(configuration(app, settings))
        listener = listen("127.0.0.1", 0, hint="")
        thread = threading.Thread(target=uvicorn_server.run, args=([listener],))
        thread.start()
        try:
            soon(lambda: uvicorn_server.started or not thread.is_alive())
            soon(lambda: app.state.model_check == "ok")
            toy.encodes = toy.decodes = 0
            port = listener.getsockname()[1]
            yield RealServer(
                f"http://127.0.0.1:{port}", port, toy, app_state, lambda: setattr(uvicorn_server, "should_exit", True)
            )
        finally:
            toy.encode_may_go_on.set()
            toy.decode_may_go_on.set()
            uvicorn_server.should_exit = True
            thread.join(LONG_S)
        assert not thread.is_alive()

    return started


_seeds = itertools.count()


@pytest.fixture
def make_image() -> Callable[..., bytes]:
    """Image files, each different from all others: ``make_image(64, 48, "JPEG")``."""

    def make(width: int = 64, height: int = 48, format: str = "PNG", **saving: Any) -> bytes:  # noqa: A002
        pixels = np.random.default_rng(next(_seeds)).integers(0, 256, (height, width, 3), np.uint8)
        file = io.BytesIO()
        Pillow.fromarray(pixels).save(file, format, **saving)
        return file.getvalue()

    return make


@pytest.fixture
def backend_failure() -> BackendFailed:
    """What a model raises that does not answer."""
    return BackendFailed("The model is on holiday. Try again.")
