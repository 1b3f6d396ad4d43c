"""The folder of the disk tier: what in it is ours, and that nothing else is ever touched.

Every name in it begins with ``labeling-ground-``, and a marker says whose folder it is. One that holds anything
else and has no marker is refused; looking at a folder makes nothing and removes nothing.
"""

import contextlib
import os
import re
import sqlite3
from pathlib import Path

from labeling_ground.errors import StoreFailed

MARKER = "labeling-ground-cache.txt"
INDEX = "labeling-ground-index.sqlite3"
LOCK = "labeling-ground-lock.sqlite3"
VALUES = "labeling-ground-values"
SESSIONS = "labeling-ground-sessions.sqlite3"
LEASES = "labeling-ground-leases"
RESERVE = "labeling-ground-reserve"

_OURS = "labeling-ground-"
_TEXT = "Labeling Ground keeps its cache here. All names that begin with 'labeling-ground-' are its own.\n"
_HARMLESS = "lost+found"
"""What a freshly made file system holds; hidden files, as file managers leave them, are no harm either."""
_SHOWN = 3
"""Names that a refusal quotes."""

_LAYOUT_1 = {"entries", "inline", "totals", "progress"}
_LAYOUT_1_NAMES = {
    *(name + end for name in ("index.sqlite3", "sessions.sqlite3") for end in ("", "-wal", "-shm")),
    "index.damaged",
    "lock.sqlite3",
    "objects",
}
_LAYOUT_1_VALUE = re.compile(r"[0-9a-f]{40}-[0-9a-f]{8}\.(bin|tmp)")


def refusal(folder: Path) -> str:
    """Why the folder cannot be the cache's, in a sentence; empty where it can. Changes nothing."""
    try:
        if (folder / MARKER).exists():
            return ""
        foreign = {path.name for path in folder.iterdir() if not path.name.startswith((".", _OURS))} - {_HARMLESS}
    except OSError:  # it is not there yet, or cannot be used at all: opening it tells
        return ""
    if foreign & {"index.sqlite3"} and is_layout_1(folder):
        foreign -= _LAYOUT_1_NAMES
    if not foreign:
        return ""
    shown = ", ".join(sorted(foreign)[:_SHOWN]) + (", …" if len(foreign) > _SHOWN else "")
    return (
        f"The folder {folder} cannot be the cache directory: it holds something else ({shown}). Give an empty folder, "
        "or one that does not exist yet, with --cache-dir or LABELING_GROUND_CACHE_DIR."
    )


def obstacle(folder: Path) -> str:
    """Why no cache can be in the folder, in a sentence; empty where one can, or is. Changes nothing."""
    if why := refusal(folder):
        return why
    there = nearest(folder)
    if not there.is_dir():
        return f"The cache directory {folder} cannot be made: {there} is no directory."
    if not os.access(there, os.W_OK | os.X_OK):
        return f"The cache directory {folder} cannot be written: there is no permission to, in {there}."
    return ""


def nearest(folder: Path) -> Path:
    """The folder, or what there is of the way to it."""
    path = folder.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def claim(folder: Path, *, parents: bool = True) -> None:
    """Make the folder with mode 0700 unless it is there, and put the marker into it.

    Raises:
        StoreFailed: it holds something else.
        OSError: it cannot be made, or written.
    """
    if (folder / MARKER).exists():
        return
    folder.mkdir(mode=0o700, parents=parents, exist_ok=True)
    if why := refusal(folder):
        raise StoreFailed(why)
    if make(folder / MARKER):
        (folder / MARKER).write_text(_TEXT, encoding="utf-8")


def is_claimed(folder: Path) -> bool:
    """Whether the folder is the cache's already. Changes nothing."""
    return (folder / MARKER).exists() or is_layout_1(folder)


def make(path: Path) -> bool:
    """Create an empty file for us alone; whether it was not there yet.

    One that is there is not opened: closing it again would end the locks that SQLite has on it in this process.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection to an index that makes no file and changes none."""
    logs = all(path.with_name(path.name + end).exists() for end in ("-wal", "-shm"))
    # In write-ahead mode a reader makes the two files that it finds missing, unless it is told that nobody writes.
    return sqlite3.connect(f"{path.absolute().as_uri()}?{'mode=ro' if logs else 'immutable=1'}", uri=True)


def is_layout_1(folder: Path) -> bool:
    """Whether the folder has the index of releases before the marker, whose files had names that others use, too."""
    path = folder / "index.sqlite3"
    try:
        if not path.is_file():
            return False
        with contextlib.closing(open_to_read(path)) as db:
            tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            names = {row[0] for row in tables}
            return names == _LAYOUT_1 and db.execute("PRAGMA user_version").fetchone()[0] == 1
    except (OSError, sqlite3.Error):
        return False


def remove_layout_1(folder: Path) -> None:
    """Remove what a release before the marker left: its index, its sessions, values under the names it gave them."""
    if not is_layout_1(folder):
        return
    objects = folder / "objects"
    for inner in [path for path in objects.glob("[0-9a-f][0-9a-f]") if path.is_dir() and not path.is_symlink()]:
        for path in inner.iterdir():
            if _LAYOUT_1_VALUE.fullmatch(path.name):
                path.unlink(missing_ok=True)
        _rmdir(inner)
    _rmdir(objects)
    for name in _LAYOUT_1_NAMES - {"objects"}:
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def _rmdir(folder: Path) -> None:
    with contextlib.suppress(OSError):  # somebody put something else there
        folder.rmdir()
