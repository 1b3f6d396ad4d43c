"""Commands of a user without a home directory, or with one that cannot be written: containers have such users."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.photos import photo

UNKNOWN_UID = 54321
"""Of nobody in the system's list of users."""
# Who runs this may not be let into the checkout otherwise; writing is not among these rights.
RIGHT_TO_READ = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
COMMANDS = (
    ["doctor"],
    ["serve", "--port", "0"],
    ["warm", "photos"],
    ["cache", "stats"],
    ["cache", "purge", "--yes"],
    ["models", "list"],
    ["models", "add", "/etc/passwd", "--as", "mine", "--role", "encoder", "--family", "sam"],
    ["models", "remove", "mobile-sam"],
    ["engine", "--model", "mobile-sam"],
    ["browser-decoder"],
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    if not hasattr(os, "getuid") or os.getuid() != 0:
        pytest.skip("only root can become a user that nobody knows")
    with tempfile.TemporaryDirectory() as place:  # pytest's own are closed to other users
        yield in_folder(Path(place))


def in_folder(folder: Path) -> Run:
    folder.chmod(0o755)
    (folder / "photos").mkdir()
    (folder / "own").mkdir()
    os.chown(folder / "own", UNKNOWN_UID, UNKNOWN_UID)
    (folder / "photos" / "0.png").write_bytes(photo(0))

    def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        user = ["setpriv", f"--reuid={UNKNOWN_UID}", f"--regid={UNKNOWN_UID}", "--clear-groups", *RIGHT_TO_READ]
        command = [*user, sys.executable, "-m", "labeling_ground", *words]
        return subprocess.run(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    if run("--version").returncode != 0:
        pytest.skip("this root may not become another user that can read the checkout")
    return run


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_without_a_home_directory_a_command_says_what_to_set(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    if words[0] != "engine":  # which has nothing to serve before it needs a folder
        assert (
            "This user has no home directory, so there is no default for LABELING_GROUND_" in done.stderr + done.stdout
        )


def test_with_folders_of_its_own_no_home_directory_is_needed(run: Run) -> None:
    folders = {"LABELING_GROUND_CACHE_DIR": "own/cache", "LABELING_GROUND_MODELS_DIR": "own/models"}
    assert run("doctor", **folders).returncode == 0
    assert run("warm", "photos", **folders).returncode == 0
    assert run("doctor", LABELING_GROUND_DISK_BYTES="0").returncode == 0


def test_warm_says_that_nothing_can_be_kept(run: Run) -> None:
    done = run("warm", "photos", HOME="/nonexistent")
    assert done.returncode == 1
    assert "/nonexistent/.cache/labeling-ground" in done.stderr
    assert "computed" not in done.stderr
