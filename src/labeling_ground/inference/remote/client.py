"""One engine elsewhere, as the proxy sees it: connections, deadlines, retries, and when to leave it alone."""

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from labeling_ground.breaker import Breaker
from labeling_ground.errors import BackendFailed, BadInput, Overloaded, shown_url
from labeling_ground.inference.remote import wire
from labeling_ground.inference.remote_status import EngineFigures

log = logging.getLogger(__name__)

RETRIES = (0.05, 0.25)
"""Seconds before the second and the third try. Encodes and decodes are pure, so one that was cut off may be repeated;
after a time-out there is no further try, as whatever is too slow would only get more to do."""
FAILURES = 3
"""So many failures in a row, and the engine is left alone."""
CONNECTIONS = 100
"""Most connections to one engine. How many asks it is sent at once is bounded before, by its workers."""
PROBE_S = 2.0
"""How long «what do you serve?» may take, of an engine that had failed."""
PROBES_APART_S = 10.0
"""Longest pause between two probes of an engine that is too busy to answer them."""
_MANAGEMENT_S = 2.0
_LONGEST_PAUSE_S = 60
"""Nobody is sent away for longer, whatever an engine says."""
_PIECE = 256 * 1024
_BUSY = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Address:
    """Where one half of the model is.

    Attributes:
        half: which, for sentences.
        url: ``http://host:port`` of its inference port.
        name: what the model is called there.
        management_url: of its management port; empty: one above the inference port, as with TorchServe.
    """

    half: str
    url: str = field(repr=False)
    name: str
    management_url: str = field(default="", repr=False)

    def __str__(self) -> str:
        return shown_url(self.url, path=False)

    @property
    def predictions(self) -> str:
        """Where asks go."""
        return f"{self.url.rstrip('/')}/predictions/{self.name}"

    @property
    def management(self) -> str:
        """Where workers and queue are told."""
        base = self.management_url
        if not base:
            parts = urlsplit(self.url)
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            base = f"{parts.scheme}://{host}:{(parts.port or 80) + 1}"
        return f"{base.rstrip('/')}/models/{self.name}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is waited for, and how much is read.

    Attributes:
        connect_s: seconds to connect.
        deadline_s: seconds for one ask, retries included.
        most_bytes: largest answer.
        reset_s: seconds for which an engine that failed is left alone.
    """

    connect_s: float
    deadline_s: float
    most_bytes: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: 200, or one of the refusals that the caller has to deal with (409, 424)."""

    status: int
    body: bytes


