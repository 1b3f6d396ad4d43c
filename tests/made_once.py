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
_MOST = 3
"""Versions of the code whose models stay: the newest ones."""


@functools.cache
def _folder() -> Path:
    seen = hashlib.sha256()
    for name in _LIBRARIES:
        try:
            seen.update(f"{name} {importlib.metadata.version(name)}\n".encode())
        except importlib.metadata.PackageNotFoundError:
            seen.update(f"no {name}\n".encode())
    for source in _SOURCES:
        for file in sorted((ROOT / source).rglob("*.py")):
            seen.update(file.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labeling-ground-tests"
    folder = base / seen.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted((path for path in base.iterdir() if path != folder), key=lambda path: path.stat().st_mtime)
    for old in others[: max(0, len(others) + 1 - _MOST)]:
        shutil.rmtree(old, ignore_errors=True)
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
