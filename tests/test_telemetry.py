"""The engines' makers hear nothing: no name is looked up, and nothing is queued on the disk for later."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.inference.engines import disc_folder
from tests.needs import needs, needs_program

from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore

NamesAsked = Callable[..., list[str]]
NETWORK = Path(__file__).parent / "own_network.py"
FACTORY = """
import onnxruntime, openvino  # as an operator's own engine does, before anything of ours asks for them
from labeling_ground.inference.classical.engine import create
"""
CLICK = """
import asyncio, sys
import numpy as np
from labeling_ground.settings import Settings
from labeling_ground.types import Image, Point, Prompt
from labeling_ground.wiring import build_backend

async def click():
    backend, _ = build_backend(Settings())
    image = Image("0" * 64, np.zeros((48, 64, 3), np.uint8))
    [embedding] = await backend.encode([image])
    await backend.decode([(embedding, Prompt((Point(9.0, 9.0, 1),)))])
    await backend.aclose()

asyncio.run(click())
assert sys.argv[1] in sys.modules, "the engine did not run"
"""


@pytest.fixture
def names_asked(tmp_path: Path) -> NamesAsked:
    """Runs Python with these arguments in a network of its own: the names that it asked for."""
    unshare = needs_program("unshare")
    apart = [unshare, "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a network of its own")
    # As on a user's machine: nothing that switches telemetry off from outside, and a home that shows what is queued.
    told = {"CI", "ORT_DISABLE_TELEMETRY"}
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / "cache")}
    outside = {name: value for name, value in os.environ.items() if name not in told}

    def run(*arguments: str, **settings: str) -> list[str]:
        (tmp_path / "home").mkdir(exist_ok=True)
        given = {f"LABELING_GROUND_{name.upper()}": value for name, value in settings.items()}
        command = [*apart, sys.executable, str(NETWORK), sys.executable, *arguments]
        done = subprocess.run(
            command, env=outside | home | given, capture_output=True, text=True, check=True, timeout=330, cwd=tmp_path
        )
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["status"] == 0, done.stderr
        queued = [path.name for path in (tmp_path / "home").rglob("*") if path.name in ("intel", "Microsoft")]
        assert queued == []
        return list(found["names"])

    return run


def test_names_that_are_asked_for_are_seen(names_asked: NamesAsked) -> None:
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('seen.example', 80)"
    assert "seen.example" in names_asked("-c", code)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "library"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_engine_asks_for_no_name(tmp_path: Path, names_asked: NamesAsked, engine: str, library: str) -> None:
    needs(library)
    store = ModelStore(tmp_path / "models")
    for role in (Role.ENCODER, Role.DECODER):
        store.add(disc_folder() / f"{role.value}.onnx", name="my-sam", role=role, family="sam")
    settings = {"models_dir": str(tmp_path / "models"), "model": "my-sam", "engine": engine}
    assert names_asked("-c", CLICK, library, **settings) == []
    assert names_asked("-m", "labeling_ground", "doctor", disk_bytes="0", **settings) == []


def test_an_engine_of_the_operators_own_asks_for_no_name(tmp_path: Path, names_asked: NamesAsked) -> None:
    needs("onnxruntime")
    needs("openvino")
    (tmp_path / "mine.py").write_text(FACTORY, encoding="utf-8")
    assert names_asked("-c", CLICK, "openvino", model="mine:create") == []
