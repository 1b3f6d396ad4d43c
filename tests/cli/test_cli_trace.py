"""``cache trace info``, ``cache synth`` and ``cache simulate``."""

import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from tests.cli.conftest import data_of

from labeling_ground.cli import cli
from labeling_ground.cli.trace import _seconds, _size, _table
from labeling_ground.errors import BadSettings, BadTrace
from labeling_ground.settings import read_settings
from labeling_ground.simulate.grid import Row
from labeling_ground.simulate.replay import Replayed, Setup
from labeling_ground.trace.events import EVENT, KINDS, What
from labeling_ground.trace.files import read, write
from labeling_ground.types import Kind

SMALL = ["--annotators", "4", "--hours", "0.5"]


@pytest.fixture
def made(runner: CliRunner, tmp_path: Path) -> Path:
    path = tmp_path / "t"
    assert runner.invoke(cli, ["cache", "synth", "--seed", "3", "--out", str(path), *SMALL]).exit_code == 0
    return path


def test_the_same_seed_makes_the_same_file(runner: CliRunner, made: Path) -> None:
    again, other = made.with_name("again"), made.with_name("other")
    assert runner.invoke(cli, ["cache", "synth", "--seed", "3", "--out", str(again), *SMALL]).exit_code == 0
    assert runner.invoke(cli, ["cache", "synth", "--seed", "4", "--out", str(other), *SMALL]).exit_code == 0
    assert again.read_bytes() == made.read_bytes() != other.read_bytes()


def test_synth_does_as_it_is_told(runner: CliRunner, tmp_path: Path) -> None:
    options = ["--mix", "one", "--days", "2", "--bulk", "30", "--swap", *SMALL]
    result = runner.invoke(cli, ["cache", "synth", "--out", str(tmp_path / "t"), *options])
    events = read([tmp_path / "t"])
    assert result.exit_code == 0
    assert f"{len(events)} events" in result.stderr
    assert result.stdout == ""
    assert events["time"].max() - events["time"].min() > 23 * 3600
    assert set(events["bytes"][events["kind"] == 2].tolist()) == {2_097_600}
    assert len(set(events["model"].tolist()) - {0}) == 3  # two days, each with a new version at noon
    assert runner.invoke(cli, ["cache", "synth", "--out", "x", "--mix", "other"]).exit_code == 2


def test_info_counts_what_is_in_the_file(runner: CliRunner, made: Path) -> None:
    events = read([made])
    found = data_of(runner.invoke(cli, ["cache", "trace", "info", str(made), "--json"]))
    assert found["events"] == len(events)
    assert found["images"] == len(set(events["image"].tolist()))
    assert found["done_hints"] == np.count_nonzero(events["what"] == 3)
    assert found["purges"] == 0
    assert set(found["kinds"]) == {"embedding", "mask"}
    for kind in found["kinds"].values():
        assert sum(kind["outcomes"].values()) == kind["asks"] >= kind["keys"] > 0
    assert found["from"] < found["to"]
    assert found["seconds_without_cache"] > 60
    words = runner.invoke(cli, ["cache", "trace", "info", str(made)])
    assert words.exit_code == 0
    assert words.stderr == ""
    assert f"{len(events)} events from 2026-01-05" in words.stdout


def test_trunks_and_detections_are_counted_and_replayed(runner: CliRunner, tmp_path: Path) -> None:
    rows = np.zeros(4, EVENT)
    trunk, detections = KINDS.index(Kind.TRUNK), KINDS.index(Kind.DETECTIONS)
    rows["time"], rows["image"], rows["tenant"], rows["model"], rows["embedding"] = range(4), 1, 1, 1, 7
    rows["what"], rows["kind"] = [What.COMPUTED, *[What.ASKED] * 3], [trunk, *[detections] * 3]
    rows["key"], rows["cost"], rows["bytes"] = [7, 1, 2, 1], [9.0, 1.0, 1.0, 1.0], [400, 2, 2, 2]
    rows["outcome"] = [2, 2, 2, 1]
    write(tmp_path / "t", rows)
    info = ["cache", "trace", "info", str(tmp_path / "t")]
    found = data_of(runner.invoke(cli, [*info, "--json"]))
    assert found["kinds"] == {"detections": {"asks": 3, "keys": 2, "outcomes": {"miss": 2, "hit": 1}}}
    assert (found["trunks_computed"], found["seconds_without_cache"]) == (1, 30.0)
    assert re.search(r"trunk +1 computed", runner.invoke(cli, info).stdout)
    simulate = [
        "cache",
        "simulate",
        str(tmp_path / "t"),
        "--policy",
        "gds",
        "--budget",
        "1MiB",
        "--jobs",
        "1",
        "--json",
    ]
    [first, *_] = data_of(runner.invoke(cli, simulate))["rows"]
    assert (first["seconds_computed"]["trunk"], first["seconds_computed"]["detections"]) == (9.0, 2.0)
    assert first["ratio"] == first["bound"] == pytest.approx(11 / 30)


