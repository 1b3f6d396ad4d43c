"""Trace files: a header line, then events one after the other; a new file when one is full, the oldest given up."""

import contextlib
import json
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from labeling_ground.errors import BadTrace
from labeling_ground.metrics import Metrics
from labeling_ground.trace.events import EVENT, Events

MAGIC = "labeling-ground trace"
VERSION = 2
"""1 had neither trunks nor detections; its events have the same layout, and are read."""


def _header(version: int) -> bytes:
    return json.dumps({"trace": MAGIC, "version": version, "event": EVENT.descr}).encode() + b"\n"


_HEADER = _header(VERSION)
_READABLE = frozenset(map(_header, range(1, VERSION + 1)))
_LONGEST_HEADER = 4096
_BUFFERED = 64 << 10


_WORKER = ".worker"


def of_worker(path: Path, number: int) -> Path:
    """The file of one of several worker processes: only one process may write to a file."""
    return path.with_name(f"{path.name}{_WORKER}{number}")


class TraceWriter:
    """Appends events to ``path``, and keeps the newest ``files`` files of ``max_bytes`` each.

    The full ones are ``path.1`` (the newest) to ``path.N``. Events are gathered and written 64 KiB at a time or when
    ``flush`` is called; what was not written yet is lost with the process, and half an event at the end of a file is no
    error to the reader. Safe for threads.

    Args:
        path: the file. Only one process may write to it.
        max_bytes: where a file is full.
        files: how many are kept, the one being written among them.
        metrics: where events are counted; new ones if left out.

    Raises:
        BadTrace: the file cannot be written, or is something else.
    """

    def __init__(self, path: Path, *, max_bytes: int, files: int, metrics: Metrics | None = None) -> None:
        self.path = path
        counter = (metrics or Metrics()).trace_events
        self.written, self.lost = counter.labels("written"), counter.labels("lost")
        self._max_bytes = max(max_bytes, len(_HEADER) + EVENT.itemsize)
        self._files = files
        self._lock = threading.Lock()
        self._gathered = bytearray()
        self._file: IO[bytes] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size and not _mend(path):
                self._rotate()
            else:
                self._open()
        except OSError as error:
            raise BadTrace(f"The trace {path} cannot be written: {error.strerror}.") from error

    def append(self, event: bytes) -> bool:
        """Take one event, ``EVENT.itemsize`` bytes. Whether it is time to ``flush``: the caller chooses the thread."""
        with self._lock:
            self._gathered += event
            return len(self._gathered) >= _BUFFERED

    def flush(self) -> None:
        """Write what was gathered. A disk that fails costs events, and nothing else."""
        with self._lock:
            events, self._gathered = bytes(self._gathered), bytearray()
            size = EVENT.itemsize
            while events:
                try:
                    room = self._room()
                    piece = events[: room // size * size]
                    if self._file is None or not piece:
                        self._rotate()
                        continue
                    self._file.write(piece)
                except OSError:
                    self.lost.inc(len(events) // size)
                    return
                events = events[len(piece) :]
                self.written.inc(len(piece) // size)

    def close(self) -> None:
        """Write what was gathered and close the file."""
        self.flush()
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _room(self) -> int:
        return 0 if self._file is None else self._max_bytes - self._file.tell()

    def _open(self) -> None:
        self._file = self.path.open("ab", buffering=0)
        if self._file.tell() == 0:
            self._file.write(_HEADER)

    def _rotate(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        for number in range(self._files - 1, 0, -1):
            older = self.path if number == 1 else _numbered(self.path, number - 1)
            with contextlib.suppress(FileNotFoundError):
                older.replace(_numbered(self.path, number))
        if self._files == 1:
            self.path.unlink(missing_ok=True)
        self._open()


def read(paths: Sequence[Path]) -> Events:
    """All events of some trace files, in the order of time.

    A path stands for its older files too, ``path.1`` and so on, and for those of the workers of a server
    (``path.worker0``, ``path.worker0.1``).

    Raises:
        BadTrace: a file is not there, cannot be read, or is no trace of this version.
    """
    found = []
    for path in paths:
        name = re.compile(rf"{re.escape(path.name)}({_WORKER}[0-9]+)?(\.[0-9]+)?")
        files = [file for file in path.parent.glob(f"{path.name}*") if name.fullmatch(file.name)]
        found += [_read_file(file) for file in sorted(files or [path])]
    if not found:
        return np.empty(0, EVENT)
    events = np.concatenate(found)
    return events[np.argsort(events["time"], kind="stable")]


def write(path: Path, events: Events) -> None:
    """Write a whole trace at once, whatever was there before.

    Raises:
        BadTrace: it cannot be written.
    """
    try:
        with path.open("wb") as file:
            file.write(_HEADER)
            file.write(events.astype(EVENT, copy=False).tobytes())
    except OSError as error:
        raise BadTrace(f"The trace {path} cannot be written: {error.strerror}.") from error


def _read_file(path: Path) -> Events:
    try:
        with path.open("rb") as file:
            _check_header(path, file.readline(_LONGEST_HEADER))
            content = file.read()
    except OSError as error:
        raise BadTrace(f"The trace {path} cannot be read: {error.strerror}.") from error
    return np.frombuffer(content, EVENT, count=len(content) // EVENT.itemsize)


def _check_header(path: Path, line: bytes) -> None:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("trace") != MAGIC:
        raise BadTrace(f"{path} is no trace. Record one with the setting LABELING_GROUND_TRACE_FILE.")
    if line not in _READABLE:
        raise BadTrace(f"{path} is a trace of version {header.get('version')}; this one reads up to {VERSION}.")


def _mend(path: Path) -> bool:
    """Take the half event off the end of a file that an earlier process left; whether it can be gone on with, or is of
    an older version."""
    with path.open("rb+") as file:
        header = file.readline(_LONGEST_HEADER)
        _check_header(path, header)
        start = file.tell()
        size = file.seek(0, os.SEEK_END) - start
        file.truncate(start + size // EVENT.itemsize * EVENT.itemsize)
    return header == _HEADER


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
