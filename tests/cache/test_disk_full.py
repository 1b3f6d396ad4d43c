"""A disk without a free byte: what is there is served, and what frees room is possible."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from tests.cache import full_disk
from tests.needs import needs_program

from labeling_ground.cache.disk.folder import RESERVE
from labeling_ground.cache.disk.reserve import Reserve, with_room


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong, by scenario: played once for all, in a process that may mount small disks."""
    unshare = needs_program("unshare")
    apart = [unshare, "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of its own")
    command = [*apart, sys.executable, "-m", full_disk.__name__, str(tmp_path_factory.mktemp("disks"))]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600, check=True
    )
    told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("scenario", full_disk.SCENARIOS)
def test_on_a_full_disk(told: dict[str, str], scenario: str) -> None:
    assert told[scenario] == ""


Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.mark.parametrize(("budget", "size"), [(8 << 30, 4 << 20), (8 << 20, 1 << 20)])
def test_the_reserve_is_made_where_there_is_room_to_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, size: int
) -> None:
    reserve, file = Reserve(tmp_path, budget), tmp_path / RESERVE
    for free, expected in ((8 * size - 1, None), (8 * size, size)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(8 << 40, 0, free))
        reserve.make()
        assert (file.stat().st_size if file.exists() else None) == expected
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(8 << 40, 0, 0))
    reserve.make()
    assert file.stat().st_size == size, "what is there stays"
    for _ in range(2):
        reserve.release()
        assert not file.exists()
    Reserve(tmp_path / "gone", budget).make()


def test_room_is_made_in_one_way_after_the_other_and_only_where_that_helps() -> None:
    full = OSError(errno.ENOSPC, "no room")
    done: list[str] = []
    failures: list[Exception] = []

    def step() -> str:
        if failures:
            raise failures.pop(0)
        return "written"

    def ways() -> list[str]:
        done.clear()
        assert with_room(step, lambda: done.append("files"), lambda: done.append("reserve")) == "written"
        return done

    assert ways() == []
    failures[:] = [full]
    assert ways() == ["files"]
    failures[:] = [full, full]
    assert ways() == ["files", "reserve"]
    failures[:] = [full, full, full]
    with pytest.raises(OSError, match="no room"):
        ways()
    failures[:] = [full, sqlite3.OperationalError("locked")]
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        ways()
    assert done == ["files"]
