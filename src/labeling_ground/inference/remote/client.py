"""One engine elsewhere, as the proxy sees it: connections, deadlines, retries, and when to leave it alone."""

import asyncio
import contextlib
import json
import logging
import re
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import aiohttp

from labeling_ground.breaker import Breaker
from labeling_ground.errors import BackendFailed, BadInput, BadPrompt, Overloaded
from labeling_ground.inference.remote import wire
from labeling_ground.inference.remote.addresses import Address
from labeling_ground.inference.remote_status import EngineCounts

log = logging.getLogger(__name__)

RETRIES = (0.05, 0.25)
"""Seconds before the second and the third try. Encodes and decodes are pure, so one that was cut off may be repeated;
after a time-out there is no further try, as whatever is too slow would only get more to do."""
FAILURES = 3
"""So many failures in a row, and the engine is left alone."""
CONNECTIONS = 100
"""Most connections to one engine. How many asks it is sent at once is bounded before, by its workers."""
PROBES_APART_S = 10.0
"""Longest pause between two probes of an engine that is too busy to answer them."""
_LONGEST_PAUSE_S = 60
"""Nobody is sent away for longer, whatever an engine says."""
_PIECE = 256 * 1024
_MOST_SENT = 10_000
"""So many embeddings are remembered as sent; one that is forgotten is sent once more."""
_BUSY = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What is waited for, and how much is read.

    Attributes:
        connect_s: seconds to connect.
        deadline_s: seconds for one ask, retries and other engines included.
        most_bytes: largest answer.
        reset_s: seconds for which an engine that failed is left alone.
        probe_s: seconds for «what do you serve?», and for what the engine says of its workers and its queue.
    """

    connect_s: float
    deadline_s: float
    most_bytes: int
    reset_s: float
    probe_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: 200, or one of the refusals that the caller has to deal with (409, 424)."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Fetched:
    """One answer over HTTP, whole."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """What is left for an ask at one engine.

    Attributes:
        until: when it ends, on the monotonic clock.
        pauses: seconds before each further try where the connection breaks.
    """

    until: float
    pauses: Sequence[float] = RETRIES


class EngineAway(BackendFailed):
    """The engine has not begun with the ask: any other one may be asked, whatever the ask may do to an engine."""


class EngineRefused(BackendFailed):
    """The engine answers, and says that it failed at this ask: the fault is the ask's, unless another engine does it.

    ``reason`` is what the engine said.
    """

    def __init__(self, half: str, reason: str) -> None:
        super().__init__(f"The {half} failed: {reason}")
        self.reason = reason


class OtherModel(EngineAway):
    """The engine serves another model than the one that the ask is bound to."""

    def __init__(self) -> None:
        super().__init__("The engines have changed to another model. Try again in a moment.")


class SentEmbeddings:
    """Which embeddings one decoder was sent, so that each travels there once."""

    def __init__(self) -> None:
        self.keeps = True
        """Whether the decoder keeps what it is sent."""
        self.times = 0
        """How often an embedding was sent."""
        self._keys: OrderedDict[str, None] = OrderedDict()
        self._sending: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, key: str) -> None:
        """Note that the decoder has it."""
        self._keys[key] = None
        while len(self._keys) > _MOST_SENT:
            self._keys.popitem(last=False)

    def used(self, key: str) -> None:
        """Note that it was used; another ask may have learnt meanwhile that the decoder does not have it any more."""
        if key in self._keys:
            self._keys.move_to_end(key)

    def discard(self, key: str) -> None:
        """Note that the decoder does not have it."""
        self._keys.pop(key, None)

    def note(self, key: str, *, kept: bool) -> None:
        """Note what the decoder says: whether it keeps what it is sent, and so has this one."""
        self.keeps = kept
        if not kept:
            self.discard(key)

    def lock(self, key: str) -> asyncio.Lock:
        """To be held by the one that sends it, while others wait for that."""
        return self._sending.setdefault(key, asyncio.Lock())


class EngineClient:
    """Asks one engine. Everything is opened at the first ask, in the loop that asks.

    Args:
        address: where it is.
        limits: how long and how much.
    """

    def __init__(self, address: Address, limits: EngineLimits) -> None:
        self.address, self.half = address, address.half
        self.breaker = Breaker(FAILURES, limits.reset_s)
        self.description: wire.Description | None = None
        self.workers: int | None = None
        self.queue: int | None = None
        self.running = 0
        """Asks of this server that it has not answered yet."""
        self.chosen = 0
        """When it was last chosen, as a number that grows: among equals the one goes next that had its turn first."""
        self.is_draining = False
        """Whether it has said that it shuts down, and nothing else since."""
        self.was_away = False
        """Whether it shut down or could not be reached when it was last asked, and so may be back by now."""
        self.sent = SentEmbeddings()
        self.limits = limits
        self._session: aiohttp.ClientSession | None = None
        self._reason = ""
        self.engine_s: float | None = None
        """Seconds that it says an ask takes, on average of late."""
        self._round_trip_s: float | None = None
        self._sent_bytes = self._received_bytes = self._asks = 0
        self._probe_pause_s = self._probe_after = 0.0

    @property
    def trouble(self) -> str:
        """Why it is left alone now, as a sentence; empty if it is not."""
        return "" if self.breaker.state == "closed" else f"The {self.half} does not answer: {self._reason}."

    @property
    def owes_an_answer(self) -> bool:
        """Whether it has let a probe wait of late, and should be left in peace for a while.

        TorchServe queues a probe like any ask, and keeps it when nobody waits for it any more: behind an encode of two
        minutes the probes of a few proxies would take all the places in its queue.
        """
        return time.monotonic() < self._probe_after

    @property
    def is_silent(self) -> bool:
        """Whether the last probe got no answer: the engine is too busy for it, or hangs."""
        return self._probe_pause_s > 0

    def figures(self, left_out: str) -> EngineCounts:
        """As last seen. ``left_out``: why it is not asked now, in a word; empty if it is."""
        return EngineCounts(
            engine=self.half,
            address=str(self.address),
            model_version="" if self.description is None else str(self.description.version),
            breaker=self.breaker.state,
            left_out=left_out,
            workers=self.workers,
            queue=self.queue,
            running=self.running,
            engine_seconds=self.engine_s,
            round_trip_seconds=self._round_trip_s,
            sent_bytes=self._sent_bytes,
            received_bytes=self._received_bytes,
            asks=self._asks,
            embeddings_sent=self.sent.times,
        )

    async def ask(self, body: bytes, attempt: RetryBudget) -> Answer:
        """Ask, and ask again where the connection broke and the attempt leaves room.

        Raises:
            EngineAway: it cannot be reached, shuts down, or serves another model.
            BackendFailed: it is too slow, or answers what it should not.
            Overloaded: it has too much to do.
            BadPrompt: the model cannot read the phrase that was asked about.
        """
        answer = await self._ask(body, attempt)
        self._sent_bytes += len(body)
        self._received_bytes += len(answer.body)
        self._asks += 1
        if answer.status == 409:
            with contextlib.suppress(BackendFailed, Overloaded):
                await self.describe()
            raise OtherModel
        return answer

    async def describe(self, deadline_s: float | None = None) -> wire.Description:
        """What it serves, whether or not it is left alone now. One that answers is back.

        Being slow with this is no failure: the engine may be busy.

        Raises:
            BackendFailed, Overloaded: as ``ask``.
        """
        attempt = RetryBudget(time.monotonic() + (deadline_s or self.limits.probe_s))
        answer = await self._ask(wire.write_ask(wire.Describe()), attempt, is_probe=True)
        with self.reading():
            self.description = wire.read_description(answer.body)
        self.breaker.succeeded()
        self.is_draining = self.was_away = False
        return self.description

    async def look(self) -> None:
        """See how many workers there are and how many asks wait. One that does not tell is no failure."""
        try:
            found = await self._fetch("GET", self.address.management, None, self.limits.probe_s)
        except (aiohttp.ClientError, OSError, BackendFailed):
            self.workers = self.queue = None
        else:
            self.workers, self.queue = read_management(found.body) if found.status == 200 else (None, None)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """What cannot be read is the engine's failure."""
        try:
            yield
        except BadInput as error:
            raise self.failed(f"its answer cannot be used: {str(error).rstrip('.')}") from error

    def took(self, engine_s: float, round_trip_s: float) -> None:
        """Note that an ask was answered as it should be, and how long it took."""
        self.breaker.succeeded()
        self.engine_s = _smoothed(self.engine_s, engine_s)
        self._round_trip_s = _smoothed(self._round_trip_s, round_trip_s)

    def failed(self, reason: str, kind: type[BackendFailed] = BackendFailed, *, is_away: bool = False) -> BackendFailed:
        """Count a failure; returns what to raise, of this kind. ``is_away``: it cannot be reached any more."""
        before = self.breaker.state
        self._reason = reason
        self.was_away = is_away
        self.breaker.failed()
        if before == "closed":
            log.warning("the %s at %s failed: %s", self.half, self.address, reason)
        return kind(f"The {self.half} does not answer: {reason}. Try again in a moment.")

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(self, body: bytes, attempt: RetryBudget, *, is_probe: bool = False) -> Answer:
        began = time.monotonic()
        pauses = iter(attempt.pauses)
        kind: type[BackendFailed] = EngineAway
        while True:
            try:
                found = await self._exchange(body, attempt.until - time.monotonic())
            except TimeoutError as error:
                was_connected = not isinstance(error, aiohttp.ConnectionTimeoutError)
                seconds = round(attempt.until - began, 1)
                if is_probe:
                    if was_connected:  # so the probe is queued
                        self._probe_pause_s = min(max(self.limits.probe_s, 2 * self._probe_pause_s), PROBES_APART_S)
                        self._probe_after = time.monotonic() + self._probe_pause_s
                    raise BackendFailed(f"The {self.half} has not answered within {seconds:g} s.") from error
                kind = BackendFailed if was_connected else kind
                raise self.failed(f"no answer within {seconds:g} s", kind, is_away=not was_connected) from None
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                self._owes_nothing()  # whatever it had in its queue is gone
                if not isinstance(error, aiohttp.ClientConnectorError):
                    kind = BackendFailed  # it may have begun
                pause = next(pauses, None)
                if pause is None or time.monotonic() + pause >= attempt.until:
                    raise self.failed(_words(error), kind, is_away=True) from error
                await asyncio.sleep(pause)
            except aiohttp.ClientError as error:  # no HTTP, or a broken one
                raise self.failed(_words(error)) from error
            else:
                return self.judge(*found)

    def _owes_nothing(self) -> None:
        self._probe_pause_s = self._probe_after = 0.0

    def judge(self, status: int, body: bytes, retry_after: str = "") -> Answer:
        """One answer of it: what it says if that is of use, or why not as an error.

        Raises:
            EngineAway, EngineRefused, BackendFailed, Overloaded, BadPrompt: as ``ask``.
        """
        self._owes_nothing()
        if status in (200, 409, 424):
            if status != 200:  # that is a success once it was read
                self.breaker.succeeded()
            return Answer(status, body)
        said = wire.read_problem(body)
        sentence = said.get("detail", "")[:300] or f"it answered with status {status}"
        if status in _BUSY and said.get("draining") == "true":
            self.is_draining = self.was_away = True
            raise EngineAway(f"The {self.half} is shutting down. Try again in a moment.")
        if status in _BUSY:
            self.breaker.succeeded()  # it is there
            raise Overloaded(f"The {self.half} has too much to do: {sentence}", _seconds(retry_after))
        if "title" in said:  # it is one of ours, and answers: this ask was its trouble
            self.breaker.succeeded()
            if said.get("unreadable") == "phrase":
                raise BadPrompt(sentence)
            log.warning("the %s refused an ask: %d, %s", self.half, status, sentence)
            raise EngineRefused(self.half, sentence)
        raise self.failed(sentence)

    async def _exchange(self, body: bytes, seconds: float) -> tuple[int, bytes, str]:
        """Bring an ask there once: status, body as ``wire`` reads it, and ``Retry-After`` (empty without one).

        Raises:
            TimeoutError, aiohttp.ClientError: there is no answer.
            BackendFailed: it is none of the protocol.
        """
        found = await self._fetch("POST", self.address.predictions, body, seconds)
        kind = found.headers.get("Content-Type", wire.MEDIA_TYPE).partition(";")[0]
        if found.status == 200 and kind != wire.MEDIA_TYPE:
            raise self.failed(f"its answer is {kind[:60]}, not {wire.MEDIA_TYPE}")
        return found.status, found.body, found.headers.get("Retry-After", "")

    async def _fetch(
        self, method: str, url: str, body: bytes | None, seconds: float, extra: Mapping[str, str] = MappingProxyType({})
    ) -> Fetched:
        """One HTTP exchange, bounded in time and size; ``extra`` are more headers of the request."""
        seconds = max(0.001, seconds)
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(self.limits.connect_s, seconds / 2))
        # Compressed floats are hardly smaller, and cost more than they spare.
        headers = {"Accept": wire.MEDIA_TYPE, "Accept-Encoding": "identity", **extra}
        data: bytes | AsyncIterator[memoryview] | None = body
        if body is not None:
            headers |= {"Content-Type": wire.MEDIA_TYPE, "Content-Length": str(len(body))}
            if len(body) > _PIECE:
                data = _pieces(body)
        if self._session is None:
            self._session = _opened()
        async with self._session.request(
            method, url, data=data, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            # Leaving this block before the answer's end closes the connection: no half-read answer is met again.
            if (response.content_length or 0) > self.limits.most_bytes:
                raise self.failed(f"its answer has more than {self.limits.most_bytes} bytes")
            pieces, total = [], 0
            async for piece in response.content.iter_any():
                total += len(piece)
                if total > self.limits.most_bytes:
                    raise self.failed(f"its answer has more than {self.limits.most_bytes} bytes")
                pieces.append(piece)
            return Fetched(response.status, b"".join(pieces), response.headers)


def _opened() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=30.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=1 << 20,
    )


def read_management(body: bytes) -> tuple[int | None, int | None]:
    """Workers that are ready, and asks that wait, from ``GET /models/{name}`` of TorchServe or of our own engine."""
    try:
        model = json.loads(body)[0]
        workers = sum(worker.get("status") == "READY" for worker in model["workers"])
        queue = model.get("jobQueueStatus", {}).get("pendingRequests")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None, None
    return workers, queue if isinstance(queue, int) else None


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(body), _PIECE):
        yield view[start : start + _PIECE]


def _seconds(retry_after: str) -> float:
    """An engine's own word on when to come back, within reason; a second where it has none, or a date."""
    return float(min(max(1, int(retry_after)), _LONGEST_PAUSE_S)) if re.fullmatch("[0-9]{1,9}", retry_after) else 1.0


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else 0.8 * before + 0.2 * now


def _words(error: Exception) -> str:
    """What went wrong, without addresses: the sentence goes to clients."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return "it cannot be connected to"
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        return "the connection broke"
    return "its answer is no HTTP"
