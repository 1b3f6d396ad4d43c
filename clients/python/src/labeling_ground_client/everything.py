"""«Segment everything» as it grows: an iterator with a length, for progress bars."""

import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from labeling_ground_client.errors import ProblemError, UnreachableError
from labeling_ground_client.steps import unreachable
from labeling_ground_client.values import FoundMask, Outcome, found_mask_from


@dataclass(frozen=True)
class Progress:
    """One row of the grid is done.

    Attributes:
        done: points that were looked at.
        points: points of the grid.
        masks: what would be the answer if the grid ended here, best first. After the last row it is the answer.
    """

    done: int
    points: int
    masks: list[FoundMask] = field(repr=False)


class _Stream:
    """What the lines that came so far say. Its length is the number of the grid's rows.

    Attributes:
        points: points of the grid.
        width: columns of the image.
        height: rows of the image.
        model: short name of the model.
        model_version: the version that makes the masks.
        outcome: ``hit``, ``joined``, ``recomputed`` or ``miss``; ``None`` before the end.
        masks: what would be the answer if the grid ended here, best first.
    """

    points: int
    width: int
    height: int
    model: str
    model_version: str

    def __init__(self, response: httpx.Response) -> None:
        self.outcome: Outcome | None = None
        self.masks: list[FoundMask] = []
        self._response = response
        self._url = str(response.url)
        self._rows = 0
        self._rows_done = 0
        self._found: dict[int, FoundMask] = {}
        self._ready: deque[Progress] = deque()
        self._rest = b""

    def __len__(self) -> int:
        return self._rows

    def _feed(self, piece: bytes | None) -> None:
        """Take in a piece of the answer's body; ``None`` is its end."""
        if piece is None:
            raise UnreachableError(f"The answer of {self._url} was cut off before its end. Ask again.")
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        event = line["event"]
        if event == "problem":
            raise ProblemError(
                {name: value for name, value in line.items() if name != "event"}, retry_after_s=line.get("retry_after")
            )
        if event == "start":
            self.points, self.width, self.height = line["points"], line["width"], line["height"]
            self.model, self.model_version = line["model"], line["model_version"]
            self._rows = line["options"]["points_per_side"]
            return
        self._found.update((body["id"], found_mask_from(body)) for body in line["masks"])
        self.masks = [self._found[number] for number in line["standing"]]
        if event == "end":
            self.outcome = line["outcome"]
            rows, done = self._rows, self.points
        else:
            # The last row comes with the end, whose masks are final.
            done = line["done"]
            rows = min(done * self._rows // self.points, self._rows - 1)
        # A server that was not listened to for a while tells of several rows at once.
        self._ready.extend(Progress(done, self.points, self.masks) for _ in range(self._rows_done, rows))
        self._rows_done = rows

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.RequestError as error:
            raise unreachable(self._url, error) from error


class Everything(_Stream):
    """All masks of an image: yields a ``Progress`` for each row of the grid, and knows their number (``len``).

    Leave it as a context manager, or close it, to have the server stop early.
    """

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response)
        self._pieces = response.iter_bytes()
        self._progress = self._run()
        with contextlib.ExitStack() as undo, self._errors():
            undo.callback(self.close)
            while not self._rows:
                self._feed(next(self._pieces, None))
            undo.pop_all()

    def __iter__(self) -> Iterator[Progress]:
        return self._progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening. The server stops too, unless somebody else waits for the same."""
        self._response.close()

    def result(self) -> list[FoundMask]:
        """All masks, best first: waits for the end of the grid.

        Raises:
            ProblemError: the server failed on the way.
            UnreachableError: the answer was cut off.
        """
        for _ in self:
            pass
        return self.masks

    def _run(self) -> Iterator[Progress]:
        try:
            with self._errors():
                while self._ready or self.outcome is None:
                    if self._ready:
                        yield self._ready.popleft()
                    else:
                        self._feed(next(self._pieces, None))
        finally:
            self.close()


class AsyncEverything(_Stream):
    """What ``Everything`` is, for ``async for``, ``async with`` and ``await``."""

    @classmethod
    async def begun(cls, response: httpx.Response) -> Self:
        """The stream, once the server has said how many rows there are."""
        stream = cls(response)
        stream._pieces = response.aiter_bytes()
        stream._progress = stream._run()
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(stream.aclose)
            with stream._errors():
                while not stream._rows:
                    stream._feed(await anext(stream._pieces, None))
            undo.pop_all()
        return stream

    _pieces: AsyncIterator[bytes]
    _progress: AsyncIterator[Progress]

    def __aiter__(self) -> AsyncIterator[Progress]:
        return self._progress

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening. The server stops too, unless somebody else waits for the same."""
        await self._response.aclose()

    async def result(self) -> list[FoundMask]:
        """All masks, best first: waits for the end of the grid.

        Raises:
            ProblemError: the server failed on the way.
            UnreachableError: the answer was cut off.
        """
        async for _ in self:
            pass
        return self.masks

    async def _run(self) -> AsyncIterator[Progress]:
        try:
            with self._errors():
                while self._ready or self.outcome is None:
                    if self._ready:
                        yield self._ready.popleft()
                    else:
                        self._feed(await anext(self._pieces, None))
        finally:
            await self.aclose()
