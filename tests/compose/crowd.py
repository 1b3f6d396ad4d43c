"""Eight clients that work without a pause and know what every answer has to be.

The truth is what the undisturbed stack answered to the same ask. Each client does what labeling tools do: prompts on
images of its own and of its neighbour, sessions of clicks, and new images (forgotten and sent again, so that encoder
and decoder have work all the time and not the cache alone).
"""

import asyncio
import base64
import hashlib
import io
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from bench.serving.photos import jpeg
from PIL import Image as Pillow

CLIENTS = 8
PROMPTS = 4
CHURNING = 2
"""So many of them have an image encoded at the same time. On a busy machine one encode takes ten seconds, and it is not
tested how long a queue of eight takes."""
SIZE = (512, 384)
HANGS_S = 90.0
"""No answer takes so long: the stack under test has 60 s for an encode, 15 s for a decode, and an ask may need both."""


@dataclass(frozen=True)
class Seen:
    """One ask and what came of it."""

    what: str
    began: float
    seconds: float
    status: int
    """0: no answer within ``HANGS_S``; -1: no connection, or one that broke."""
    right: bool = True
    retry_after: str | None = None
    problem: str = ""


@dataclass
class Report:
    """All that the clients saw."""

    seen: list[Seen] = field(default_factory=list)

    def bad(self, *allowed: tuple[int, str], since: float = 0.0) -> list[Seen]:
        """What must not be: wrong masks, asks that hang, and failures but those ``allowed``: status, what was asked."""
        return [
            one
            for one in self.seen
            if one.began >= since and (not one.right or (one.status != 200 and (one.status, one.what) not in allowed))
        ]

    def count(self, status: int) -> int:
        """How many asks ended so."""
        return sum(one.status == status for one in self.seen)

    def last_failure(self) -> float:
        """When the last ask began that was not answered with 200 (0: all were)."""
        return max((one.began for one in self.seen if one.status != 200), default=0.0)

    def __str__(self) -> str:
        slowest = max((one.seconds for one in self.seen), default=0.0)
        statuses = {status: self.count(status) for status in sorted({one.status for one in self.seen})}
        return f"{len(self.seen)} asks, by status {statuses}, slowest {slowest:.1f} s"


@dataclass(frozen=True)
class Photo:
    """An image file and its id."""

    file: bytes
    identity: str


def photo(number: int) -> Photo:
    """The photograph of that number; all differ."""
    buffer = io.BytesIO()
    Pillow.open(io.BytesIO(jpeg(number, 100_000))).resize(SIZE).save(buffer, "JPEG")
    return Photo(buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest())


