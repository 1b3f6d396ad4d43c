"""The backend whose engines are elsewhere: over a real loopback server, one that misbehaves, and processes that die."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.doubles import TENANT, encoded, image_bytes, on, send, serving, until
from tests.inference.remote_asks import PROMPTS, image, same
from tests.inference.toy_engine import (
    LONG_S,
    OTHER,
    VERSION,
    ToyEngine,
    backend_of,
    endpoint,
    pool,
    process,
    remote,
    served,
)
from tests.ports import free_port

from labeling_ground import key as keys
from labeling_ground.codec.records import open_embedding, seal_embedding
from labeling_ground.codec.tensors import pack
from labeling_ground.errors import BackendFailed, BadPrompt, BadSettings, LabelingGroundError, Overloaded
from labeling_ground.inference.graphs import FloatArray
from labeling_ground.inference.remote import envelope, wire
from labeling_ground.inference.remote.addresses import Address
from labeling_ground.inference.remote.backend import RemoteBackend, connect
from labeling_ground.inference.remote.client import EngineClient, read_management
from labeling_ground.inference.remote.pool import EnginePool
from labeling_ground.inference.remote.wire import EngineRole
from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.family import Family
from labeling_ground.sam.prompts import PromptTensors
from labeling_ground.types import Embedding, Outcome, Point, Prediction, Prompt

pytestmark = pytest.mark.anyio

CLICK = PROMPTS[0]


def cached(embedding: Embedding, precision: str = "fp16") -> Embedding:
    return open_embedding(
        seal_embedding("k", embedding, cost=1.0, created=0.0, precision=precision),  # type: ignore[arg-type]
        "k",
    )


def forget(kept: Path) -> None:
    for file in kept.iterdir():
        file.unlink()


async def soon(what: Callable[[], Awaitable[bool]], seconds: float = LONG_S) -> None:
    until = time.monotonic() + seconds
    while not await what():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


# --- what must be as if the engine were here ------------------------------------------------------------------------


@pytest.mark.parametrize("family", [Family.SAM, Family.SAM2])
async def test_masks_are_those_of_the_same_engine_in_this_process(tmp_path: Path, family: Family) -> None:
    here = SamBackend(ToyEngine(family), VERSION, "", decode_threads=2)
    with remote(ToyEngine(family), tmp_path) as there:
        assert there.info.version == VERSION
        embedding, expected = await encoded(there, image()), await encoded(here, image())
        assert (embedding.height, embedding.width) == (expected.height, expected.width)
        for name in family.embedding_names:
            np.testing.assert_array_equal(embedding.tensors[name], expected.tensors[name])
        for given in (embedding, cached(embedding), cached(embedding, "fp32")):
            same(await there.decode(on(given, PROMPTS)), await here.decode(on(given, PROMPTS)))
        sketched, wanted = await there.sketch(on(embedding, [CLICK])), await here.sketch(on(embedding, [CLICK]))
        assert [one.score for one in sketched[0]] == [one.score for one in wanted[0]]
        np.testing.assert_array_equal(sketched[0][0].draw(1.0)[0], wanted[0][0].draw(1.0)[0])
        assert there.usual == here.usual
        await there.aclose()
    await here.aclose()


async def test_an_embedding_travels_once_and_a_click_after_that_is_small(tmp_path: Path) -> None:
    with remote(ToyEngine(), tmp_path) as backend:
        embedding = cached(await encoded(backend, image()))
        await backend.decode(on(embedding, [CLICK]))
        decoder = backend.engines()[1]
        assert decoder.sent_bytes > 2 << 20
        await backend.decode(on(embedding, [CLICK]))
        after = backend.engines()[1]
        assert after.sent_bytes - decoder.sent_bytes < 1024
        assert after.received_bytes - decoder.received_bytes < 3 * 256 * 256 * 4 + 1024
        await backend.decode(on(embedding, [Prompt(CLICK.points, multimask=False)]))
        assert backend.engines()[1].received_bytes - after.received_bytes < 256 * 256 * 4 + 1024
        await backend.aclose()


async def test_of_many_prompts_on_a_new_image_one_brings_the_embedding(tmp_path: Path) -> None:
    with remote(ToyEngine(), tmp_path) as backend:
        embedding = cached(await encoded(backend, image()))
        prompts = [Prompt((Point(x, 50, 1),)) for x in range(10, 90, 10)]
        await asyncio.gather(*(backend.decode(on(embedding, [prompt])) for prompt in prompts))
        assert backend.engines()[1].sent_bytes < 3 << 20
        await backend.aclose()


async def test_an_embedding_that_the_decoder_has_lost_is_sent_again(tmp_path: Path) -> None:
    with remote(ToyEngine(), tmp_path) as backend:
        embedding = cached(await encoded(backend, image()))
        before = await backend.decode(on(embedding, PROMPTS))
        forget(tmp_path)
        same(await backend.decode(on(embedding, PROMPTS)), before)
        await backend.aclose()


async def test_embeddings_of_two_images_are_never_taken_for_each_other(tmp_path: Path) -> None:
    here = SamBackend(ToyEngine(), VERSION, "", decode_threads=1)
    with remote(ToyEngine(), tmp_path) as backend:
        given = [cached(await encoded(here, image(seed))) for seed in range(3)]
        expected = [await here.decode(on(embedding, PROMPTS)) for embedding in given]
        for _ in range(2):
            made = await asyncio.gather(*(backend.decode(on(embedding, PROMPTS)) for embedding in given))
            for one, other in zip(made, expected, strict=True):
                same(one, other)
        await backend.aclose()
    await here.aclose()


async def test_no_more_prompts_are_sent_than_the_decoder_has_workers_and_one(tmp_path: Path) -> None:
    engine = ToyEngine(decode_s=0.02)
    with remote(engine, tmp_path, workers=2) as backend:
        assert backend.info.decodes_at_once == 3
        embedding = cached(await encoded(backend, image()))
        await backend.decode(on(embedding, [CLICK]))
        engine.go.clear()
        clicks = asyncio.ensure_future(backend.decode(on(embedding, [Prompt((Point(x, 50, 1),)) for x in range(12)])))

        async def two_compute() -> bool:
            return engine.at_once == 2

        try:
            await soon(two_compute)
        finally:
            engine.go.set()
        await clicks
        assert engine.most_at_once == 2
        await backend.aclose()


async def test_an_empty_prompt_is_the_callers_fault(tmp_path: Path) -> None:
    with remote(ToyEngine(), tmp_path) as backend:
        [embedding] = await backend.encode([image()])
        with pytest.raises(BadPrompt):
            await backend.decode(on(embedding, [Prompt()]))
        with pytest.raises(BackendFailed, match="not one of this model"):
            await backend.decode(on(Embedding({"regions": np.zeros(3)}, 5, 5), [CLICK]))
        assert not backend.failing()
        await backend.aclose()


# --- another model ---------------------------------------------------------------------------------------------------


async def test_a_new_model_is_met_with_its_own_version_and_never_with_the_old_one(tmp_path: Path) -> None:
    encoder, decoder = (endpoint(role, ToyEngine(), tmp_path) for role in (EngineRole.ENCODER, EngineRole.DECODER))
    with served(encoder, decoder) as both:
        management = f"http://127.0.0.1:{both.management_port}"
        backend = backend_of(
            *(pool(role, both.url, management=management) for role in (EngineRole.ENCODER, EngineRole.DECODER))
        )
        [old] = await backend.encode([image()])
        decoder.handler = endpoint(EngineRole.DECODER, ToyEngine(seed=2), tmp_path, version=OTHER).handler
        with pytest.raises(BackendFailed, match="changed to another model"):
            await backend.decode(on(old, [CLICK]))
        assert backend.info.version == VERSION  # only one half has changed: there is no new model yet
        assert "must be halves of one model" in backend.failing()["model"]
        assert (await encoded(backend, image())).height == old.height  # the encoder still serves what it says
        encoder.handler = endpoint(EngineRole.ENCODER, ToyEngine(seed=2), tmp_path, version=OTHER).handler
        with pytest.raises(BackendFailed, match="changed to another model"):
            await backend.encode([image()])
        assert backend.info.version == OTHER
        assert not backend.failing()
        [new] = await backend.encode([image()])
        assert (new.tensors["image_embeddings"] != old.tensors["image_embeddings"]).any()
        assert (await backend.decode(on(new, [CLICK])))[0].masks
        await backend.aclose()


async def test_a_new_model_is_noticed_while_nobody_asks(tmp_path: Path) -> None:
    encoder, decoder = (endpoint(role, ToyEngine(), tmp_path) for role in (EngineRole.ENCODER, EngineRole.DECODER))
    with served(encoder, decoder) as both:
        management = f"http://127.0.0.1:{both.management_port}"
        clients = [pool(role, both.url, management=management) for role in (EngineRole.ENCODER, EngineRole.DECODER)]
        backend = backend_of(clients[0], clients[1], poll_s=0.05)
        await backend.encode([image()])
        for half in (encoder, decoder):
            half.handler = endpoint(half.handler.description.role, ToyEngine(), tmp_path, version=OTHER).handler

        async def has_changed() -> bool:
            return backend.info.version == OTHER

        await soon(has_changed)
        await backend.aclose()


def test_engines_that_do_not_belong_together_are_refused_at_start(tmp_path: Path) -> None:
    encoder = endpoint(EngineRole.ENCODER, ToyEngine(), tmp_path)
    decoder = endpoint(EngineRole.DECODER, ToyEngine(), tmp_path, version=OTHER)
    with served(encoder, decoder) as both:
        one, other = pool(EngineRole.ENCODER, both.url), pool(EngineRole.DECODER, both.url)
        with pytest.raises(BadSettings, match="must be halves of one model"):
            connect(one, other, model="", wait_s=0)
        decoder.handler = endpoint(EngineRole.DECODER, ToyEngine(), tmp_path).handler
        with pytest.raises(BadSettings, match="the setting 'model' wants sam-vit-h"):
            connect(one, other, model="sam-vit-h", wait_s=0)
        connect(one, other, model="toy-sam", wait_s=LONG_S)


def test_engines_that_are_not_there_are_waited_for_and_then_named(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    with pytest.raises(BadSettings, match=rf"toy_encode at .*:{port}.*not ready after 0\.6 s.*cannot be connected"):
        connect(pool(EngineRole.ENCODER, url), pool(EngineRole.DECODER, url), model="", wait_s=0.6)
    assert time.monotonic() - started >= 0.6
    with served(endpoint(EngineRole.ENCODER, ToyEngine(), tmp_path)) as one:
        clients = pool(EngineRole.ENCODER, one.url), pool(EngineRole.DECODER, one.url)
        with pytest.raises(BadSettings, match="serves toy_encode"):
            connect(clients[0], clients[1], model="", wait_s=0)


async def test_a_click_is_answered_though_another_learns_meanwhile_that_its_embedding_was_dropped(
    tmp_path: Path,
) -> None:
    class Gated(ToyEngine):
        """Holds its second and third decode up."""

        def decode(
            self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
        ) -> tuple[FloatArray, FloatArray]:
            with self.lock:
                number = len(begun)
                begun.append(number)
            if number in gates:
                gates[number].wait(LONG_S)
            return super().decode(embedding, prompt, alone=alone)

    begun: list[int] = []
    gates = {1: threading.Event(), 2: threading.Event()}

    async def has_begun(number: int) -> None:
        while len(begun) <= number:  # noqa: ASYNC110 -- a thread fills it
            await asyncio.sleep(0.005)

    with remote(Gated(), tmp_path) as backend:
        embedding = cached(await encoded(backend, image()))
        await backend.decode(on(embedding, [CLICK]))
        first = asyncio.create_task(backend.decode(on(embedding, [PROMPTS[1]])))
        await has_begun(1)
        forget(tmp_path)
        second = asyncio.create_task(backend.decode(on(embedding, [PROMPTS[2]])))
        await has_begun(2)
        gates[1].set()
        assert len(await first) == 1
        gates[2].set()
        assert len(await second) == 1
        await backend.aclose()


# --- engines that misbehave ------------------------------------------------------------------------------------------


def http(
    body: bytes, *, status: str = "200 OK", kind: str = wire.MEDIA_TYPE, length: int | None = None, more: str = ""
) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n{more}\r\n".encode() + body


def decoded(**chosen: object) -> bytes:
    words = {"model_version": wire.version_text(VERSION), "seconds": "0.1", "kept": "true"}
    tensors = {"logits": np.ones((3, 256, 256), np.float32), "scores": np.ones(3, np.float32)}
    words |= {name: value for name, value in chosen.items() if isinstance(value, str)}
    tensors |= {name: value for name, value in chosen.items() if not isinstance(value, str)}  # type: ignore[misc]
    return pack(tensors, words)


NONSENSE: dict[str, bytes] = {
    "wrong shapes": http(decoded(logits=np.ones((3, 128, 128), np.float32))),
    "no numbers": http(decoded(scores=np.full(3, np.nan, np.float32))),
    "infinite": http(decoded(logits=np.full((3, 256, 256), np.inf, np.float32))),
    "another model's": http(decoded(model_version=wire.version_text(OTHER))),
    "an embedding for a mask": http(pack({"image_embeddings": np.ones((1, 256, 64, 64), np.float32)}, {})),
    "cut off": http(decoded()[:-1000]),
    "cut off on the way": http(decoded()[:-1000], length=len(decoded())),
    "text": http(b"hello", kind="text/plain"),
    "our bytes as text": http(decoded(), kind="application/json"),
    "empty": http(b""),
    "huge, as it says": http(b"", length=1 << 40),
    "huge, as it shows": b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\r\n" + bytes(3 << 20),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "nothing": b"",
    "an error without a word": http(b"", status="500 Internal Server Error"),
    "TorchServe's dead worker": http(b'{"code": 500, "message": "Worker died."}', status="500 Error", kind="text/json"),
    "no such model": http(b'{"code": 404, "message": "Model not found: x"}', status="404 Not Found", kind="text/json"),
    "elsewhere": b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    "it asks for what it was sent": http(b'{"missing": "embedding"}', status="424 Failed", kind=wire.PROBLEM_TYPE),
}


@contextlib.asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """A server that sends prepared bytes, and closes the connection after them."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
            writer.write(answer(body))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def described(encoders: EnginePool, decoders: EnginePool) -> tuple[EnginePool, EnginePool]:
    """Pools of engines that need not be asked what they serve."""
    for half in (encoders, decoders):
        await half.resolve()
        for member in half.members:
            member.description = wire.Description(VERSION, Family.SAM, "fp32", EngineRole(half.half))
    return encoders, decoders