class EngineClient:
    """Asks one engine. Everything is opened at the first ask, in the loop that asks.

    Args:
        address: where it is.
        limits: how long and how much.
    """

    def __init__(self, address: Address, limits: Limits) -> None:
        self.address = address
        self.breaker = Breaker(FAILURES, limits.reset_s)
        self.description: wire.Description | None = None
        self.workers: int | None = None
        self.queue: int | None = None
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None
        self._reason = ""
        self._engine_s: float | None = None
        self._round_trip_s: float | None = None
        self._sent = self._received = self._asks = 0
        self._probe_pause_s = self._probe_after = 0.0

    @property
    def half(self) -> str:
        """``encoder`` or ``decoder``."""
        return self.address.half

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
    def figures(self) -> EngineFigures:
        """As last seen."""
        version = "" if self.description is None else str(self.description.version)
        return EngineFigures(
            self.half,
            version,
            self.breaker.state,
            self.workers,
            self.queue,
            self._engine_s,
            self._round_trip_s,
            self._sent,
            self._received,
            self._asks,
        )

    async def ask(self, body: bytes) -> Answer:
        """Ask, and ask again where the connection broke and the deadline leaves room.

        Raises:
            BackendFailed: the engine is away, too slow, or answers what it should not.
            Overloaded: it has too much to do.
        """
        if self.trouble:
            raise BackendFailed(f"{self.trouble} What is in the cache is still served; try again in a moment.")
        answer = await self._ask(body, self._limits.deadline_s)
        self._sent, self._received, self._asks = (
            self._sent + len(body),
            self._received + len(answer.body),
            self._asks + 1,
        )
        return answer

    async def describe(self, deadline_s: float = PROBE_S) -> wire.Description:
        """What it serves, whether or not it is left alone now. One that answers is back.

        Being slow with this is no failure: the engine may be busy.

        Raises:
            BackendFailed, Overloaded: as ``ask``.
        """
        answer = await self._ask(wire.write_ask(wire.Describe()), deadline_s, is_probe=True)
        with self.reading():
            self.description = wire.read_description(answer.body)
        self.breaker.succeeded()
        return self.description

    async def look(self) -> None:
        """See how many workers there are and how many asks wait. One that does not tell is no failure."""
        try:
            status, body, _ = await self._fetch("GET", self.address.management, None, _MANAGEMENT_S)
        except (aiohttp.ClientError, OSError, BackendFailed):
            status, body = 0, b""
        self.workers, self.queue = read_management(body) if status == 200 else (None, None)

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """What cannot be read is the engine's failure."""
        return _Reading(self)

    def took(self, engine_s: float, round_trip_s: float) -> None:
        """Note that an ask was answered as it should be, and how long it took."""
        self.breaker.succeeded()
        self._engine_s = _smoothed(self._engine_s, engine_s)
        self._round_trip_s = _smoothed(self._round_trip_s, round_trip_s)

    def failed(self, reason: str) -> BackendFailed:
        """Count a failure; returns what to raise."""
        before = self.breaker.state
        self._reason = reason
        self.breaker.failed()
        if before == "closed":
            log.warning("the %s at %s failed: %s", self.half, self.address, reason)
        return BackendFailed(f"The {self.half} does not answer: {reason}. Try again in a moment.")

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(self, body: bytes, deadline_s: float, *, is_probe: bool = False) -> Answer:
        until = time.monotonic() + deadline_s
        pauses = iter(RETRIES)
        while True:
            try:
                found = await self._fetch("POST", self.address.predictions, body, until - time.monotonic())
            except TimeoutError as error:
                if is_probe:
                    if not isinstance(
                        error, aiohttp.ConnectionTimeoutError
                    ):  # it was connected, so the probe is queued
                        self._probe_pause_s = min(max(PROBE_S, 2 * self._probe_pause_s), PROBES_APART_S)
                        self._probe_after = time.monotonic() + self._probe_pause_s
                    raise BackendFailed(f"The {self.half} has not answered within {deadline_s:g} s.") from error
                raise self.failed(f"no answer within {deadline_s:g} s") from None
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                self._owes_nothing()  # whatever it had in its queue is gone
                pause = next(pauses, None)
                if pause is None or time.monotonic() + pause >= until:
                    raise self.failed(_words(error)) from error
                await asyncio.sleep(pause)
            except aiohttp.ClientError as error:  # no HTTP, or a broken one
                raise self.failed(_words(error)) from error
            else:
                return self._judge(*found)

    def _owes_nothing(self) -> None:
        self._probe_pause_s = self._probe_after = 0.0

    def _judge(self, status: int, body: bytes, retry_after: str) -> Answer:
        self._owes_nothing()
        if status == 200:
            return Answer(status, body)  # a success once it was read
        if status in (409, 424):
            self.breaker.succeeded()
            return Answer(status, body)
        said = wire.read_problem(body)
        sentence = said.get("detail", "")[:300] or f"it answered with status {status}"
        if status in _BUSY:
            self.breaker.succeeded()  # it is there
            raise Overloaded(f"The {self.half} has too much to do: {sentence}", _seconds(retry_after))
        if "title" in said:  # it is one of ours, and answers: this ask was its trouble
            self.breaker.succeeded()
            log.warning("the %s refused an ask: %d, %s", self.half, status, sentence)
            raise BackendFailed(f"The {self.half} failed: {sentence}")
        raise self.failed(sentence)

    async def _fetch(self, method: str, url: str, body: bytes | None, seconds: float) -> tuple[int, bytes, str]:
        """Status, body, and what the answer says about trying again (``Retry-After``, empty without one)."""
        seconds = max(0.001, seconds)
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(self._limits.connect_s, seconds / 2))
        headers = {"Accept": wire.MEDIA_TYPE}
        data: bytes | AsyncIterator[memoryview] | None = body
        if body is not None:
            headers |= {"Content-Type": wire.MEDIA_TYPE, "Content-Length": str(len(body))}
            if len(body) > _PIECE:
                data = _pieces(body)
        session = self._opened()
        async with session.request(
            method, url, data=data, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            # Leaving this block before the answer's end closes the connection: no half-read answer is met again.
            kind = response.content_type
            if body is not None and response.status == 200 and kind != wire.MEDIA_TYPE:
                raise self.failed(f"its answer is {kind[:60]}, not {wire.MEDIA_TYPE}")
            if (response.content_length or 0) > self._limits.most_bytes:
                raise self.failed(f"its answer has more than {self._limits.most_bytes} bytes")
            pieces, total = [], 0
            async for piece in response.content.iter_any():
                total += len(piece)
                if total > self._limits.most_bytes:
                    raise self.failed(f"its answer has more than {self._limits.most_bytes} bytes")
                pieces.append(piece)
            return response.status, b"".join(pieces), response.headers.get("Retry-After", "")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=30.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=1 << 20,
            )
        return self._session


class _Reading:
    def __init__(self, client: EngineClient) -> None:
        self._client = client

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, BadInput):
            raise self._client.failed(f"its answer cannot be used: {str(error).rstrip('.')}") from error


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
