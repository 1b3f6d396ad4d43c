"""Components that not every machine has: a test that needs one is skipped by name, or fails under ``STRICT``."""

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

STRICT = "LABELING_GROUND_TEST_STRICT"
"""Set to 1 where everything is installed: then a missing component is a failure and not a skip."""


def needs(name: str) -> Any:
    """Import a module for a test.

    Skips the test (or the whole module, if called at its top) where it is not installed, and fails under ``STRICT``.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return _absent(f"{name} is not installed: {error}")
    if hasattr(module, "__path__") and getattr(module, "__file__", None) is None:
        # A folder of that name, such as our own segment_anything, and no package.
        return _absent(f"{name} is not installed")
    return module


def needs_program(name: str) -> str:
    """The path of a program for a test, beside our interpreter or on ``PATH``; otherwise the same."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return found if found is not None else _absent(f"the program {name} is neither installed here nor on PATH")


def needs_chart_tool(name: str) -> str:
    """The path of what ``make chart_tools`` installs (a program, or ``node_modules``); otherwise the same."""
    home = Path(__file__).parent.parent / ".venv-tools" / "helm"
    found = home / name if name == "node_modules" else home / "bin" / name
    return str(found) if found.exists() else _absent(f"{name} is not here: make chart_tools")


def needs_browser_runtime() -> Path:
    """The folder with ONNX Runtime Web where ``make browser_decoder`` put it; otherwise the same."""
    from labeling_ground.settings import Settings
    from labeling_ground.web import browser_runtime

    folder = Settings().browser_runtime_dir
    return folder if browser_runtime.find(folder) else _absent("ONNX Runtime Web is not here: make browser_decoder")


def _absent(reason: str) -> NoReturn:
    if os.environ.get(STRICT) == "1":
        pytest.fail(f"{reason} ({STRICT}=1 forbids to skip)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