@contextlib.asynccontextmanager
async def with_decoder(answer: Callable[[bytes], bytes]) -> AsyncIterator[RemoteBackend]:
    """A backend whose encoder is not asked, and whose decoder answers asks with what it is told to."""

    def reply(body: bytes) -> bytes:
        return http(wire.write_description(description)) if envelope.read_head(body).ask == "describe" else answer(body)

    async with answering(reply) as url:
        pools = await described(pool(EngineRole.ENCODER, url), pool(EngineRole.DECODER, url, most_bytes=2 << 20))
        description = wire.Description(VERSION, Family.SAM, "fp32", EngineRole.DECODER)
        backend = RemoteBackend(*pools, poll_s=60.0, reset_s=60.0)
        try:
            yield backend
        finally:
            await backend.aclose()


@pytest.mark.parametrize("what", NONSENSE)
async def test_nonsense_is_a_failure_and_never_a_mask(what: str) -> None:
    embedding = Embedding(ToyEngine().encode(image().pixels), 211, 307)
    async with with_decoder(lambda _: NONSENSE[what]) as backend:
        with pytest.raises(BackendFailed):
            await backend.decode(on(embedding, [CLICK]))


async def test_an_engine_that_only_talks_nonsense_is_left_alone() -> None:
    asks = []

    def answer(body: bytes) -> bytes:
        asks.append(body)
        return NONSENSE["no numbers"]

    embedding = Embedding(ToyEngine().encode(image().pixels), 211, 307)
    async with with_decoder(answer) as backend:
        for _ in range(6):
            with pytest.raises(BackendFailed):
                await backend.decode(on(embedding, [CLICK]))
        assert len(asks) < 6
        assert "decoder" in backend.failing()
        assert backend.engines()[1].breaker != "closed"


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
async def test_a_full_queue_is_no_failure(status: str) -> None:
    embedding = Embedding(ToyEngine().encode(image().pixels), 211, 307)
    busy = http(b'{"code": 503, "message": "The queue is full."}', status=status, kind="text/json")
    async with with_decoder(lambda _: busy) as backend:
        for _ in range(5):
            with pytest.raises(Overloaded, match="The queue is full"):
                await backend.decode(on(embedding, [CLICK]))
        assert not backend.failing()