def test_int8_is_replayed_where_it_is_asked_for_or_set(
    runner: CliRunner, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["cache", "simulate", str(made), "--policy", "gds", "--budget", "10%", "--jobs", "1", "--no-bound"]

    def rows(*options: str) -> list[Any]:
        return [row["int8"] for row in data_of(runner.invoke(cli, [*command, *options, "--json"]))["rows"]]

    assert rows() == [False, False]
    assert rows("--int8") == [True, False], "today's setting is as it is"
    assert rows("--int8", "--lower-budget", "1GiB") == [False, False], "there is the full one"
    assert "gds int8" in runner.invoke(cli, [*command, "--int8"]).stdout
    monkeypatch.setenv("LABELING_GROUND_INT8_EMBEDDINGS", "checked")
    assert rows() == [True, True]
    assert rows("--no-int8") == [False, True]


def test_info_of_an_empty_trace(runner: CliRunner, made: Path) -> None:
    write(made, read([made])[:0])
    found = data_of(runner.invoke(cli, ["cache", "trace", "info", str(made), "--json"]))
    assert (found["events"], found["from"], found["kinds"]) == (0, None, {})


def test_simulate_tries_every_combination_and_todays_setting(
    runner: CliRunner, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABELING_GROUND_MEMORY_BYTES", "48MiB")
    monkeypatch.setenv("LABELING_GROUND_POLICY", "lru")
    options = ["--policy", "gds", "--policy", "gdsf", "--budget", "25%", "--budget", "64MiB", "--idle", "10min"]
    found = data_of(runner.invoke(cli, ["cache", "simulate", str(made), *options, "--jobs", "1", "--json"]))
    rows = found["rows"]
    assert [row["policy"] for row in rows] == ["gds", "gds", "gdsf", "gdsf", "lru"]
    assert [row["frequency_exponent"] for row in rows] == [0, 0, 1, 1, 0]
    assert rows[1]["memory_bytes"] == rows[3]["memory_bytes"] == 64 << 20
    assert [row["idle_seconds"] for row in rows] == [600.0] * 4 + [1800.0]
    assert found["today"]["memory_bytes"] == 48 << 20
    assert found["recommended"]["money_a_day"]["total"] <= 1.005 * min(row["money_a_day"]["total"] for row in rows)
    for row in rows:
        assert 0 < row["bound"] <= row["ratio"] < 1
        assert row["peak_bytes"]["memory"] <= row["memory_bytes"]
        assert row["money_a_day"]["total"] == pytest.approx(
            row["money_a_day"]["room"] + row["money_a_day"]["computing"]
        )
        assert set(row["evictions"]["memory"]) == {"idle", "age", "budget", "purge", "damaged"}


def test_simulate_says_it_in_a_table_and_on_a_page(runner: CliRunner, made: Path) -> None:
    html = made.with_name("page.html")
    options = ["--policy", "gds", "--policy", "lru", "--budget", "25%", "--jobs", "1", "--html", str(html)]
    result = runner.invoke(cli, ["cache", "simulate", str(made), *options, "--no-bound", "--lower-budget", "100MiB"])
    assert result.exit_code == 0, result.output
    assert "Recommended: " in result.stdout
    assert "with 100.0 MiB behind the memory" in result.stdout
    table = result.stdout[result.stdout.index("policy") :].splitlines()
    [best] = [line for line in table if line.rstrip().endswith("best")]
    assert best.split()[0] in ("gds", "lru")
    assert any(line.rstrip().endswith("today") for line in table)
    assert re.search(r"replaying .* 3/3", result.stderr)
    assert "<svg" in html.read_text()
    assert "Today&#x27;s setting" in html.read_text()


def test_the_edge_of_what_was_tried_is_said(runner: CliRunner, made: Path) -> None:
    """A smallest budget that is best is no answer yet."""
    dear = ["--price-memory", "9", "--no-bound", "--jobs", "1", "--json", "--policy", "gds"]
    found = data_of(runner.invoke(cli, ["cache", "simulate", str(made), "--budget", "50%", "--budget", "80%", *dear]))
    assert "No smaller budget was tried" in found["recommended"]["reason"]


@pytest.mark.parametrize(("text", "size"), [("500MB", 500_000_000), ("500MiB", 500 << 20), (".5 gib", 1 << 29)])
def test_a_size_means_what_it_means_in_a_setting(runner: CliRunner, made: Path, text: str, size: int) -> None:
    options = ["--policy", "lru", "--budget", text, "--lower-budget", text, "--no-bound", "--jobs", "1", "--json"]
    found = data_of(runner.invoke(cli, ["cache", "simulate", str(made), *options]))
    assert (found["rows"][0]["memory_bytes"], found["rows"][0]["lower_bytes"]) == (size, size)
    assert read_settings(memory_bytes=text).memory_bytes == size


@pytest.mark.parametrize(
    "option", [["--budget", "much"], ["--budget", "-1"], ["--budget", "1,5GiB"], ["--idle", "soon"], ["--idle", "0"]]
)
def test_what_is_no_size_and_no_time_is_said(runner: CliRunner, made: Path, option: list[str]) -> None:
    result = runner.invoke(cli, ["cache", "simulate", str(made), *option])
    assert result.exit_code == 2
    assert repr(option[1]) in result.stderr


def test_a_wrong_policy_is_said_before_the_work(runner: CliRunner, made: Path) -> None:
    result = runner.invoke(cli, ["cache", "simulate", str(made), "--policy", "best"])
    assert isinstance(result.exception, BadSettings)


def test_what_is_no_trace_is_said(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"something else")
    for command in (["trace", "info"], ["simulate"]):
        result = runner.invoke(cli, ["cache", *command, str(tmp_path / "t")])
        assert isinstance(result.exception, BadTrace)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GiB", 2 << 30), ("500MB", 500_000_000), ("1.5 g", 1_500_000_000), ("1024", 1024), ("7k", 7000), ("25%", 250)],
)
def test_sizes(text: str, expected: int) -> None:
    assert _size(text, 1000) == expected


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("30min", 1800), ("2h", 7200), ("5 s", 5), ("never", None)])
def test_times(text: str, expected: float | None) -> None:
    assert _seconds(text) == expected


