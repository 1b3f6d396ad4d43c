"""Folders whose content is trusted: no other user can write to them."""

import errno
import os
from pathlib import Path


def make_trusted(folder: Path) -> None:
    """Make a folder, unless it is there, that belongs to this user and that nobody else can write to.

    Raises:
        OSError: it cannot be made, or one that is there is not such.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        raise PermissionError(errno.EACCES, "it must belong to this user, and to nobody else", str(folder))
