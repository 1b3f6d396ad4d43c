"""Components that not every machine has: a test that needs one is skipped by name, or fails under ``STRICT``."""

import importlib
import os
from typing import Any

import pytest

STRICT = "LABELING_GROUND_TEST_STRICT"
"""Set to 1 where everything is installed: then a missing component is a failure and not a skip."""


def needs(name: str) -> Any:
    """Import a module for a test.

    Skips the test (or the whole module, if called at its top) where it is not installed, and fails under ``STRICT``.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = f"{name} is not installed: {error}"
    if os.environ.get(STRICT) == "1":
        pytest.fail(f"{reason} ({STRICT}=1 forbids to skip)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
