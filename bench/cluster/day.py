"""A sped-up day of labeling, played on a cluster through what stands for its load balancer."""

import asyncio
import io
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import aiohttp
import numpy as np
from PIL import Image as Pillow

from labeling_ground.simulate.synth import Work, synthesise
from labeling_ground.trace.events import KINDS, What
from labeling_ground.types import Kind

SIDE = 192
_MASK = KINDS.index(Kind.MASK)
REFUSED, BROKEN = -1, 0
"""In place of a status: there was no connection, and an ingress asks another proxy by itself; or it broke off."""
LATE_S = 100.0
"""An ask that has no right answer after so long has failed."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing that somebody does: open an image, send it ahead, or click.

    Attributes:
        at: seconds from the beginning, at the speed of the play.
        image: which.
        click: where, in pixels; ``None`` for the image itself.
        ahead: it is sent ahead, and nobody waits.
    """

    at: float
    image: int
    click: tuple[int, int] | None = None
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one ask.

    Attributes:
        at: when it was asked, in seconds from the beginning.
        seconds: until the last answer.
        status: of the last answer, or one of the two below.
        before: the same of each earlier try.
        outcome: as the answer says.
    """

    at: float
    seconds: float
    status: int
    before: tuple[int, ...]
    outcome: str = ""
    is_click: bool = True
    is_wrong: bool = False


def asks_of_a_day(annotators: int, seconds: float, most: int, seed: int = 0) -> list[Ask]:
    """The first asks of a made-up day, brought to so many seconds."""
    events = synthesise(seed, Work(mix="one", annotators=annotators, hours=2.0))
    events = events[(events["what"] == What.ASKED) | (events["what"] == What.PREFETCHED)][:most]
    start, span = float(events["time"][0]), float(events["time"][-1] - events["time"][0])
    asks = []
    for event in events:
        place = random.Random(int(event["key"]))
        is_click = event["kind"] == _MASK
        asks.append(
            Ask(
                (float(event["time"]) - start) / span * seconds,
                int(event["embedding"]),
                (place.randrange(8, SIDE - 8), place.randrange(8, SIDE - 8)) if is_click else None,
                bool(event["what"] == What.PREFETCHED),
            )
        )
    return asks


def file_of(image: int) -> bytes:
    """A small PNG: blobs that depend on the image alone."""
    tiles = np.random.default_rng(image).integers(0, 256, (6, 6, 3), np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(tiles).resize((SIDE, SIDE), Pillow.Resampling.BILINEAR).save(out, "PNG")
    return out.getvalue()


@dataclass
class Player:
    """Plays asks. Like an ingress, it takes the proxies in turn, and another one where a connection breaks.

    Attributes:
        ports: of the proxies that get asks now; changed from outside, as Kubernetes changes a service's.
        truth: image and click → masks and scores; filled by the first play, compared with by the others.
    """

    ports: list[int]
    truth: dict[tuple[int, tuple[int, int]], Any] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    _turn: Any = field(default_factory=itertools.count)
    _files: dict[int, bytes] = field(default_factory=dict)

    async def play(self, asks: Sequence[Ask], began: float) -> None:
        """All asks, each at its time; a click after its image was opened."""
        opened: dict[int, asyncio.Task[None]] = {}
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=24), timeout=aiohttp.ClientTimeout(total=LATE_S)
            ) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for ask in asks:
                await asyncio.sleep(max(0.0, began + ask.at - time.monotonic()))
                task = tasks.create_task(self._ask(http, ask, began, opened.get(ask.image)))
                if ask.click is None and not ask.ahead:
                    opened[ask.image] = task

    async def _ask(
        self, http: aiohttp.ClientSession, ask: Ask, began: float, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await before
        started, statuses, body = time.monotonic(), list[int](), dict[str, Any]()
        while time.monotonic() < started + LATE_S:
            status, body = await self._send(http, ask)
            statuses.append(status)
            if status in (200, 202):
                break
            if status == 404:  # what the answer says to do: the image went with a part, so send it again
                await self._send(http, Ask(ask.at, ask.image))
            elif status != REFUSED or len(statuses) % len(self.ports) == 0:
                await asyncio.sleep(0.1)
        is_wrong = False
        if ask.click is not None and statuses[-1] == 200:
            said = body["masks"], body["scores"]
            is_wrong = self.truth.setdefault((ask.image, ask.click), said) != said
        self.answers.append(
            Answer(
                started - began,
                time.monotonic() - started,
                statuses[-1],
                tuple(statuses[:-1]),
                str(body.get("outcome", "")),
                ask.click is not None,
                is_wrong,
            )
        )

    async def _send(self, http: aiohttp.ClientSession, ask: Ask) -> tuple[int, dict[str, Any]]:
        """One try: status, or one of the two above, and body."""
        url = f"http://127.0.0.1:{self.ports[next(self._turn) % len(self.ports)]}/v1/images"
        if ask.image not in self._files:
            self._files[ask.image] = file_of(ask.image)
        file = self._files[ask.image]
        try:
            if ask.click is None:
                where = f"{url}?wait=false" if ask.ahead else url
                sent = http.post(where, data=file, headers={"Content-Type": "image/png"})
            else:
                click = {"points": [dict(zip("xy", ask.click, strict=True))]}
                sent = http.post(f"{url}/{sha256(file).hexdigest()}/masks", json=click)
            async with sent as answer:
                return answer.status, await answer.json(content_type=None)
        except aiohttp.ClientConnectorError:
            return REFUSED, {}
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return BROKEN, {}
