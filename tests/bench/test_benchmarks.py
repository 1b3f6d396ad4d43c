"""Each benchmark also runs here, at toy size, so that none rots."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.inference.engines import files, pooling_encoder
from tests.needs import needs, needs_browser_runtime, needs_program
from tests.sam.references import exported
from tests.sam.references_sam2 import exported_sam2

ROOT = Path(__file__).parent.parent.parent


def run(module: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", module, "--toy", "--json", *arguments]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=300).stdout)


def small_mobile_sam(folder: Path) -> None:
    """What benchmarks take for their MobileSAM: the real decoders, and an encoder that only pools."""
    made = files()
    (folder / "mobile-sam").mkdir()
    pooling_encoder(folder / "mobile-sam" / "encoder.onnx", 1)
    for part in ("decoder_path", "fast_decoder_path"):
        shutil.copy(made[part], folder / "mobile-sam")


@pytest.mark.slow
def test_the_serving_benchmark_runs_and_finds_the_promises_that_are_no_timings_kept() -> None:
    result = run("bench.serving")
    assert result["points_kept_of_50"] == 50
    assert result["encodes_for_10_same_images"] == 1
    assert result["click_request_bytes"] < 1024
    assert result["sam_embedding_bytes"] <= 2_200_000
    names = [row["name"] for row in result["one_client"]]
    assert names[0] == "no-op endpoint"
    assert len(names) == 8
    assert all(row["p50_ms"] > 0 and row["requests"] > 0 for row in result["one_client"])


@pytest.mark.slow
def test_the_memory_benchmark_runs() -> None:
    result = run("bench.serving.memory")
    assert len(result["alone"]) == 8
    assert result["together_mb"] > 0


@pytest.mark.slow
def test_a_server_of_two_models_takes_no_more_memory_than_a_server_for_each() -> None:
    exported()
    exported_sam2()
    result = run("bench.serving.two_models")
    without, *alone, both = (row["resident_mb"] for row in result["rows"])
    assert [row["models"] for row in result["rows"][1:]] == [["small-sam"], ["small-sam2"], ["small-sam", "small-sam2"]]
    assert without < min(alone)
    assert max(alone) < both <= 1.1 * sum(alone)
    assert all(row["told_mb"] > 0 for row in result["rows"])


@pytest.mark.slow
def test_the_fairness_benchmark_runs_and_nobody_is_refused() -> None:
    result = run("bench.serving.fairness")
    assert [row["flood"] for row in result["opens"]] == ["nothing", "opens", "prefetches", "jobs"]
    assert [row["refused"] for row in result["opens"]] == [0, 0, 0, 0]
    assert all(row["worst_s"] >= row["p50_s"] >= result["encode_s"] for row in result["opens"])
    assert sum(result["shares"].values()) == pytest.approx(1.0)
    assert all(share > 0 for share in result["shares"].values())


@pytest.mark.slow
def test_the_benchmark_of_batches_runs_and_more_is_done_with_them() -> None:
    rows = run("bench.serving.batches")["rows"]
    assert set(rows) == {"without", "with"}
    for row in rows.values():
        assert row["lone_open_s"] >= 0.045  # what the engine takes
    for name in ("clicks", "opens"):
        assert 0 < rows["without"][name] <= 1 / 0.045
        assert rows["with"][name] > 0


@pytest.mark.slow
def test_the_benchmark_of_several_processes_runs_and_each_of_them_has_work() -> None:
    result = run("bench.workers")
    assert set(result["rows"]) == {"1", "2"}
    for workers, row in result["rows"].items():
        assert len(row["shares"]) == int(workers)
        assert row["hits_s"] > 0
        assert row["us_per_hit"] > 0
    assert result["looks"]["memory_ms"] > 0
    assert result["looks"]["disk_ms"] > 0


def test_a_list_of_upcoming_images_helps_as_far_as_it_is_true_and_a_wrong_one_costs_nothing() -> None:
    result = run("bench.upcoming")
    none, wrong, half, true = result["rows"]
    assert [row["truth"] for row in result["rows"]] == [None, 0.0, 0.5, 1.0]
    assert {**wrong, "truth": None} == none
    assert half["waited_s"] <= none["waited_s"]
    assert true["waited_s"] < 0.6 * none["waited_s"]
    assert true["missing"] < 0.5 * none["missing"]


def test_the_affinity_benchmark_runs_and_the_choice_that_serves_finds_most_embeddings() -> None:
    result = run("bench.affinity")
    absent = {row["choice"]: row["absent"] for row in result["rows"]}
    assert result["compulsory"] < absent["rendezvous, bound 1.25"] <= 0.15
    assert absent["round robin"] > 0.4
    for row in result["rows"]:
        assert row["killed"]["clicks_before"] > 0
        assert row["killed"]["clicks_after"] > 0


@pytest.mark.slow
def test_the_cluster_loses_no_click_and_no_mask_is_wrong_while_an_engine_and_a_proxy_are_killed() -> None:
    result = run("bench.cluster")
    assert result["masks_compared"] > 50
    for play in ("undisturbed", "disturbed"):
        assert result[play]["answered"] == result["asks"]
        assert (result[play]["failed"], result[play]["wrong_masks"]) == (0, 0)
    assert sum(result["disturbed"]["outcomes"].values()) == sum(result["undisturbed"]["outcomes"].values())
    assert [blow["what"] for blow in result["blows"]] == ["kill -9 engine 1", "kill -9 proxy 1"]
    assert all(blow["answered"] > 0 for blow in result["blows"])


def test_the_engines_benchmark_runs() -> None:
    result = run("bench.engines")
    assert result


def test_the_segmentation_benchmark_runs() -> None:
    result = run("bench.segmentation")
    assert result


def test_the_redis_benchmark_runs_and_finds_in_redis_what_memory_has_lost() -> None:
    result = run("bench.cache_redis")
    assert {row["way"] for row in result["reading"]} == {"nothing is read", "on the event loop (ours)", "in a thread"}
    names = {row["name"] for row in result["clicking"]}
    assert names == {
        "new click, Redis in use",
        "new click, Redis stopped",
        "new click, no Redis",
        "repeated click, found in Redis",
    }
    assert result["found_in_redis"] == result["repeated_clicks"] > 0


def test_the_disk_benchmark_runs_and_the_other_process_writes_all_the_while() -> None:
    result = run("bench.cache_disk")
    works = {work["name"]: work for work in result["works"]}
    assert all(work["failed"] == 0 and work["writes"] > 0 for work in works.values())
    assert works["another policy"]["transactions"] > result["entries"] // 256


@pytest.mark.slow
def test_the_benchmark_of_segment_anything_over_http_runs_and_clicks_on_what_it_says(tmp_path: Path) -> None:
    for module in ("onnx", "onnxruntime"):
        needs(module)
    small_mobile_sam(tmp_path)
    result = run("bench.serving.sam", "--models", str(tmp_path), "--engine", "onnx")
    assert result["engine"].startswith("onnx in fp32")
    assert result["clicks"] == 8
    assert all(0.01 < share <= 0.1 for share in result["largest_share"].values())
    assert all(ms > 0 for ms in result["p50_ms"].values())
    assert result["resident_mb"] > 50


@pytest.mark.slow
def test_the_benchmark_of_decoding_in_the_browser_runs_and_finds_the_servers_masks(tmp_path: Path) -> None:
    for module in ("onnx", "onnxruntime", "playwright"):
        needs(module)
    needs_program("chromium")
    needs_browser_runtime()
    small_mobile_sam(tmp_path)
    result = run("bench.browser", "--models", str(tmp_path))
    assert list(result["clicks"]) == ["new, 0 ms", "repeated, 0 ms", "new, 100 ms", "repeated, 100 ms"]
    assert all(each[switch]["min_ms"] > 0 for each in result["clicks"].values() for switch in ("off", "on"))
    assert all(each["masks"] == 6 and each["largest"] < 1e-4 for each in result["differences"].values())


def test_the_benchmark_of_painting_times_both_pages_and_both_outcomes() -> None:
    needs("playwright")
    needs_program("chromium")
    result = run("bench.browser.painting")
    assert sorted(result["paints"]) == ["/", "/cache"]
    assert all(ms > 0 for taken in result["paints"].values() for ms in taken)
    assert [click["outcome"] for click in result["clicks"]] == ["miss", "miss", "hit", "hit"]


@pytest.mark.slow
def test_the_gpu_benchmark_runs_all_its_steps_and_finds_the_engine_right(tmp_path: Path) -> None:
    needs("transformers")
    result = run("bench.engines.gpu", "--out", str(tmp_path / "gpu.json"))
    assert json.loads((tmp_path / "gpu.json").read_text()) == result
    assert list(result["steps"]) == list(result["predictions"])
    rows = [row for found in result["steps"].values() for row in found]
    assert not [row for row in rows if "failed" in row]
    assert len(result["steps"]["correctness"]) == 4
    assert all(row["right"] for row in result["steps"]["correctness"])
    assert all(row["ms"] > 0 for row in rows if "ms" in row)
    assert all(row["off"] < 1e-4 for row in result["steps"]["decode"])
    off, *of_sam3 = result["steps"]["sam3"]
    assert 0 < off["rms"] < 0.05
    assert [row["what"] for row in of_sam3] == [*["trunk"] * 3, *["phrase"] * 2, "embedding for clicks", "click"]
    assert [row["images"] for row in of_sam3 if "images" in row] == [1, 2]


def test_a_step_of_the_gpu_benchmark_that_is_late_or_fails_says_so_and_the_next_one_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs("transformers")
    from bench.engines import gpu

    assert sum(seconds for _, seconds, _ in gpu.STEPS) <= 500
    assert [name for name, _, _ in gpu.STEPS] == list(gpu.PREDICTIONS)

    def late(bench: Any) -> Any:
        yield {"what": "the first half"}
        while True:
            bench.ms(lambda _: None, [None])

    def failing(bench: Any) -> Any:
        yield from (1 / row for row in [0])

    def good(bench: Any) -> Any:
        yield {"what": "the rest", "ms": 1.0}

    monkeypatch.setattr(gpu, "PATIENCE", 1)
    monkeypatch.setattr(gpu, "STEPS", [("ceilings", 1, late), ("encode", 60, failing), ("copies", 60, good)])
    written: list[list[str]] = []
    result = gpu.run(toy=True, write=lambda found: written.append(list(found["steps"])))
    assert written == [[], ["ceilings"], ["ceilings", "encode"], ["ceilings", "encode", "copies"]]
    steps = result["steps"]
    assert steps["ceilings"] == [
        {"what": "the first half"},
        {"what": "ceilings", "failed": "TimeoutError: not done in 1 s"},
    ]
    assert steps["encode"] == [{"what": "encode", "failed": "ZeroDivisionError: division by zero"}]
    assert steps["copies"] == [{"what": "the rest", "ms": 1.0}]
    assert "division by zero" in gpu.table(result)


def test_the_benchmark_of_policies_runs_and_nothing_is_below_the_bound() -> None:
    result = run("bench.policies")
    policies = {"gds", "gds, no hint", "gdsf 0.5", "gdsf 1", "lru", "lfu", "s3fifo"}
    assert len(result["labeling"]) == 24
    for row in result["labeling"]:
        assert 0 < row["bound"] <= min(row[policy] for policy in policies)
        assert row["gds"] < 1.02 * row["lru"]
    for row in result["public"]:
        assert 0 < row["gds"] <= 1.02 * row["lru"] < 1.02
    for row in result["compared"] or []:  # where libcachesim is installed
        if row["policy"] == "lru":
            assert row["ours"] == row["theirs"]
        else:
            assert row["ours"] == pytest.approx(row["theirs"], rel=0.1)
    assert all(figure > 0 for figures in result["speed"].values() for figure in figures.values())
