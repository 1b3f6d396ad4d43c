"""A command line whose cache is the test's own."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result


def data_of(result: Result) -> Any:
    """What a command that succeeded printed as JSON."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    for name in [name for name in os.environ if name.startswith("LABELING_GROUND_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LABELING_GROUND_CACHE_DIR", str(tmp_path / "cache"))
    return CliRunner()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """``serve`` sets the process's logging up; the tests after this one shall not inherit that."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.captureWarnings(capture=False)
