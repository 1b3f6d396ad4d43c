"""The application of Ray Serve on two nodes of this machine, one of which is killed under load."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.inference.engines import files
from tests.inference.toy_engine import LONG_S
from tests.ports import free_port

from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATHS = {Role.ENCODER: "encoder_path", Role.DECODER: "decoder_path", Role.FAST_DECODER: "fast_decoder_path"}


def test_a_killed_node_makes_no_wrong_mask_and_the_others_go_on(tool: Callable[[str], Path], tmp_path: Path) -> None:
    python, store, graphs = tool("ray"), ModelStore(tmp_path / "models"), files()
    for role, path in PATHS.items():
        store.add(graphs[path], name="sam-small", role=role, family="sam")
    words = (python, ROOT / "tests/tools/drivers/ray_serve.py", ROOT / "deploy/ray/serve.yaml", store.folder)
    done = subprocess.run(
        [*map(str, words), "sam-small", str(free_port()), "40"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
        timeout=12 * LONG_S,
        check=True,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"deployed_s"')]
    found = json.loads(line)
    assert found["nodes_of_replicas"] == {"encoder": 2, "decoder": 2}
    assert found["nodes_after"] == {"encoder": 1, "decoder": 1}
    assert found["wrong_masks"] == 0
    assert found["answered_after"] > 0
    assert found["failed"] < found["calls"] / 2, found["words"]