@pytest.mark.parametrize("policy", ["gdsf", "labeling_ground.cache.policies.gds:GreedyDualSizeByCostDensityOrSo"])
def test_the_table_fits_a_terminal_of_80_columns(policy: str) -> None:
    setup = Setup(policy, 1023 << 20, 999 << 30, 5400.0, None, 0.1, 0.25, (1.0, 1.0))
    many = Counter({Kind.EMBEDDING: 10**9, Kind.MASK: 10**9})
    replayed = Replayed(setup, lookups=many, hits=many, evictions={"memory": {"budget": 10**9}})
    row = Row(replayed, 0.1234, 12345.67, 12345.67, 0.1234)
    other = Row(replayed, 0.1234, 12345.68, 12345.68, 0.1234)
    out = io.StringIO()
    Console(file=out, width=80).print(_table([row, other], row, other))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for figure in ("1023 MiB", "90 min", "0.1234", "100.0%", "1000M", "24691", "best"):
        assert any(figure in line for line in lines), figure
    assert policy.rpartition(":")[2] in "".join(line.split(" ")[0] for line in lines)


def test_a_page_that_cannot_be_written_is_said_before_the_work(runner: CliRunner, made: Path) -> None:
    result = runner.invoke(cli, ["cache", "simulate", str(made), "--html", str(made / "below" / "page.html")])
    assert isinstance(result.exception, BadSettings)
    assert "replaying" not in result.stderr
