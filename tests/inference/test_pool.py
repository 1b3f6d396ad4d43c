"""Several engines of one half: which of them is asked, and that nobody notices when one is killed, full, or wrong."""

import asyncio
import contextlib
import hashlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import aiohttp
import httpx
import pytest
from tests.doubles import encoded, on, through_the_cache, until
from tests.inference.remote_asks import PROMPTS, image, same
from tests.inference.toy_engine import (
    LONG_S,
    OTHER,
    VERSION,
    Patient,
    Served,
    ToyEngine,
    backend_of,
    endpoint,
    pool,
    process,
    served,
)
from tests.ports import free_port

from labeling_ground.errors import BackendFailed, BadSettings, LabelingGroundError, Overloaded
from labeling_ground.inference.remote.addresses import Addresses
from labeling_ground.inference.remote.backend import RemoteBackend, embedding_key
from labeling_ground.inference.remote.client import EngineAway, EngineClient, EngineLimits
from labeling_ground.inference.remote.pool import Load, agreed, decode_order, encode_order, rendezvous
from labeling_ground.inference.remote.wire import Description, EngineRole
from labeling_ground.inference.remote_status import EngineCounts
from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.family import Family
from labeling_ground.types import Embedding, ModelVersion, Prediction

pytestmark = pytest.mark.anyio

NAMES = [f"http://10.0.0.{number}:7080" for number in range(6)]
KEYS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(6000)]


# --- the choice ------------------------------------------------------------------------------------------------------


def test_keys_are_spread_evenly_and_when_an_engine_goes_only_its_keys_move() -> None:
    first = {key: rendezvous(key, NAMES)[0] for key in KEYS}
    shares = Counter(first.values())
    assert all(900 < shares[name] < 1100 for name in NAMES)
    gone, *others = NAMES
    for key in KEYS:
        after = rendezvous(key, reversed(others))
        assert after[0] == (first[key] if first[key] != gone else rendezvous(key, NAMES)[1])


def test_a_decode_goes_to_its_own_engine_unless_that_has_more_than_its_share() -> None:
    own, second, *_ = order = rendezvous("k", NAMES)
    idle = {name: Load(workers=2) for name in NAMES}
    assert decode_order("k", idle, 1.25) == order
    assert decode_order("k", {**idle, own: Load(2, running=1)}, 1.25)[0] == own  # a worker is free
    # of 12 under way and this one, a sixth is 2.17; times 1.25 and rounded up: 3
    busy = {name: Load(2, running=2) for name in NAMES}
    assert decode_order("k", busy, 1.25)[0] == own
    assert decode_order("k", {**busy, own: Load(2, running=3)}, 1.25) == [second, *order[2:], own]
    assert decode_order("k", {**busy, own: Load(2, running=3)}, 10)[0] == own
    large = {**busy, own: Load(6, running=5)}  # what is its share goes with its workers
    assert decode_order("k", large, 1.25)[0] == own


def test_an_encode_goes_where_the_fewest_seconds_wait_and_among_equals_in_turn() -> None:
    a, b, c = NAMES[:3]
    turns = {a: 1, b: 2, c: 0}
    slow, quick = Load(1, running=1, engine_s=10.0), Load(1, running=3, engine_s=0.5)
    assert encode_order({a: slow, b: quick}, turns) == [b, a]
    assert encode_order({a: Load(4, running=3, engine_s=1.0), b: Load(1, running=1, engine_s=1.0)}, turns) == [a, b]
    others_wait = Load(1, running=0, queue=9, engine_s=1.0)  # asks of other servers
    assert encode_order({a: others_wait, b: Load(1, running=2, engine_s=1.0)}, turns) == [b, a]
    assert encode_order(dict.fromkeys((a, b, c), Load(1)), turns) == [c, a, b]
    new = Load(1, running=1)  # not measured yet: as quick as the others are
    assert encode_order({a: new, b: Load(1, running=2, engine_s=4.0)}, turns) == [a, b]


def described(role: EngineRole, *versions: ModelVersion | None) -> list[EngineClient]:
    made = []
    for version in versions:
        [address] = asyncio.run(Addresses(role.value, ["http://e:1"], "x").now())
        made.append(EngineClient(address, EngineLimits(1.0, 1.0, 1, 1.0)))
        made[-1].description = None if version is None else Description(version, Family.SAM, "fp32", role)
    return made


