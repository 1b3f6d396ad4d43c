"""This machine's disk: room, digests, and what is wrong with it in sentences."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from labeling_ground.errors import PullFailed

_CHUNK = 1 << 20


def check_room(folder: Path, needed: int) -> None:
    """See that a folder's file system has room for so many bytes.

    Raises:
        PullFailed: it has not; the sentence says how much is needed and how much is free.
    """
    free = shutil.disk_usage(existing(folder)).free
    if free < needed:
        raise PullFailed(
            f"There is not enough room in {folder}: {megabytes(needed)} are needed and {megabytes(free)} are free. "
            "Make room (labeling-ground models remove NAME), or choose another folder with --models-dir."
        )


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there: what a file system can be asked about."""
    return next(place for place in (folder, *folder.parents, Path.cwd()) if place.exists())


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises ``OSError``."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def copied(source: Path, target: Path) -> tuple[str, int]:
    """Copy and digest in one reading, so that the copy is what was digested.

    Returns the digest in hex, and the size in bytes. Raises ``OSError``.
    """
    digest, size = hashlib.sha256(), 0
    with source.open("rb", buffering=0) as reading, target.open("xb") as writing:
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            writing.write(chunk)
    return digest.hexdigest(), size


def flush(path: Path) -> None:
    """Have the system put a file, or a folder's names, on the disk. A model must not be zeros after a power cut."""
    if os.name == "nt" and path.is_dir():
        return  # a folder cannot be opened there
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say in a sentence what the system says in numbers."""
    try:
        yield
    except OSError as error:
        raise disk_trouble(folder, error) from None


def disk_trouble(folder: Path, error: OSError) -> PullFailed:
    """What to say when this machine's disk does not do its part."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PullFailed(f"The disk is full: {folder} takes no more. Make room, then run the same command again.")
    return PullFailed(f"{error.filename or folder} cannot be used: {error.strerror or error}.")


def megabytes(count: int) -> str:
    """A size on disk for people, as hosts and file managers show it."""
    if count < 1e9:
        return f"{count / 1e6:.1f} MB" if count < 1e7 else f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB"


@contextlib.contextmanager
def locked(path: Path, *, wait_s: float | None = None, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Lock a file against other processes; the lock ends with the process, however that ends.

    Args:
        path: the lock file; made if it is not there.
        wait_s: longest wait in seconds; ``None`` waits for ever.
        waiting: called once, when another process has the lock.

    Raises:
        TimeoutError: another process still has it.
        OSError: the file cannot be made, or the file system knows no locks.
    """
    lock = FileLock(path, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        if wait_s == 0:
            raise
        if waiting is not None:
            waiting()
        lock.acquire(timeout=-1 if wait_s is None else wait_s)
    try:
        yield
    finally:
        lock.release()
