"""The servers of ``tests/api``, and the real tools, each in an environment of its own, under ``make test_tools``."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api.conftest import backend_failure, make_backend, make_image, make_settings, server, start, start_real

__all__ = ["backend_failure", "make_backend", "make_image", "make_settings", "server", "start", "start_real"]

ENABLED = "LABELING_GROUND_TEST_TOOLS"
VENVS = Path(__file__).parents[2] / ".venv-tools"


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """The Python of a tool's environment: ``tool("roboflow")``."""

    def python_of(name: str) -> Path:
        if os.environ.get(ENABLED) != "1":
            pytest.skip(f"needs the real tools, which are large: make test_tools ({ENABLED}=1)")
        python = VENVS / name / "bin" / "python"
        assert python.exists(), f"{name} is not installed: make test_tools"
        return python

    return python_of
