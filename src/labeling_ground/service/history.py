"""What a server did in each minute of the last day: a ring of fixed size, in a file so that a restart keeps it."""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from labeling_ground.cache.complaint import Complaint
from labeling_ground.cache.disk.folder import claim, make
from labeling_ground.errors import StoreFailed

log = logging.getLogger(__name__)

SAMPLE = np.dtype(
    [
        ("at", "<f8"),  # seconds since 1970, at the step's end; 0: there is none
        ("seconds", "<f8"),  # that the step took
        ("hit", "<f8"),  # asks that somebody waited for, by outcome
        ("joined", "<f8"),
        ("recomputed", "<f8"),
        ("miss", "<f8"),
        ("refused", "<f8"),  # requests that were answered 503 or 429
        ("errors", "<f8"),  # requests that were answered with another 5xx
        ("busy", "<f8"),  # computations at work, on average
        ("interactive", "<f8"),  # asks that waited in the queues, on average, by class
        ("prefetch", "<f8"),
        ("job", "<f8"),
        ("saved", "<f8"),  # seconds of computing that the cache spared
        ("computed", "<f8"),  # seconds of computing
        ("memory_bytes", "<f8"),  # held by the memory tier
        ("resident_bytes", "<f8"),  # memory of the server's processes
    ]
)
"""One step. Little-endian, as it stands in the file."""
COUNTED = ("hit", "joined", "recomputed", "miss", "refused", "errors", "saved", "computed")
"""What is summed up from the server's start; a sample holds what came to it in its step."""
AVERAGED = ("busy", "interactive", "prefetch", "job")
"""Seconds that are summed up likewise; a sample holds them by the second."""


class History:
    """Samples of the last day, the oldest making room for the newest.

    Args:
        path: the ring's file; ``None``: in memory only. Where another server has it, in memory only, too.
        steps: how many samples are kept.
        every_s: seconds from one to the next.
    """

    def __init__(self, path: Path | None, *, steps: int, every_s: float) -> None:
        self.every_s = every_s
        self._last: tuple[float, Mapping[str, float]] | None = None
        self._lock: FileLock | None = None
        self._ring: NDArray[Any] = np.zeros(steps, SAMPLE)
        self._path = path
        self._complaint = Complaint(log, "history")

    def open(self) -> None:
        """Go on with what is in the file. Blocking."""
        if self._path is None:
            return
        try:
            claim(self._path.parent)
            lock = FileLock(self._path.with_suffix(".lock"), mode=0o600)
            lock.acquire(timeout=0)
            self._lock = lock
            if not make(self._path):
                self._read(self._path.read_bytes())
        except (OSError, StoreFailed, Timeout) as error:
            log.info("the history of the last day is kept in memory only: %s", error)

    def note(self, totals: Mapping[str, float], at: float | None = None) -> None:
        """Write down what happened since the last call.

        Args:
            totals: each field of ``COUNTED`` and ``AVERAGED``, summed up from the server's start, and the bytes now.
            at: seconds since 1970; now, if left out.
        """
        at = time.time() if at is None else at
        last, self._last = self._last, (at, totals)
        if last is None or at <= last[0]:
            return
        seconds = at - last[0]
        sample = np.zeros(1, SAMPLE)
        sample["at"], sample["seconds"] = at, seconds
        for name, value in totals.items():
            grown = max(0.0, value - last[1][name])  # less only where counting began anew
            sample[name] = grown if name in COUNTED else grown / seconds if name in AVERAGED else value
        place = int(at // self.every_s) % len(self._ring)
        self._ring[place] = sample[0]
        if self._path is not None and self._lock is not None:
            try:
                self._write(self._path, place)
            except (OSError, StoreFailed) as error:
                self._complaint.make(error)

    def since(self, at: float) -> NDArray[Any]:
        """The samples after a moment (seconds since 1970) and within the ring's length, in the order of time."""
        now = time.time()
        oldest, times = now - len(self._ring) * self.every_s, self._ring["at"]
        # Later than now is what was written before the clock was set back: who asks on from there would hear no more.
        found = self._ring[(times > max(at, oldest, 0.0)) & (times < now + self.every_s)]
        return found[np.argsort(found["at"], kind="stable")]

    def close(self) -> None:
        """Give the file back."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.release()

    def _read(self, content: bytes) -> None:
        """Take over the samples of a file; one of another length is begun anew, and a damaged sample is none."""
        if len(content) == self._ring.nbytes:
            numbers = np.frombuffer(content, "<f8").reshape(len(self._ring), -1).copy()
            numbers[~np.isfinite(numbers).all(axis=1)] = 0
            self._ring = numbers.view(SAMPLE).reshape(-1)

    def _write(self, path: Path, place: int) -> None:
        """Write one sample down; the whole ring where the file is new, or of another length.

        Not by mapping the file into memory: when others shorten such a file, or its disk is full, the process dies.
        """
        claim(path.parent)
        make(path)
        with path.open("r+b") as file:
            if file.seek(0, os.SEEK_END) == self._ring.nbytes:
                file.seek(place * SAMPLE.itemsize)
                file.write(self._ring[place].tobytes())
            else:
                file.truncate(0)
                file.seek(0)
                file.write(self._ring.tobytes())