async def test_an_engine_that_is_too_busy_for_a_probe_is_left_in_peace_for_a_while() -> None:
    """Where TorchServe computes for minutes, probes that nobody waits for any more would fill its queue."""
    probes = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
            if envelope.read_head(body).ask == "describe":
                probes.append(body)
                await reader.read()  # until the asker has gone
            elif body:
                writer.write(http(decoded()))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pools = await described(*(pool(role, url, kind=EngineClient) for role in (EngineRole.ENCODER, EngineRole.DECODER)))
    clients = [member for half in pools for member in half.members]
    backend = RemoteBackend(*pools, poll_s=0.02, reset_s=0.02)
    embedding = Embedding(ToyEngine().encode(image().pixels), 211, 307)
    await backend.decode(on(embedding, [CLICK]))

    async def both_owe() -> bool:
        return all(one.owes_an_answer for one in clients)

    await soon(both_owe, 30.0)
    assert len(probes) == 2
    for _ in range(50):
        await asyncio.sleep(0.02)
        if not await both_owe():
            break
        assert len(probes) == 2

    async def an_answer_is_enough() -> bool:
        await backend.decode(on(embedding, [CLICK]))
        return not clients[1].owes_an_answer

    await soon(an_answer_is_enough)
    assert not backend.failing()
    await backend.aclose()
    server.close()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7), ("0", 1), ("86400", 60), ("-3", 1), ("", 1), ("Wed, 21 Oct 2026 07:28:00 GMT", 1), ("9" * 5000, 1)],
    ids=["seconds", "none at all", "a day", "less than none", "nothing", "a date", "a number without end"],
)
async def test_a_full_engine_says_itself_when_to_come_back_within_reason(said: str, seconds: int) -> None:
    embedding = Embedding(ToyEngine().encode(image().pixels), 211, 307)
    busy = http(
        wire.write_problem(503, "Too much at once", "The queue is full."),
        status="503 Service Unavailable",
        kind=wire.PROBLEM_TYPE,
        more=f"retry-after: {said}\r\n",
    )
    async with with_decoder(lambda _: busy) as backend:
        with pytest.raises(Overloaded) as refused:
            await backend.decode(on(embedding, [CLICK]))
    assert refused.value.retry_after == seconds


