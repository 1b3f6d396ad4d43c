"""Several asks in one request to an engine, and what its own queue makes of classes and of what waits there."""

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.doubles import encoded, until
from tests.inference.remote_asks import PROMPTS, image, same
from tests.inference.remote_values import KEY, VERSION, embedding, prompt
from tests.inference.toy_engine import VERSION as TOY_SAM
from tests.inference.toy_engine import TogetherEngine, ToyEngine, endpoint, remote

from labeling_ground.inference.backend import ALONE, BatchSizes
from labeling_ground.inference.remote import envelope, wire
from labeling_ground.inference.remote.backend import RemoteBackend
from labeling_ground.inference.remote.client import EngineClient
from labeling_ground.inference.remote.handler import InferenceHandler
from labeling_ground.inference.remote.wire import EngineRole
from labeling_ground.inference.sam import SamBackend
from labeling_ground.types import Point, Priority, Prompt
from labeling_ground.urgency import asked_as

pytestmark = pytest.mark.anyio


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[envelope.Head]:
    """The heads of all requests that are sent."""
    seen: list[envelope.Head] = []
    ask = EngineClient.ask

    async def noting(self: EngineClient, body: bytes, *rest: Any) -> Any:
        seen.append(envelope.read_head(body))
        return await ask(self, body, *rest)

    monkeypatch.setattr(EngineClient, "ask", noting)
    return seen


def here(engine: ToyEngine) -> SamBackend:
    return SamBackend(engine, VERSION, "", decode_threads=2)


async def test_prompts_and_images_travel_together_and_mean_what_they_mean_alone(
    tmp_path: Path, requests: list[envelope.Head]
) -> None:
    engine, local = TogetherEngine(), here(ToyEngine())
    images = [image(seed) for seed in range(3)]
    with remote(engine, tmp_path / "kept", workers=1) as backend:
        assert backend.info.encode_batch == backend.info.decode_batch == BatchSizes(4, 4)
        embeddings = await backend.encode(images)
        assert [(head.ask, head.asks) for head in requests] == [("several", 3)]
        assert engine.runs == [3]
        asks = [(each, one) for one in PROMPTS[:2] for each in embeddings]
        requests.clear()
        engine.runs.clear()
        same(await backend.decode(asks), await local.decode(asks))
        assert [head.asks for head in requests] == [4, 2]
        assert sorted(engine.runs) == [2, 4]
        assert await backend.encode([images[0]])
        assert requests[-1].ask == "encode"
        await backend.aclose()


async def test_each_embedding_travels_once_also_among_several_and_anew_where_it_was_dropped(
    tmp_path: Path, requests: list[envelope.Head]
) -> None:
    engine, local = TogetherEngine(), here(ToyEngine())
    with remote(engine, tmp_path / "kept", workers=1) as backend:
        embeddings = await backend.encode([image(0), image(1)])
        asks = [(each, Prompt((Point(x, 40.0, 1),))) for x in (20.0, 60.0) for each in embeddings]
        expected = await local.decode(asks)
        requests.clear()
        same(await backend.decode(asks), expected)
        [decoder] = [each for each in backend.engines() if each.engine == "decoder"]
        assert (decoder.embeddings_sent, len(requests)) == (2, 1)
        same(await backend.decode(asks), expected)
        for file in (tmp_path / "kept").rglob("*"):
            if file.is_file():
                file.unlink()
        same(await backend.decode(asks), expected)
        [decoder] = [each for each in backend.engines() if each.engine == "decoder"]
        assert decoder.embeddings_sent == 4
        assert len(requests) == 4  # one was answered with what is missing
        await backend.aclose()


async def test_an_engine_that_takes_one_ask_a_request_gets_one(tmp_path: Path, requests: list[envelope.Head]) -> None:
    with remote(ToyEngine(), tmp_path / "kept") as backend:
        assert (backend.info.encode_batch, backend.info.decode_batch) == (ALONE, ALONE)
        embeddings = await backend.encode([image(0), image(1)])
        await backend.decode([(each, PROMPTS[0]) for each in embeddings])
        assert {head.ask for head in requests} == {"encode", "decode"}
        assert {head.asks for head in requests} == {1}
        await backend.aclose()


