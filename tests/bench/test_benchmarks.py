"""Each benchmark also runs here, at toy size, so that none rots."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def run(module: str) -> Any:
    command = [sys.executable, "-m", module, "--toy", "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=300).stdout)


def test_the_serving_benchmark_runs_and_finds_the_promises_that_are_no_timings_kept() -> None:
    result = run("bench.serving")
    assert result["points_kept_of_50"] == 50
    assert result["encodes_for_10_same_images"] == 1
    assert result["click_request_bytes"] < 1024
    assert result["sam_embedding_bytes"] <= 2_200_000
    names = [row["name"] for row in result["one_client"]]
    assert names[0] == "no-op endpoint"
    assert len(names) == 7
    assert all(row["p50_ms"] > 0 and row["requests"] > 0 for row in result["one_client"])


def test_the_engines_benchmark_runs() -> None:
    result = run("bench.engines")
    assert result


def test_the_segmentation_benchmark_runs() -> None:
    result = run("bench.segmentation")
    assert result