async def test_an_engine_that_takes_connections_and_never_answers_is_given_up_after_the_probes_time() -> None:
    """Asked what it serves, and asked how many wait there, which is no failure."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client hangs up
        writer.close()

    hanging = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}"
    [address] = await Addresses("encoder", [url], "x", [url]).now()
    engine = EngineClient(address, EngineLimits(LONG_S, LONG_S, 1 << 20, LONG_S, probe_s=0.2))
    with pytest.raises(BackendFailed, match=r"not answered within 0\.2 s"):
        await engine.describe()
    await engine.look()
    assert engine.workers is None
    assert engine.breaker.state == "closed"
    await engine.aclose()
    hanging.close()


def test_the_version_is_that_of_most_engines_and_changes_when_most_have_changed() -> None:
    def chosen(
        encoders: Sequence[ModelVersion | None], decoders: Sequence[ModelVersion | None], now: ModelVersion | None
    ) -> ModelVersion:
        return agreed(
            described(EngineRole.ENCODER, *encoders), described(EngineRole.DECODER, *decoders), "", now
        ).version

    one, other = VERSION, OTHER
    assert chosen([one, one], [one, one, other], None) == one
    assert chosen([one, other], [one, other], other) == other  # of equals, what is served
    assert chosen([one, other], [one, other], one) == one
    assert chosen([one, other, other], [other, other, one], one) == other
    assert chosen([one, None], [other, one, None], other) == one  # only one has both halves
    with pytest.raises(BadSettings, match="must be halves of one model"):
        chosen([one, one], [other], one)
    dead, alive = described(EngineRole.DECODER, one, other)
    for _ in range(3):
        dead.failed("it was killed")
    assert agreed(described(EngineRole.ENCODER, one, one, other), [dead, alive], "", one).version == other


# --- a pool of servers -----------------------------------------------------------------------------------------------


def decoders_of(backend: RemoteBackend) -> dict[str, EngineCounts]:
    return {one.address: one for one in backend.engines() if one.engine == "decoder"}


@contextlib.contextmanager
def three(folder: Path) -> Iterator[tuple[str, list[Served]]]:
    """An encoder's address, and three decoders in this process with 2 workers each."""
    with contextlib.ExitStack() as stack:
        encoder = stack.enter_context(served(endpoint(EngineRole.ENCODER, ToyEngine(), folder, workers=1)))
        decoders = [
            stack.enter_context(served(endpoint(EngineRole.DECODER, ToyEngine(), folder / str(number))))
            for number in range(3)
        ]
        yield encoder.url, decoders


@contextlib.asynccontextmanager
async def pooled(encoder: str, *decoders: str, **chosen: float) -> AsyncIterator[RemoteBackend]:
    backend = backend_of(pool(EngineRole.ENCODER, encoder), pool(EngineRole.DECODER, *decoders), **chosen)
    try:
        yield backend
    finally:
        await backend.aclose()


async def images(each: int, *urls: str) -> list[tuple[Embedding, list[Prediction]]]:
    """Embeddings of images, so many for each of these decoders, and what the first prompt means on each."""
    here = SamBackend(ToyEngine(), VERSION, "", decode_threads=1)
    made, owned = [], Counter[str]()
    for seed in itertools.count():
        embedding = through_the_cache(await encoded(here, image(seed)))
        owner = rendezvous(embedding_key(VERSION, embedding), urls)[0]
        if owned[owner] < each:
            owned[owner] += 1
            made.append((embedding, await here.decode(on(embedding, PROMPTS[:1]))))
        if len(made) == each * len(urls):
            break
    await here.aclose()
    return made


async def check(backend: RemoteBackend, made: list[tuple[Embedding, list[Prediction]]]) -> None:
    for embedding, expected in made:
        same(await backend.decode(on(embedding, PROMPTS[:1])), expected)