async def test_requests_stay_within_the_bytes_that_a_request_may_have(
    tmp_path: Path, requests: list[envelope.Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, local = TogetherEngine(), here(ToyEngine())
    with remote(engine, tmp_path / "kept", workers=1) as backend:
        embeddings = await backend.encode([image(0), image(1), image(2)])
        asks = [(each, PROMPTS[0]) for each in embeddings]
        requests.clear()
        for each in backend._decoders.members:  # room for one embedding, in fp32
            each.limits = dataclasses.replace(each.limits, most_bytes=5 << 20)
        same(await backend.decode(asks), await local.decode(asks))
        assert [head.asks for head in requests] == [1, 1, 1]
        await backend.aclose()


async def test_the_class_travels_along(tmp_path: Path, requests: list[envelope.Head]) -> None:
    with remote(TogetherEngine(), tmp_path / "kept") as backend:
        for priority in Priority:
            with asked_as(priority):
                made = await encoded(backend, image())
                await backend.decode([(made, PROMPTS[0]), (made, PROMPTS[1])])
        assert [head.priority for head in requests] == [each for each in Priority for _ in range(2)]
        await backend.aclose()


async def test_an_engine_servers_own_queue_goes_by_class_and_takes_together_what_waits(tmp_path: Path) -> None:
    """Asks of several servers: a person's goes before another server's job, and jobs go in one run."""
    engine = TogetherEngine()
    decoder = endpoint(EngineRole.DECODER, engine, tmp_path / "kept", workers=1)
    order: list[str] = []

    async def ask(name: str, priority: Priority) -> None:
        body = wire.write_ask(wire.Decode(TOY_SAM, KEY, prompt(), embedding()), priority)
        assert (await decoder.answer(body)).status == 200
        order.append(name)

    engine.go.clear()
    first = asyncio.create_task(ask("first", Priority.JOB))
    await until(lambda: decoder.queue.running == 1)
    tasks = [asyncio.create_task(ask(f"job {number}", Priority.JOB)) for number in range(3)]
    await until(lambda: decoder.queue.waiting == 3)
    person = asyncio.create_task(ask("person", Priority.INTERACTIVE))
    await until(lambda: decoder.queue.waiting == 4)
    assert decoder.status()["batchSize"] == 4
    engine.go.set()
    await asyncio.gather(first, person, *tasks)
    assert order[:2] == ["first", "person"]
    assert engine.runs == [3]
    assert engine.decodes == 5
    decoder.close()


def handler(engine: ToyEngine, role: EngineRole = EngineRole.DECODER) -> InferenceHandler:
    return InferenceHandler(engine, wire.Description(VERSION, engine.family, "fp32", role, together=4), None)


def statuses(answers: Sequence[Any]) -> list[int]:
    return [each.status for each in answers]


class Picky(TogetherEngine):
    """Fails at a prompt of three tokens, whatever it comes with."""

    def decode(self, embedding: Any, prompt: Any, *, alone: bool) -> Any:
        if prompt.tokens == 3:
            raise RuntimeError("three is too much")
        return super().decode(embedding, prompt, alone=alone)


def test_a_bad_ask_among_several_has_its_own_answer_and_spoils_no_other() -> None:
    engine = Picky()
    good = wire.write_ask(wire.Decode(VERSION, KEY, prompt(), embedding()))
    known = wire.write_ask(wire.Decode(VERSION, KEY, prompt()))
    missing = wire.write_ask(wire.Decode(VERSION, "0" * 64, prompt()))
    failing = wire.write_ask(wire.Decode(VERSION, KEY, prompt(3)))
    bodies = [known, good, b"nonsense", missing, failing]
    [reply] = handler(engine).answer_all([envelope.write_several(bodies)])
    assert reply.status == 200
    replies = envelope.read_replies(reply.body, 5)
    assert [status for status, _ in replies] == [200, 200, 400, 424, 500]
    assert replies[0][1].partition(b"}")[2] == replies[1][1].partition(b"}")[2]
    assert statuses(handler(Picky()).answer_all([good, b"nonsense", failing, good])) == [200, 400, 500, 200]


async def test_two_threads_do_not_mix_up_what_they_are_asked(tmp_path: Path) -> None:
    engine, local = TogetherEngine(decode_s=0.001), here(ToyEngine())
    with remote(engine, tmp_path / "kept", workers=2) as backend:
        embeddings = await backend.encode([image(seed) for seed in range(4)])
        calls = [[(each, one) for each in embeddings] for one in PROMPTS]
        made = await asyncio.gather(*(backend.decode(asks) for asks in calls))
        for one, asks in zip(made, calls, strict=True):
            same(one, await local.decode(asks))
        await backend.aclose()
    assert threading.active_count() < 64
    assert isinstance(backend, RemoteBackend)
