"""Room that the disk tier keeps for itself: on a full disk, what frees room must itself be written down."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from labeling_ground.cache.budgets import PARTS
from labeling_ground.cache.disk import folder as folders
from labeling_ground.cache.disk.files import says_full

T = TypeVar("T")

_MOST_BYTES = 4 << 20
"""What a batch of deleted rows takes in the write-ahead log, and more."""


class Reserve:
    """A file of zeros in the folder of a disk tier, which is removed where the room is needed.

    Args:
        folder: the folder.
        budget: of the tier in bytes, of which it is at most an eighth.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self._path = folder / folders.RESERVE
        self._size = min(_MOST_BYTES, budget // PARTS)

    def make(self) -> None:
        """Make the file, unless it is there, or the disk is nearly full already."""
        with contextlib.suppress(OSError):
            if self._path.exists() or shutil.disk_usage(self._path.parent).free < PARTS * self._size:
                return
            folders.make(self._path)
            self._path.write_bytes(bytes(self._size))

    def release(self) -> None:
        """Remove the file, so that there is room."""
        self._path.unlink(missing_ok=True)


def with_room(step: Callable[[], T], *ways: Callable[[], object]) -> T:
    """Do a step that must be possible on a full disk. What it returns.

    Args:
        step: what is done, and undone where there is no room for it.
        ways: to make room, each tried before the step is tried again.

    Raises:
        OSError, sqlite3.Error: what the step raised where no way helped, or where it is not for want of room.
    """
    for make_room in ways:
        try:
            return step()
        except (OSError, sqlite3.Error) as error:
            if not says_full(error):
                raise
            with contextlib.suppress(OSError, sqlite3.Error):
                make_room()
    return step()