async def test_each_image_has_its_decoder_and_each_embedding_travels_once(tmp_path: Path) -> None:
    with three(tmp_path) as (encoder, decoders):
        made = await images(4, *(one.url for one in decoders))
        async with pooled(encoder, *(one.url for one in decoders)) as backend:
            assert backend.info.decodes_at_once == 3 * (2 + 1)
            for _ in range(3):
                await check(backend, made)
            figures = decoders_of(backend)
            assert sum(one.embeddings_sent for one in figures.values()) == 12
            assert sum(one.asks for one in figures.values()) == 36
            assert all(one.asks == 3 * one.embeddings_sent > 0 for one in figures.values())
        async with pooled(encoder, *(one.url for one in reversed(decoders))) as second:  # another server agrees
            await check(second, made)
            assert sum(one.asks - one.embeddings_sent for one in decoders_of(second).values()) == 0
            assert {at: one.embeddings_sent for at, one in decoders_of(second).items()} == {
                at: one.embeddings_sent for at, one in figures.items()
            }


async def test_an_engine_of_another_version_is_left_out_and_named_until_its_version_is_right(tmp_path: Path) -> None:
    with three(tmp_path) as (encoder, decoders):
        made = await images(3, *(one.url for one in decoders))
        odd = decoders[1]
        right = odd.endpoints[0].handler
        odd.endpoints[0].handler = endpoint(
            EngineRole.DECODER, ToyEngine(seed=9), tmp_path / "odd", version=OTHER
        ).handler
        async with pooled(encoder, *(one.url for one in decoders), poll_s=0.05) as backend:
            await check(backend, made)
            assert not backend.failing()
            [(name, why)] = backend.left_out().items()
            assert name == f"decoder at {odd.url}"
            assert str(OTHER) in why
            assert str(VERSION) in why
            figures = decoders_of(backend)
            assert {at: one.left_out for at, one in figures.items() if one.left_out} == {odd.url: "model"}
            assert figures[odd.url].asks == 0
            assert backend.info.decodes_at_once == 2 * (2 + 1)
            odd.endpoints[0].handler = right
            await until(lambda: not backend.left_out())
            await check(backend, made)
            assert decoders_of(backend)[odd.url].asks > 0


async def test_an_engine_that_changes_between_two_looks_answers_no_click(tmp_path: Path) -> None:
    with three(tmp_path) as (encoder, decoders):
        made = await images(3, *(one.url for one in decoders))
        async with pooled(encoder, *(one.url for one in decoders)) as backend:
            await check(backend, made)
            changed = decoders[0]
            changed.endpoints[0].handler = endpoint(
                EngineRole.DECODER, ToyEngine(seed=9), tmp_path / "odd", version=OTHER
            ).handler
            await check(backend, made)
            assert backend.info.version == VERSION
            assert decoders_of(backend)[changed.url].left_out == "model"


async def test_an_ask_that_one_engine_refuses_goes_to_the_next_and_one_that_all_refuse_is_tried_at_three(
    tmp_path: Path,
) -> None:
    class Broken(ToyEngine):
        def decode(self, *_: object, **__: object) -> tuple[object, object]:  # type: ignore[override]
            self.decodes += 1
            raise RuntimeError("device lost")

    with contextlib.ExitStack() as stack:
        encoder = stack.enter_context(served(endpoint(EngineRole.ENCODER, ToyEngine(), tmp_path)))
        engines: list[ToyEngine] = [Broken(), *(ToyEngine() for _ in range(3))]
        urls = [
            stack.enter_context(served(endpoint(EngineRole.DECODER, engine, tmp_path / str(number)))).url
            for number, engine in enumerate(engines)
        ]
        made = await images(3, *urls)
        async with pooled(encoder.url, *urls) as backend:
            for _ in range(4):
                await check(backend, made)
            assert engines[0].decodes > 0
            await until(lambda: decoders_of(backend)[urls[0]].left_out in ("", "failing"))
            bad = await encoded(backend, image(99))
            for number, _ in enumerate(engines):
                engines[number].__class__ = Broken
            before = sum(engine.decodes for engine in engines)
            with pytest.raises(LabelingGroundError, match="device lost"):
                await backend.decode(on(bad, PROMPTS[:1]))
            assert sum(engine.decodes for engine in engines) - before <= 3


