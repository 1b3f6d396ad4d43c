"""Leases between processes that share the folder of a disk tier: locks on single bytes of one empty file.

A lock ends with its process, so a dead process stops none. Each key has a byte of its own, far behind the file's end.
"""

import asyncio
import fcntl
import hashlib
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from labeling_ground.cache.disk.folder import LEASES, claim
from labeling_ground.cache.disk.store import DiskStore
from labeling_ground.cache.lease import Claim
from labeling_ground.cache.tasks import stop
from labeling_ground.errors import StoreFailed
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Priority

_LOOK_S = 0.01
"""Seconds between two looks whether what somebody here waits for was released; each is one system call."""
_FLOCK = "hhqqi0q"
"""``struct flock`` of 64-bit Linux: type, whence, start, length, process."""


@dataclass(slots=True)
class _OwnLease:
    """A lease that this process holds."""

    token: str
    end: asyncio.TimerHandle


class DiskLeases:
    """Leases as open-file-description locks, which Linux has; see ``Leases``.

    Args:
        store: the tier that is looked into before a lease is given.
        folder: the tier's folder.
        supervisor: of the looks whether others released what somebody here waits for.
    """

    def __init__(self, store: DiskStore, folder: Path, *, supervisor: Supervisor | None = None) -> None:
        self._store = store
        self._folder = folder
        self._supervisor = supervisor or Supervisor()
        self._file: int | None = None
        self._own: dict[str, _OwnLease] = {}
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def take(self, key: str, token: str, seconds: float, priority: Priority = Priority.INTERACTIVE) -> Claim:
        """See ``Leases``. A lock carries no class."""
        del priority
        is_ours = key not in self._own and self._lock(key)
        if is_ours:
            self._own[key] = self._until(key, token, seconds)
        try:
            is_stored = await self._store.has(key)
        except BaseException:
            await self.release(key, token)
            raise
        if is_stored:
            await self.release(key, token)
            return Claim.STORED
        return Claim.GRANTED if is_ours else Claim.TAKEN

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        """See ``Leases``."""
        own = self._own.get(key)
        if own is None or own.token != token:
            return False
        own.end.cancel()
        self._own[key] = self._until(key, token, seconds)
        return True

    async def awaited_as(self, key: str) -> Priority | None:
        """See ``Leases``: a lock does not tell who waits for it."""
        del key
        return None

    async def release(self, key: str, token: str) -> bool:
        """See ``Leases``."""
        own = self._own.get(key)
        if own is None or own.token != token:
            return False
        own.end.cancel()
        self._let_go(key)
        return True

    @asynccontextmanager
    async def listen(self, key: str) -> AsyncIterator[asyncio.Event]:
        """See ``Leases``."""
        event = asyncio.Event()
        self._listeners.setdefault(key, set()).add(event)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._supervisor.persist("leases on disk", self._look))
        try:
            yield event
        finally:
            self._listeners[key].discard(event)
            if not self._listeners[key]:
                del self._listeners[key]

    async def aclose(self) -> None:
        """See ``Leases``; the leases of this process end."""
        if self._looking is not None:
            await stop(self._looking)
        for key in list(self._own):
            await self.release(key, self._own[key].token)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _until(self, key: str, token: str, seconds: float) -> _OwnLease:
        return _OwnLease(token, asyncio.get_running_loop().call_later(seconds, self._let_go, key))

    def _let_go(self, key: str) -> None:
        del self._own[key]
        self._change(key, fcntl.F_OFD_SETLK, fcntl.F_UNLCK)

    async def _look(self) -> None:
        while self._listeners:
            for key, events in self._listeners.items():
                if key not in self._own and not self._is_locked(key):
                    for event in events:
                        event.set()
            await asyncio.sleep(_LOOK_S)

    def _lock(self, key: str) -> bool:
        """Take the lock unless another process has it; whether it is ours."""
        try:
            self._change(key, fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
        except BlockingIOError:
            return False
        return True

    def _is_locked(self, key: str) -> bool:
        """Whether another process has the lock."""
        found = self._change(key, fcntl.F_OFD_GETLK, fcntl.F_WRLCK)
        return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)

    def _change(self, key: str, command: int, kind: int) -> bytes:
        place = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) >> 2
        try:
            if self._file is None:
                claim(self._folder)
                self._file = os.open(self._folder / LEASES, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            return fcntl.fcntl(self._file, command, struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0))
        except BlockingIOError:
            raise
        except OSError as error:
            raise StoreFailed(f"Leases in {self._folder} cannot be had: {error.strerror}.") from error
