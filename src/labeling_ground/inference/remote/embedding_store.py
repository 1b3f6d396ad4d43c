"""Embeddings that a decoder was sent, kept for the clicks that follow.

All worker processes of one host share them: files in a folder that is memory (``/dev/shm``), mapped and not copied.
"""

import contextlib
import errno
import logging
import mmap
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec import frame
from labeling_ground.errors import BadSettings, DamagedEntry
from labeling_ground.folders import make_trusted
from labeling_ground.types import Kind

log = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the folder made there is ours alone, which is checked
_ABANDONED_S = 60.0
"""A file that is not complete after so long belongs to a worker that died."""

_OURS = "labeling-ground-"
"""What our files' names begin with; nothing else in the folder is counted, or deleted."""

FloatArray = NDArray[np.float32]


def default_folder() -> Path:
    """In shared memory where the system has it; one for each user."""
    base = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    return base / f"labeling-ground-{os.getuid() if hasattr(os, 'getuid') else 0}"


class EmbeddingStore:
    """Tensors by key, in ``float32``, bounded in bytes; those unused for longest make room.

    A file appears under its name when it is complete, and never changes after; one that is deleted while somebody reads
    it stays readable for that one. So no locks are needed, and a worker may die at any moment.

    Args:
        folder: where; made if it is missing.
        most_bytes: what all files together may take.

    Raises:
        BadSettings: the folder cannot be made, or others could write to it.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        try:
            make_trusted(folder)
        except OSError as error:
            raise BadSettings(f"The folder {folder} for embeddings cannot be used: {error.strerror}.") from error

    def path_of(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / f"{_OURS}{key}"

    def get(self, key: str) -> dict[str, FloatArray] | None:
        """The tensors, as views on the mapped file; ``None`` if they are not here."""
        path = self.path_of(key)
        try:
            with path.open("rb") as file:
                # A private mapping: engines want arrays that could be written to, and none ever is.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            log.warning("a kept embedding cannot be read: %s", error)
            return None
        try:
            opened = frame.unseal(cast("bytes", mapped), key)
        except DamagedEntry as error:
            log.warning("%s It was thrown away.", error)
            path.unlink(missing_ok=True)
            return None
        return cast("dict[str, FloatArray]", dict(opened.tensors))

    def put(self, key: str, tensors: Mapping[str, NDArray[Any]]) -> bool:
        """Store tensors for later decodes. Whether that was possible."""
        entry = frame.seal(key, Kind.EMBEDDING, cost=0.0, created=time.time(), tensors=tensors)
        if entry.size > self._most_bytes:
            return False
        part = self.folder / f".{_OURS}{key}.{secrets.token_hex(6)}"
        try:
            try:
                part.write_bytes(entry.value)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                self._make_room(
                    self._bytes_of_others(part) - 2 * entry.size
                )  # the file system has less than we may take
                part.write_bytes(entry.value)
            self._make_room(self._most_bytes)
            part.replace(self.path_of(key))
        except OSError as error:
            log.warning("an embedding cannot be kept: %s", error)
            return False
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return True

    def _bytes_of_others(self, part: Path) -> int:
        part.unlink(missing_ok=True)
        return sum(size for _, size, _ in self._files())

    def _make_room(self, most_bytes: int) -> None:
        """Delete what was unused for longest. Who comes last counts all files, so in the end the bound is kept."""
        files = sorted(self._files(), key=lambda file: file[2])
        total = sum(size for _, size, _ in files)
        now = time.time()
        for path, size, used in files:
            is_part = path.name.startswith(".")
            if (total > most_bytes and not is_part) or (is_part and now - used > _ABANDONED_S):
                path.unlink(missing_ok=True)
                total -= size

    def _files(self) -> list[tuple[Path, int, float]]:
        """Path, size in bytes and time of the last use of each of our files."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.startswith((_OURS, f".{_OURS}")):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    seen = entry.stat(follow_symlinks=False)
                    found.append((Path(entry.path), seen.st_size, seen.st_mtime))
        return found