async def test_a_full_engine_hands_its_clicks_on_and_only_when_all_are_full_somebody_is_sent_away(
    tmp_path: Path,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise Overloaded("300 requests already wait for the decoder.", 7.0)

    with three(tmp_path) as (encoder, decoders):
        [one] = await images(1, decoders[0].url)
        async with pooled(encoder, *(each.url for each in decoders)) as backend:
            for each in decoders:
                await check(backend, [one])
                each.endpoints[0].queue.check_room = full  # type: ignore[method-assign]
            with pytest.raises(Overloaded) as refused:
                await backend.decode(on(one[0], PROMPTS[:1]))
            assert refused.value.retry_after == 7.0
            assert not backend.failing()


async def test_an_engine_that_shuts_down_ends_what_it_has_and_its_new_asks_go_elsewhere(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        encoder = stack.enter_context(served(endpoint(EngineRole.ENCODER, ToyEngine(), tmp_path)))
        engines = [ToyEngine() for _ in range(2)]
        first, second = (
            stack.enter_context(served(endpoint(EngineRole.DECODER, engine, tmp_path / str(number))))
            for number, engine in enumerate(engines)
        )
        made = await images(2, first.url, second.url)
        [own] = [
            one for one in made if rendezvous(embedding_key(VERSION, one[0]), [first.url, second.url])[0] == first.url
        ][:1]
        async with pooled(encoder.url, first.url, second.url, poll_s=0.05) as backend:
            await check(backend, made)
            engines[0].go.clear()
            running = asyncio.create_task(check(backend, [own]))
            await until(lambda: engines[0].at_once == 1)
            first.drain.begin()
            await check(backend, made)  # none of them waits for the one that is held up
            engines[0].go.set()
            await running
            told = decoders_of(backend)[first.url]
            assert (told.left_out, told.breaker) == ("draining", "closed")
            assert not backend.failing()
            assert "shutting down" in backend.left_out()[f"decoder at {first.url}"]
            second.drain.begin()
            with pytest.raises(EngineAway, match="is shutting down"):  # there is nowhere else
                await backend.decode(on(own[0], PROMPTS[:1]))
            first.drain.has_begun = False  # it was started again; and nobody has looked at it since
            await check(backend, made)
            async with httpx.AsyncClient() as http:
                answers = [await http.get(f"{one.url}/ping", timeout=LONG_S) for one in (first, second)]
            assert [answer.status_code for answer in answers] == [200, 503]
            assert int(answers[1].headers["retry-after"]) >= 1


@pytest.mark.parametrize("then", [aiohttp.ServerDisconnectedError, aiohttp.ConnectionTimeoutError])
async def test_an_ask_whose_engine_goes_midway_finds_the_one_that_was_started_again_meanwhile(
    tmp_path: Path, then: type[Exception]
) -> None:
    errors: Iterator[type[Exception]] = itertools.cycle((aiohttp.ServerDisconnectedError, then))

    class Breaking(Patient):
        """Loses the connection to one address after the ask was sent, and cannot connect again."""

        gone = ""

        async def _exchange(self, body: bytes, seconds: float) -> tuple[int, bytes, str]:
            if self.address.url == Breaking.gone:
                raise next(errors)
            return await super()._exchange(body, seconds)

    with three(tmp_path) as (encoder, decoders):
        first, second = decoders[:2]
        made = await images(2, first.url, second.url)
        decoding = pool(EngineRole.DECODER, first.url, second.url, kind=Breaking, reset_s=LONG_S)
        async with contextlib.aclosing(
            backend_of(pool(EngineRole.ENCODER, encoder), decoding, reset_s=LONG_S)
        ) as backend:
            Breaking.gone = first.url
            while decoders_of(backend)[first.url].left_out != "failing":
                await check(backend, made)
            Breaking.gone = second.url  # the first one was started again, and nobody has looked at it since
            await check(backend, made)
            assert decoders_of(backend)[first.url].left_out == ""


# --- engines that come and go ----------------------------------------------------------------------------------------


async def clicking(
    backend: RemoteBackend, made: list[tuple[Embedding, list[Prediction]]], answered: Counter[int]
) -> None:
    """Click until it is called off: every click is answered, and rightly."""
    while True:
        for number, (embedding, expected) in enumerate(made):
            same(await backend.decode(on(embedding, PROMPTS[:1])), expected)
            answered[number] += 1


@contextlib.asynccontextmanager
async def under_load(
    backend: RemoteBackend, made: list[tuple[Embedding, list[Prediction]]], clients: int = 4
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Clients at work. What is given waits until each has clicked on every image once more; none may fail."""
    counts = [Counter[int]() for _ in range(clients)]
    tasks = [asyncio.create_task(clicking(backend, made, one)) for one in counts]

    async def another_round() -> None:
        before = [dict(one) for one in counts]

        def all_have() -> bool:
            failed = [task.exception() for task in tasks if task.done()]
            assert not failed, failed
            return all(
                now[number] > was.get(number, 0) + 1
                for now, was in zip(counts, before, strict=True)
                for number in range(len(made))
            )

        await until(all_have)

    try:
        yield another_round
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * clients


@pytest.mark.slow
async def test_of_three_decoders_one_is_killed_under_load_and_no_click_fails(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    made = await images(3, *urls)
    with contextlib.ExitStack() as stack:
        encoder = stack.enter_context(served(endpoint(EngineRole.ENCODER, ToyEngine(), tmp_path)))
        running = [stack.enter_context(process(EngineRole.DECODER, tmp_path / str(port), port)) for port in ports]
        async with pooled(encoder.url, *urls, poll_s=0.2) as backend, under_load(backend, made) as another_round:
            await another_round()
            before = decoders_of(backend)
            assert all(one.asks > one.embeddings_sent > 0 for one in before.values())
            running[0].kill()
            await another_round()
            await until(lambda: decoders_of(backend)[urls[0]].left_out == "failing")
            left = decoders_of(backend)[urls[0]]
            await another_round()
            after = decoders_of(backend)
            assert after[urls[0]].embeddings_sent == left.embeddings_sent
            moved = sum(after[url].embeddings_sent - before[url].embeddings_sent for url in urls[1:])
            assert moved <= 2 * before[urls[0]].embeddings_sent + 2 * 4  # its images, and what the bound gave away
            stack.enter_context(process(EngineRole.DECODER, tmp_path / "again", ports[0]))
            await until(lambda: not backend.left_out())
            await another_round()
            assert decoders_of(backend)[urls[0]].asks > after[urls[0]].asks


async def test_what_dns_says_now_is_the_pool(tmp_path: Path) -> None:
    port = free_port()
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    urls = [f"http://{host}:{port}" for host in hosts]
    made = await images(3, *urls[1:])
    answer: list[str] | OSError = hosts[:1]

    async def resolve(host: str, asked: int) -> list[str]:
        assert (host, asked) == ("decoders", port)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with contextlib.ExitStack() as stack:
        encoder = stack.enter_context(served(endpoint(EngineRole.ENCODER, ToyEngine(), tmp_path)))
        for host in hosts:
            stack.enter_context(
                served(endpoint(EngineRole.DECODER, ToyEngine(), tmp_path / host), port=port, host=host)
            )
        decoding = pool(EngineRole.DECODER, f"dns+http://decoders:{port}", resolve=resolve)
        backend = backend_of(pool(EngineRole.ENCODER, encoder.url), decoding, resolve_s=0.05)
        async with contextlib.aclosing(backend), under_load(backend, made, 2) as another_round:
            await another_round()
            assert set(decoders_of(backend)) == {urls[0]}
            answer = hosts[1:]
            await until(lambda: set(decoders_of(backend)) == set(urls[1:]))
            await another_round()
            assert all(one.asks > 0 for one in decoders_of(backend).values())
            for nothing in (OSError("no name server answers"), list[str]()):  # then those that are known are asked
                answer = nothing
                await another_round()
                assert set(decoders_of(backend)) == set(urls[1:])


async def test_addresses_of_a_name_have_the_ports_and_paths_of_the_setting() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return {("pods", 80): ["fd00::2", "10.0.0.1"]}[host, port]

    pods = Addresses("encoder", ["http://a:1", "dns+http://pods/e"], "x", ["http://a:2", "dns+http://pods:9"], resolve)
    assert [(one.url, one.management) for one in await pods.now()] == [
        ("http://a:1", "http://a:2/models/x"),
        ("http://10.0.0.1:80/e", "http://10.0.0.1:9/models/x"),
        ("http://[fd00::2]:80/e", "http://[fd00::2]:9/models/x"),
    ]
    with pytest.raises(BadSettings, match="encoder_url has 2 addresses and encoder_management_url 1"):
        Addresses("encoder", ["http://a:1", "http://b:1"], "x", ["http://a:2"])