async def test_a_connection_that_breaks_is_tried_again() -> None:
    asks = []

    def answer(body: bytes) -> bytes:
        asks.append(body)
        return b"" if len(asks) == 1 else http(decoded())

    embedding = Embedding(ToyEngine().encode(image().pixels), 211, 307)
    async with with_decoder(answer) as backend:
        assert (await backend.decode(on(embedding, [CLICK])))[0].masks
        assert len(asks) == 2
        assert asks[0] == asks[1]


async def test_an_ask_that_was_called_off_spoils_no_later_one(tmp_path: Path) -> None:
    here = SamBackend(ToyEngine(), VERSION, "", decode_threads=1)
    with remote(ToyEngine(decode_s=0.01), tmp_path) as backend:
        embedding = cached(await encoded(backend, image()))
        expected = await here.decode(on(embedding, PROMPTS))
        for pause in np.linspace(0.0, 0.03, 12):
            hasty = asyncio.ensure_future(backend.decode(on(embedding, [Prompt((Point(7, 9, 1),))])))
            await asyncio.sleep(pause)
            hasty.cancel()
            same(await backend.decode(on(embedding, PROMPTS[:2])), expected[:2])
        await backend.aclose()
    await here.aclose()


# --- engines that die ------------------------------------------------------------------------------------------------


