"""The proxy's backend over the real TorchServe: the same as the engine in this process."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import pytest
from tests.doubles import encoded, on, through_the_cache
from tests.inference.engines import HEIGHT, PROMPTS, WIDTH, image
from tests.inference.toy_engine import Patient
from tests.torchserve.conftest import DECODER, ENCODER, MODEL, THREADS, Archives
from tests.torchserve.server import TorchServe

from labeling_ground.errors import BadSettings
from labeling_ground.inference.graphs import FloatArray, version_of
from labeling_ground.inference.remote.addresses import Addresses
from labeling_ground.inference.remote.backend import RemoteBackend, connect
from labeling_ground.inference.remote.client import EngineClient, EngineLimits
from labeling_ground.inference.remote.pool import EnginePool, EngineSelection
from labeling_ground.inference.sam import SamBackend
from labeling_ground.models.archive import version_files
from labeling_ground.types import Embedding, Prediction

pytestmark = pytest.mark.anyio

LIMITS = EngineLimits(connect_s=60.0, deadline_s=120.0, most_bytes=64 << 20, reset_s=1.0)


def pool(server: TorchServe, half: str, name: str) -> EnginePool:
    addresses = Addresses(half, [server.inference], name, [server.management])
    is_decoder = half == "decoder"
    return EnginePool(addresses, LIMITS, EngineSelection(is_decoder), workers=7, ahead=int(is_decoder), kind=Patient)


@contextlib.asynccontextmanager
async def remote(server: TorchServe) -> AsyncIterator[tuple[RemoteBackend, EngineClient]]:
    encoders, decoders = pool(server, "encoder", ENCODER), pool(server, "decoder", DECODER)
    for _ in range(20):  # a busy machine may not tell its workers in the time that connecting gives it
        connect(encoders, decoders, model=MODEL, wait_s=120.0)
        if None not in (encoders.members[0].workers, decoders.members[0].workers):
            break
    backend = RemoteBackend(encoders, decoders, model=MODEL, poll_s=60.0, reset_s=1.0)
    decoder = decoders.members[0]
    try:
        yield backend, decoder
    finally:
        await backend.aclose()


async def test_it_computes_what_the_engine_in_this_process_computes(
    server: TorchServe, archives: Archives, engine: Any, embedding: Mapping[str, FloatArray]
) -> None:
    version = version_of(MODEL, version_files(archives.store, MODEL), "fp32")
    here = SamBackend(engine, version, "", decode_threads=THREADS)
    async with remote(server) as (backend, _):
        assert backend.info.version == here.info.version
        assert "random" in backend.info.note
        made, expected = await encoded(backend, image()), Embedding(embedding, HEIGHT, WIDTH)
        assert (made.height, made.width) == (HEIGHT, WIDTH)
        for name, tensor in embedding.items():
            np.testing.assert_array_equal(made.tensors[name], tensor)
        for prompt in PROMPTS:
            check_same(await backend.decode(on(made, [prompt])), await here.decode(on(expected, [prompt])))
        stored = through_the_cache(made)
        check_same(await backend.decode(on(stored, [PROMPTS[0]])), await here.decode(on(stored, [PROMPTS[0]])))
    await here.aclose()


def check_same(made: list[Prediction], expected: list[Prediction]) -> None:
    for ours, theirs in zip(made, expected, strict=True):
        for a, b in zip(ours.masks, theirs.masks, strict=True):
            np.testing.assert_array_equal(a.logits, b.logits)
            np.testing.assert_array_equal(a.pixels, b.pixels)
            assert a.score == b.score


async def test_a_click_on_a_known_image_carries_no_embedding(
    server: TorchServe, embedding: Mapping[str, FloatArray]
) -> None:
    mine = Embedding({name: tensor + np.float32(1) for name, tensor in embedding.items()}, HEIGHT, WIDTH)
    async with remote(server) as (backend, decoder):
        await backend.decode(on(mine, [PROMPTS[0]]))
        first = decoder.figures("").sent_bytes
        assert first > mine.nbytes
        for prompt in PROMPTS[:3]:
            await backend.decode(on(mine, [prompt]))
        assert decoder.figures("").sent_bytes - first < 3 * 1000


async def test_workers_are_counted_by_the_management_api(server: TorchServe) -> None:
    async with remote(server) as (backend, decoder):
        assert (decoder.workers, decoder.queue) == (2, 0)
        assert (backend.info.encodes_at_once, backend.info.decodes_at_once) == (1, 3)


async def test_archives_of_the_wrong_halves_are_refused(server: TorchServe) -> None:
    with pytest.raises(BadSettings, match="says it is the decoder"):
        connect(pool(server, "encoder", DECODER), pool(server, "decoder", ENCODER), model="", wait_s=0.0)
