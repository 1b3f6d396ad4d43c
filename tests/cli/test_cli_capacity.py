"""``labeling-ground capacity``."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from labeling_ground.cli import cli

SMALL = ("capacity", "--annotators", "3", "--hours", "1", "--encode-s", "0.4")


def figures(*words: str) -> Any:
    found = CliRunner().invoke(cli, [*SMALL, "--json", *words])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_each_team_with_each_engine_is_a_row() -> None:
    rows = figures("--annotators", "4", "--encode-s", "20", "--job-images", "1000")["rows"]
    assert [(row["annotators"], row["encode_s"]) for row in rows] == [(3, 0.4), (3, 20), (4, 0.4), (4, 20)]
    assert all(row["engines_to_survive_a_loss"] == row["engines"] + 1 for row in rows)
    assert rows[1]["engines"] > rows[0]["engines"] == 1
    assert all(row["wait_s"]["p99"] <= row["encode_s"] + 1 for row in rows)
    assert all(row["job_hours"] > 0 for row in rows)
    assert rows[0]["wait_p99_s_with_one_engine_less"] is None
    assert rows[1]["wait_p99_s_with_one_engine_less"] > 21


def test_money_and_memory_follow_what_was_given() -> None:
    [cheap] = figures("--price-engine", "0", "--price-core", "0", "--price-memory", "0")["rows"]
    [dear] = figures("--price-engine", "3", "--price-core", "0", "--price-memory", "0")["rows"]
    assert cheap["money_a_day"]["all_day"] == 0
    assert dear["money_a_day"] == {"in_working_hours": 6.0, "all_day": 144.0, "engines": 144.0, "cores": 0, "memory": 0}
    [heavy] = figures("--model", "sam2.1-large", "--image-mb", "30")["rows"]
    assert heavy["redis_gib"] > 4 * cheap["redis_gib"]
    assert heavy["megabytes_a_second"]["uploads"] == pytest.approx(10 * cheap["megabytes_a_second"]["uploads"], rel=0.5)


def test_every_assumption_is_said_in_words_and_as_data() -> None:
    said = " ".join(figures("--price-core", "0.125", "--prefetch", "5")["assumptions"])
    for number in ("0.125", "5 images sent ahead", "1 hours", "1800 s", "2.1 MB", "256 embeddings", "10 ms", "60 ms"):
        assert number in said
    words = CliRunner().invoke(cli, list(SMALL))
    assert words.exit_code == 0
    assert "engines needed" in words.stdout
    assert words.stdout.count("\n- ") == len(figures()["assumptions"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("capacity",), "--encode-s"),
        ((*SMALL, "--encode-s", "0"), "--encode-s"),
        ((*SMALL, "--annotators", "0"), "--annotators"),
    ],
)
def test_a_wrong_wish_is_refused(words: tuple[str, ...], sentence: str) -> None:
    refused = CliRunner().invoke(cli, list(words))
    assert refused.exit_code == 2
    assert sentence in refused.output


def test_a_model_that_there_is_not_is_named() -> None:
    refused = CliRunner().invoke(cli, [*SMALL, "--model", "sam-vit-x"])
    assert refused.exit_code != 0
    assert "sam-vit-x" in str(refused.exception)
