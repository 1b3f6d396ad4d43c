"""A command line whose cache is the test's own."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    for name in [name for name in os.environ if name.startswith("LABELING_GROUND_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LABELING_GROUND_CACHE_DIR", str(tmp_path / "cache"))
    return CliRunner()
