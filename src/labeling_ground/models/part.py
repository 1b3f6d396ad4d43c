"""A download that grows, and outlives what interrupts it."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from labeling_ground.errors import PullFailed
from labeling_ground.models.disk import disk_trouble

_CHUNK = 1 << 20


class Part:
    """A file that grows, its digest, and what the server called it.

    Unbuffered, so that whatever ends this process, what came is there. The digest grows along: the file is read only
    once, by a process that finds it.

    Args:
        path: the file; made if it is not there. Beside it, under ``.json``, is what the server called it.

    Raises:
        PullFailed: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_suffix(".json")
        self._digest = hashlib.sha256()
        self.size = 0
        self.pieced_together = False
        """More than one answer went into it, so a wrong digest does not prove that the server's file is wrong."""
        self.url, self.validator = self._noted()
        """Where it came from, and what ``If-Range`` may carry: a strong ETag, or a date."""
        try:
            self._file: IO[bytes] = open(  # noqa: PTH123, SIM115 -- closed by __exit__
                os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644), "r+b", buffering=0
            )
        except OSError as error:
            raise disk_trouble(path.parent, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """Digest of what is here, in hex."""
        return self._digest.hexdigest()

    def take_in(self, report: Callable[[], None]) -> None:
        """Read what an earlier attempt left.

        Raises:
            PullFailed: it cannot be read.
        """
        try:
            while chunk := self._file.read(_CHUNK):
                self._digest.update(chunk)
                self.size += len(chunk)
                self.pieced_together = True
                report()
        except OSError as error:
            raise self._trouble(error) from None

    def append(self, chunk: bytes) -> None:
        """Write the next bytes.

        Raises:
            PullFailed: the disk does not take them.
        """
        view = memoryview(chunk)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self.size)  # else the digest of a later attempt would start elsewhere
            raise self._trouble(error) from None
        self._digest.update(chunk)
        self.size += len(chunk)

    def start_anew(self) -> None:
        """Forget everything that came."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.size = 0
        self.pieced_together = False

    def discard(self) -> None:
        """Remove the file: its bytes are of no use to anybody."""
        self._file.close()
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)

    def note(self, url: str, validator: str | None) -> None:
        """Note what the server calls its file, for an ``If-Range`` of a later process."""
        self.url, self.validator = url, validator
        # Lost or unreadable, it costs only that check; the digest decides anyway.
        with contextlib.suppress(OSError):
            self._note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")

    def _noted(self) -> tuple[str | None, str | None]:
        try:
            raw = json.loads(self._note.read_bytes())
            return str(raw["url"]), raw["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            return None, None

    def _trouble(self, error: OSError) -> PullFailed:
        return disk_trouble(self.path.parent, error)
