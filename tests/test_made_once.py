"""Models that are made once: they stay for as long as somebody uses them."""

import os
import time
from pathlib import Path

import pytest
from tests import made_once

DAY_S = 24 * 3600


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the versions of the code have their folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = tmp_path / "labeling-ground-tests"
    found.mkdir()
    return found


def version(base: Path, name: str, unused_s: float) -> Path:
    """The folder of another version of the code, which was last used so many seconds ago."""
    folder = base / name
    (folder / "model").mkdir(parents=True)
    used = time.time() - unused_s
    os.utime(folder, (used, used))
    return folder


def test_runs_of_other_versions_keep_their_models_and_what_nobody_used_for_a_day_goes(base: Path) -> None:
    used = [version(base, f"used{number}", 3600.0 * number) for number in range(12)]
    unused = [version(base, f"unused{number}", DAY_S * (number + 1.5)) for number in range(3)]
    own = made_once._folder.__wrapped__()
    assert all((folder / "model").is_dir() for folder in used)
    assert not any(folder.exists() for folder in unused)
    assert own.parent == base


def test_a_version_that_is_used_again_keeps_what_it_has(base: Path) -> None:
    own = version(base, made_once._version(), 2.0 * DAY_S)
    assert made_once._folder.__wrapped__() == own
    assert (own / "model").is_dir()
    assert time.time() - own.stat().st_mtime < DAY_S


def test_a_changed_test_makes_no_other_version(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What makes a model does."""
    folder = tmp_path / "tests" / "sam"
    folder.mkdir(parents=True)
    monkeypatch.setattr(made_once, "ROOT", tmp_path)
    seen = []
    for name in ("references.py", "test_parity.py", "parity.py"):
        (folder / name).write_text("VALUE = 1")
        seen.append(made_once._version.__wrapped__())
    assert seen[0] == seen[1] != seen[2]
