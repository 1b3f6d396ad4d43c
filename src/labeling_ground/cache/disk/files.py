"""The files of the disk tier: one value, one file, complete or not there."""

import contextlib
import errno
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

GRACE_S = 60.0
"""Seconds after which something half done has lost its maker.

Writing a value takes milliseconds.
"""


_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
"""The last two: SQLite's words for a quota that is used up, among other things, and for no room beside the index."""


def says_full(error: OSError | sqlite3.Error) -> bool:
    """Whether the disk has no room, or none for this user: what lies on it can be read all the same."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "sqlite_errorcode", 0) in _SQLITE_FULL


def name_for(key: str) -> str:
    """A new name for the key's value, relative to the folder of objects.

    The random end makes the name of every attempt its own: a writer that was taken for dead and
    goes on can then only ever touch its own file.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()[:40]
    return f"{digest[:2]}/{digest}-{secrets.token_hex(4)}.bin"


class ObjectFiles:
    """Values by name under one folder. Raises ``OSError`` as the system gives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, value: bytes) -> None:
        """Write under a temporary name, then give the file its name in one step.

        There is no fsync: a value lost with the power is a miss, and one cut short by it is found
        out by its length or its checksum.
        """
        path = self.folder / name
        temporary = path.with_suffix(".tmp")
        self.folder.mkdir(mode=0o700, exist_ok=True)  # apart: ``parents`` would not get the mode
        path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with open(os.open(temporary, flags, 0o600), "wb", buffering=0) as file:  # noqa: PTH123
                view = memoryview(value)
                while view:
                    view = view[file.write(view) :]
            temporary.replace(path)
        except BaseException:
            self._unlink(temporary)
            raise

    def read(self, name: str, size: int) -> bytes | None:
        """The value, or ``None`` when the file is not there or not of this size."""
        try:
            with (self.folder / name).open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != size:
                    return None
                value = file.readall()
        except FileNotFoundError:
            return None
        return value if len(value) == size else None

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        return (self.folder / name).exists()

    def remove(self, name: str) -> None:
        """Remove the file and what there is of it under its temporary name.

        A file that cannot be removed now is left for the next clean-up.
        """
        path = self.folder / name
        self._unlink(path)
        self._unlink(path.with_suffix(".tmp"))

    def listed(self) -> Iterator[tuple[str, float]]:
        """Every file's final name and how many seconds ago it was written."""
        now = time.time()  # not an injected clock: what it is compared with comes from the system
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as folders:
            for folder in folders:
                if not folder.is_dir(follow_symlinks=False):
                    continue
                with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
                    for file in files:
                        with contextlib.suppress(FileNotFoundError):
                            age = now - file.stat(follow_symlinks=False).st_mtime
                            name = Path(file.name).with_suffix(".bin").name
                            yield f"{folder.name}/{name}", age

    @staticmethod
    def _unlink(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()