async def clicking(
    backend: RemoteBackend, embedding: Embedding, expected: list[Prediction], said: list[LabelingGroundError | None]
) -> None:
    """Click until it is called off; whatever is answered must be right. Notes the errors, and ``None`` for answers."""
    while True:
        try:
            same(await backend.decode(on(embedding, PROMPTS[:1])), expected[:1])
            said.append(None)
        except (BackendFailed, Overloaded) as error:
            said.append(error)
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_decoder_that_is_killed_and_started_again(tmp_path: Path) -> None:
    """While it is away: errors, at once, and no wrong mask. When it is back: answers, with embeddings sent anew."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    encoder = endpoint(EngineRole.ENCODER, ToyEngine(), tmp_path)
    with served(encoder) as both:
        with process(EngineRole.DECODER, tmp_path / "kept", port) as first:
            backend = backend_of(pool(EngineRole.ENCODER, both.url), pool(EngineRole.DECODER, url))
            embedding = cached(await encoded(backend, image()))
            expected = await backend.decode(on(embedding, PROMPTS))
            said: list[list[LabelingGroundError | None]] = [[] for _ in range(4)]
            clicks = [asyncio.ensure_future(clicking(backend, embedding, expected, one)) for one in said]

            async def each_was_answered() -> bool:
                return all(said)

            async def each_was_refused() -> bool:
                return all(len(one) > 5 and None not in one[-5:] for one in said)

            await soon(each_was_answered)
            first.kill()
            await soon(each_was_refused)
            for click in clicks:
                click.cancel()
            ends = await asyncio.gather(*clicks, return_exceptions=True)
            assert [type(end) for end in ends] == [asyncio.CancelledError] * 4
        started = time.monotonic()
        with pytest.raises(BackendFailed, match="does not answer"):
            await backend.decode(on(embedding, [CLICK]))
        assert time.monotonic() - started < LONG_S  # the deadline is twice that
        assert "decoder" in backend.failing()
        assert (await encoded(backend, image())).height == 211  # the other half goes on
        forget(tmp_path / "kept")
        with process(EngineRole.DECODER, tmp_path / "kept", port):

            async def is_back() -> bool:
                return not backend.failing()

            await soon(is_back)
            same(await backend.decode(on(embedding, PROMPTS)), expected)
        await backend.aclose()


@pytest.mark.slow
async def test_a_decoder_that_hangs(tmp_path: Path) -> None:
    """Each ask ends at its deadline, those after some failures at once; when it goes on, so do we."""
    port = free_port()
    with (
        served(endpoint(EngineRole.ENCODER, ToyEngine(), tmp_path)) as both,
        process(EngineRole.DECODER, tmp_path / "kept", port) as frozen,
    ):
        backend = backend_of(
            pool(EngineRole.ENCODER, both.url),
            pool(EngineRole.DECODER, f"http://127.0.0.1:{port}", kind=EngineClient, deadline_s=1.5),
        )
        embedding = cached(await encoded(backend, image()))
        expected = await at_last(backend, embedding, PROMPTS)
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            stuck = [backend.decode(on(embedding, [CLICK])) for _ in range(3)]
            for failed in await asyncio.gather(*stuck, return_exceptions=True):
                assert isinstance(failed, BackendFailed)
                assert "no answer within 1.5 s" in str(failed)
            with pytest.raises(BackendFailed, match="What is in the cache is still served"):  # it was not even asked
                await backend.decode(on(embedding, [CLICK]))
        finally:
            os.kill(frozen.pid, signal.SIGCONT)

        async def is_back() -> bool:
            return not backend.failing()

        await soon(is_back)
        same(await at_last(backend, embedding, PROMPTS), expected)
        await backend.aclose()


async def at_last(backend: RemoteBackend, embedding: Embedding, prompts: tuple[Prompt, ...]) -> list[Prediction]:
    """The masks, where a short deadline may have passed because this machine stood still."""
    until = time.monotonic() + LONG_S
    while True:
        try:
            return await backend.decode(on(embedding, prompts))
        except BackendFailed:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


# --- small things ----------------------------------------------------------------------------------------------------


def test_the_management_port_is_one_above_unless_it_is_given() -> None:
    assert Address("encoder", "http://gpu:8080", "x").management == "http://gpu:8081/models/x"
    assert Address("encoder", "http://[::1]:8080/", "x").management == "http://[::1]:8081/models/x"
    assert Address("encoder", "http://gpu:8080", "x", "https://m/").management == "https://m/models/x"


def test_workers_and_queue_are_read_as_torchserve_tells_them() -> None:
    told = b'[{"workers": [{"status": "READY"}, {"status": "UNLOADING"}], "jobQueueStatus": {"pendingRequests": 4}}]'
    assert read_management(told) == (1, 4)
    for nonsense in (b"", b"{}", b"[]", b"[3]", b'[{"workers": 3}]', b'[{"workers": [3]}]'):
        assert read_management(nonsense) == (None, None)


class Lru(ToyEngine):
    """Encodes when it is let go."""

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        made = super().encode(pixels)
        self.go.wait(LONG_S)
        return made


async def test_what_an_engine_elsewhere_has_begun_is_kept_though_its_client_left(tmp_path: Path) -> None:
    engine, file = Lru(go=threading.Event()), image_bytes(1)
    with remote(engine, tmp_path) as backend:
        async with serving(backend) as predictor:  # type: ignore[arg-type]
            for _ in range(3):
                sending = asyncio.create_task(send(predictor, file))
                await until(lambda: engine.encodes == 1)
                await until(lambda: [flight.askers for flight in predictor.flights._flights.values()] == [1])
                sending.cancel()
                await asyncio.wait({sending})
            assert predictor.encode_queue.running == 1
            engine.go.set()
            await until(lambda: predictor.encode_queue.running == len(predictor.flights) == 0)
            answer = await predictor.open_image(TENANT, file, keys.image_id(file))
            assert answer.outcome is Outcome.HIT
    assert engine.encodes == 1
