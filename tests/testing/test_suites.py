"""The suites of the package, used as ``docs/extending.md`` says, by somebody who has only the package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (test_\w+\.py)\n(.*?)```", PAGE, re.DOTALL))

ENGINE = "from labeling_ground.inference.classical import create"
STORE = """
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.policies.gds import GreedyDualSize

class MyStore(DiskStore):
    def __init__(self, folder, **options):
        super().__init__(folder, ranking=GreedyDualSize(), low_watermark=1.0, **options)
"""
FORGETS_NOTHING = """
from labeling_ground.testing.dict_store import DictStore

class MyStore(DictStore):
    def __init__(self, folder, **options):
        super().__init__()
"""
KEEPS_AN_IMAGE = """
from labeling_ground.testing.toy_backend import ToyBackend

class Careless(ToyBackend):
    current = None

    async def encode(self, images):
        made = await super().encode(images)
        self.current = made[-1]
        return made

    async def decode(self, asks):
        return await super().decode([(self.current, prompt) for _, prompt in asks])

def create(encode_threads, decode_threads):
    return Careless()
"""


def run(folder: Path, test: str, code: str) -> tuple[set[str], str]:
    """The names of the tests that failed, and what pytest printed."""
    (folder / test).write_text(EXAMPLES[test])
    (folder / test.removeprefix("test_")).write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert re.search(r"\d+ (passed|failed)", done.stdout), done.stdout + done.stderr
    return set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE)), done.stdout


@pytest.mark.parametrize(("test", "code"), [("test_my_engine.py", ENGINE), ("test_my_store.py", STORE)])
def test_what_keeps_to_its_port_passes(tmp_path: Path, test: str, code: str) -> None:
    failed, out = run(tmp_path, test, code)
    assert not failed, out
    assert "error" not in out.lower(), out


@pytest.mark.slow
def test_a_store_that_forgets_nothing_is_found_out(tmp_path: Path) -> None:
    failed, out = run(tmp_path, "test_my_store.py", FORGETS_NOTHING)
    assert {
        "test_use_restarts_the_idle_timer",
        "test_max_age_is_absolute",
        "test_the_budget_holds_while_many_fill_the_store",
    } <= failed
    assert "test_values_never_change" not in failed
    assert "assert Entry(" in out  # values are shown, as in an author's own tests


def test_an_engine_that_keeps_a_current_image_is_found_out(tmp_path: Path) -> None:
    failed, _ = run(tmp_path, "test_my_engine.py", KEEPS_AN_IMAGE)
    assert "test_an_engine_keeps_no_current_image" in failed
