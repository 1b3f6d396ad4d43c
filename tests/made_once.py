"""Models of random weights, made once on a machine and not once by every test process.

An export takes ten seconds and more and depends on nothing but code: what made a model, the exporter and the versions
of the libraries name the folder that it is kept in. Another test process waits for the first one.
"""

import functools
import hashlib
import importlib.metadata
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
_SOURCES = (
    "src/labeling_ground/models",
    "src/labeling_ground/networks",
    "src/labeling_ground/sam",
    "tests/sam",
    "tests/inference",
)
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch", "transformers")
_UNUSED_S = 24 * 3600.0
"""Seconds after which the models of a version of the code go that no test process has used since."""


@functools.cache
def _version() -> str:
    seen = hashlib.sha256()
    for name in _LIBRARIES:
        try:
            seen.update(f"{name} {importlib.metadata.version(name)}\n".encode())
        except importlib.metadata.PackageNotFoundError:
            seen.update(f"no {name}\n".encode())
    for source in _SOURCES:
        for file in sorted((ROOT / source).rglob("*.py")):
            if not file.name.startswith("test_"):  # a test makes no model that others use
                seen.update(file.read_bytes())
    return seen.hexdigest()[:16]


@functools.cache
def _folder() -> Path:
    """This version's folder, marked as used now; those that nobody has used for long are deleted.

    Other runs, of other versions of the code, may be under way: what a process has marked, none deletes for a day.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labeling-ground-tests"
    folder = base / _version()
    base.mkdir(parents=True, exist_ok=True)
    with FileLock(base / "versions.lock"):
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        for other in base.iterdir():
            if other.is_dir() and time.time() - other.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(other, ignore_errors=True)
    return folder


def made_once(make: Callable[[Path], T]) -> Callable[[], tuple[Path, T]]:
    """Turns a function that fills an empty folder into one that returns the folder and what the function returned.

    The function runs where no process of this machine has run it before with this code; its value is pickled.
    """

    @functools.cache
    def made() -> tuple[Path, T]:
        folder = _folder() / make.__name__
        with FileLock(f"{folder}.lock"):
            noted = folder.with_name(f"{make.__name__}.pickle")
            if not noted.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that was interrupted
                folder.mkdir()
                returned = make(folder)
                noted.write_bytes(pickle.dumps(returned))
            value: T = pickle.loads(noted.read_bytes())
        return folder, value

    return made