class Crowd:
    """The clients. ``learn`` while nothing is disturbed, then ``working`` around what is done to the stack."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._photos = [photo(n) for n in range(CLIENTS)]
        self._churned = [photo(100 + n) for n in range(CLIENTS)]
        rng = random.Random(5)
        self._prompts = [
            {"points": [{"x": rng.randrange(40, SIZE[0] - 40), "y": rng.randrange(40, SIZE[1] - 40), "label": 1}]}
            for _ in range(PROMPTS)
        ]
        self._truth: dict[tuple[str, int], Any] = {}
        self._steps: list[list[Any]] = []
        self._churning = 0
        self.report = Report()

    async def learn(self) -> None:
        """Ask everything once; what is answered now is the truth."""
        async with self._session() as http:
            for one in (*self._photos, *self._churned):
                assert (await self._upload(http, one)).status == 200
                for number in range(PROMPTS):
                    status, body = await self._ask(http, one, number)
                    assert status == 200, body
                    self._truth[one.identity, number] = body["masks"], body["scores"]
            for number in range(CLIENTS):
                self._steps.append(await self._clicks(http, number, "truth"))
        self.report.seen.clear()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Report]:
        """All clients at work, until the block ends; then the last asks are waited for."""
        self.report = Report()
        stop = asyncio.Event()
        async with self._session() as http, asyncio.TaskGroup() as tasks:
            for one in self._photos:  # what an earlier case may have cost a tier
                assert (await self._upload(http, one)).status == 200
            for number in range(CLIENTS):
                tasks.create_task(self._client(http, number, stop))
            try:
                yield self.report
            finally:
                stop.set()

    def _session(self) -> aiohttp.ClientSession:
        # A connection for each client, and none that the server has closed meanwhile is used again.
        connector = aiohttp.TCPConnector(limit=2 * CLIENTS, force_close=True)
        return aiohttp.ClientSession(
            self._url, connector=connector, timeout=aiohttp.ClientTimeout(total=HANGS_S), raise_for_status=False
        )

    async def _client(self, http: aiohttp.ClientSession, number: int, stop: asyncio.Event) -> None:
        rng = random.Random(number)
        while not stop.is_set():
            kind = rng.random()
            if kind < 0.6:
                mine = self._photos[(number + (rng.random() < 0.3)) % CLIENTS]
                await self._check(http, mine, rng.randrange(PROMPTS))
            elif kind < 0.7 and self._churning < CHURNING:
                self._churning += 1
                try:
                    await self._churn(http, self._churned[number], rng.randrange(PROMPTS))
                finally:
                    self._churning -= 1
            else:
                await self._clicks(http, number, f"client-{number}")

    async def _churn(self, http: aiohttp.ClientSession, one: Photo, prompt: int) -> None:
        """Forget an image, send it again, and click on it: one encode, one decode."""
        await self._send(http, "forget", "DELETE", f"/v1/images/{one.identity}")
        if (await self._upload(http, one)).status == 200:
            await self._check(http, one, prompt)

    async def _check(self, http: aiohttp.ClientSession, one: Photo, prompt: int) -> None:
        status, body = await self._ask(http, one, prompt)
        if status == 404:  # what the answer says to do: the image was lost with a tier, so send it again
            await self._upload(http, one)
            status, body = await self._ask(http, one, prompt)
        if status == 200 and (body["masks"], body["scores"]) != self._truth[one.identity, prompt]:
            self._wrong(f"mask of prompt {prompt} on {one.identity[:8]}, outcome {body['outcome']}")

    async def _ask(self, http: aiohttp.ClientSession, one: Photo, prompt: int) -> tuple[int, Any]:
        seen, body = await self._exchange(
            http, "mask", "POST", f"/v1/images/{one.identity}/masks", json=self._prompts[prompt]
        )
        return seen.status, body

    async def _upload(self, http: aiohttp.ClientSession, one: Photo) -> Seen:
        return await self._send(
            http, "image", "POST", "/v1/images", data=one.file, headers={"Content-Type": "image/jpeg"}
        )

    async def _clicks(self, http: aiohttp.ClientSession, number: int, name: str) -> list[Any]:
        """A session: open, three clicks, each adding to those before. An acknowledged click is never forgotten.

        A click that is not acknowledged is made again, like a person would. Whether it counted the first time nobody
        knows, so from then on it may stand there twice.
        """
        encoded = base64.b64encode(self._photos[number].file).decode()
        opened = await self._send(
            http, "open", "POST", "/api/sam/image", json={"image": encoded, "session_id": f"{name}-{number}"}
        )
        if opened.status != 200:
            return []
        answers: list[Any] = []
        acknowledged: list[tuple[int, int]] = []
        certain = True
        for step in range(3):
            point = self._prompts[step]["points"][0]
            click = (point["x"], point["y"])
            body = {"points": list(click), "labels": [1], "session_id": f"{name}-{number}"}
            tries, answer = await self._click(http, body)
            if answer is None:
                return []
            kept = [(int(p["x"]), int(p["y"])) for p in answer["points"]]
            answers.append(answer["masks"])
            new = kept[len(acknowledged) :]
            if kept[: len(acknowledged)] != acknowledged or set(new) != {click} or len(new) > tries:
                self._wrong(f"session has {kept}, acknowledged were {acknowledged}, then came {click}, {tries} times")
                return []
            acknowledged, certain = kept, certain and len(new) == 1
            if certain and len(self._steps) > number and self._steps[number][step] != answer["masks"]:
                self._wrong(f"session mask after {step + 1} clicks, outcome {answer['outcome']}")
        await self._send(http, "finish", "POST", "/api/sam/finish_click", json={"session_id": f"{name}-{number}"})
        return answers

    async def _click(self, http: aiohttp.ClientSession, body: Any) -> tuple[int, Any]:
        """Make a click until it is acknowledged: how often, and the answer; ``None`` where its image was lost."""
        until, tries = time.monotonic() + HANGS_S, 0
        while True:
            tries += 1
            seen, answer = await self._exchange(http, "click", "POST", "/api/sam/click", json=body)
            if seen.status == 200:
                return tries, answer
            if seen.status == 404 and str(answer.get("type", "")).endswith("unknown-session"):
                self._wrong(f"the session of {body} was forgotten")
            if seen.status not in (503, -1) or time.monotonic() > until:
                return tries, None

    def _wrong(self, text: str) -> None:
        self.report.seen.append(Seen(text, time.monotonic(), 0.0, 200, right=False))

    async def _send(self, http: aiohttp.ClientSession, what: str, method: str, path: str, **body: Any) -> Seen:
        return (await self._exchange(http, what, method, path, **body))[0]

    async def _exchange(
        self, http: aiohttp.ClientSession, what: str, method: str, path: str, **body: Any
    ) -> tuple[Seen, Any]:
        began = time.monotonic()
        answer: Any = None
        try:
            async with http.request(method, path, **body) as response:
                answer = await response.json(content_type=None)
                status, retry_after = response.status, response.headers.get("Retry-After")
        except TimeoutError:
            status, retry_after = 0, None
        except aiohttp.ClientError as error:
            status, retry_after, answer = -1, None, {"detail": repr(error)}
        problem = str(answer.get("detail", "")) if isinstance(answer, dict) and status != 200 else ""
        seen = Seen(what, began, time.monotonic() - began, status, True, retry_after, problem)
        self.report.seen.append(seen)
        if status in (503, -1):
            await asyncio.sleep(0.2)  # a client that was told to come back later does not hammer
        return seen, answer
