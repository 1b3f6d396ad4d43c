"""The other worker processes of one server: each answers the others' questions on a socket that only they can reach.

A message is a length of four bytes and a pickle. The sockets lie in a folder of mode 0700: who reaches them is the user
who runs these processes, and could do with them as he likes anyway. Before each use it is seen that the folder is still
such a one: where a cleaner of /tmp has taken it away, any user can put another one in its place.
"""

import asyncio
import contextlib
import logging
import os
import pickle
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labeling_ground.folders import make_trusted

log = logging.getLogger(__name__)

Answer = Callable[..., Awaitable[Any]]


@dataclass
class Peers:
    """The workers of one server, as one of them sees the others.

    Attributes:
        folder: where each has its socket, and what a successor of it starts from.
        number: which of them this process is, from 0.
        count: how many there are.
        answer_s: one that takes longer to answer is left out; one that was killed is not there at all.
    """

    folder: Path
    number: int
    count: int
    answer_s: float = 5.0
    past: Any = field(default=None, init=False)
    """What this worker's predecessor has noted; ``None`` where there was none."""
    _server: asyncio.Server | None = field(default=None, init=False)
    _answers: Mapping[str, Answer] = field(default_factory=dict, init=False)
    _is_started: bool = field(default=False, init=False)
    _shared: Any = field(default=None, init=False)

    async def open(self, answers: Mapping[str, Answer]) -> None:
        """Answer the others from now on: by the question's name, what is called with its arguments.

        Raises:
            OSError: the folder cannot be used, or other users could.
        """
        self._answers = answers
        make_trusted(self.folder)
        with contextlib.suppress(FileNotFoundError):
            self.past = pickle.loads(self._noted.read_bytes())  # noqa: S301 -- see the module
        await self._listen()

    async def stay(self) -> None:
        """See that the others reach this worker also after somebody has cleared the folder, as cleaners of /tmp do.

        Raises:
            OSError: the folder cannot be written, or other users could.
        """
        make_trusted(self.folder)
        if self._server is not None and not self._socket(self.number).exists():
            self._server.close()
            await self._listen()
        if self._is_started:
            self.note_start()  # a file that is touched is not old
        try:
            os.utime(self._for_all)  # where it is gone, touching it would leave an empty one
        except FileNotFoundError:
            if self._shared is not None:
                self.share(self._shared)

    async def aclose(self) -> None:
        """Stop answering the other workers."""
        if self._server is not None:
            self._server.close()
            self._socket(self.number).unlink(missing_ok=True)

    async def ask(self, question: str, *arguments: Any, answer_s: float | None = None) -> dict[int, Any]:
        """The answers of the other workers, by their numbers, without those that did not answer in time.

        Args:
            question: its name.
            *arguments: of the question.
            answer_s: how long it may take, where that is not the usual time.

        Raises:
            Exception: what one of them raised, when all have answered.
        """
        others = [number for number in range(self.count) if number != self.number]
        found = await asyncio.gather(*(self._ask(number, question, arguments, answer_s) for number in others))
        answered = {number: answer for number, answer in zip(others, found, strict=True) if answer is not None}
        for is_answer, answer in answered.values():
            if not is_answer:
                raise answer
        return {number: answer for number, (_, answer) in answered.items()}

    def note(self, what: Any) -> None:
        """Write down what a successor of this worker starts from, should it be killed; where there is no room for it,
        the successor starts from what was noted before."""
        with contextlib.suppress(OSError):
            self._write(self._noted, what)

    def share(self, what: Any) -> None:
        """Write down what every worker that is started later begins with, also when none is left that knows of it."""
        self._shared = what
        try:
            self._write(self._for_all, what)
        except OSError as error:
            log.warning("workers that are started later will not know of changed settings: %s", error)

    @property
    def shared(self) -> Any:
        """What was shared last; ``None`` where nothing was.

        Raises:
            OSError: the folder cannot be used, or other users could.
        """
        make_trusted(self.folder)
        with contextlib.suppress(FileNotFoundError):
            self._shared = pickle.loads(self._for_all.read_bytes())  # noqa: S301 -- see the module
        return self._shared

    def note_start(self) -> None:
        """Let the others know that this worker was ready once."""
        self._is_started = True
        with contextlib.suppress(OSError):
            make_trusted(self.folder)
            self._started(self.number).touch()

    def has_started(self, number: int) -> bool:
        """Whether this worker, or a predecessor of it, was ready once."""
        return self._started(number).exists()

    def _started(self, number: int) -> Path:
        return self.folder / f"worker-{number}.started"

    @property
    def _noted(self) -> Path:
        return self.folder / f"worker-{self.number}.noted"

    @property
    def _for_all(self) -> Path:
        return self.folder / "for-all.noted"

    def _write(self, path: Path, what: Any) -> None:
        make_trusted(self.folder)
        written = self.folder / f"worker-{self.number}.new"
        written.write_bytes(pickle.dumps(what))
        written.replace(path)

    def _socket(self, number: int) -> Path:
        return self.folder / f"worker-{number}.sock"

    async def _listen(self) -> None:
        socket = self._socket(self.number)
        socket.unlink(missing_ok=True)  # our predecessor's
        self._server = await asyncio.start_unix_server(self._serve, socket)

    async def _ask(
        self, number: int, question: str, arguments: tuple[Any, ...], answer_s: float | None
    ) -> tuple[bool, Any] | None:
        try:
            make_trusted(self.folder)
            async with asyncio.timeout(answer_s or self.answer_s):
                reader, writer = await asyncio.open_unix_connection(self._socket(number))
                try:
                    await _send(writer, (question, arguments))
                    answer: tuple[bool, Any] = await _receive(reader)
                    return answer
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError):
            return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            question, arguments = await _receive(reader)
            try:
                answer = True, await self._answers[question](*arguments)
            except Exception as error:  # noqa: BLE001 -- the caller shall have it
                answer = False, error
            await _send(writer, answer)
        writer.close()


async def _send(writer: asyncio.StreamWriter, message: Any) -> None:
    content = pickle.dumps(message)
    writer.write(len(content).to_bytes(4) + content)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> Any:
    size = int.from_bytes(await reader.readexactly(4))
    return pickle.loads(await reader.readexactly(size))  # noqa: S301 -- see the module
