"""The ring of the last day."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from labeling_ground.service.history import AVERAGED, COUNTED, SAMPLE, History

EVERY_S = 60.0


def totals(**given: float) -> dict[str, float]:
    return dict.fromkeys((*COUNTED, *AVERAGED, "memory_bytes", "resident_bytes"), 0.0) | given


def test_a_sample_holds_what_came_to_the_sums_and_what_waited_on_average() -> None:
    now = time.time()
    history = History(None, steps=10, every_s=EVERY_S)
    history.note(totals(hit=5, interactive=1.0, memory_bytes=100), now - 60)
    assert len(history.since(0)) == 0  # there was nothing to compare with
    history.note(totals(hit=12, interactive=31.0, busy=60.0, memory_bytes=80), now)
    [sample] = history.since(0)
    assert (sample["seconds"], sample["hit"], sample["memory_bytes"]) == (60.0, 7.0, 80.0)
    assert (sample["interactive"], sample["busy"]) == (0.5, 1.0)
    assert len(history.since(now)) == 0


def test_a_count_that_began_anew_is_not_less_than_nothing() -> None:
    now = time.time()
    history = History(None, steps=10, every_s=EVERY_S)
    history.note(totals(hit=50), now - 60)
    history.note(totals(hit=3), now)
    assert history.since(0)["hit"].tolist() == [0.0]


def test_the_oldest_steps_make_room_and_the_order_is_that_of_time() -> None:
    history, now = History(None, steps=5, every_s=EVERY_S), time.time()
    for step in range(12):
        history.note(totals(hit=step * step), now - (11 - step) * EVERY_S)
    found = history.since(0)
    assert found["hit"].tolist() == [2 * step - 1 for step in range(12 - len(found), 12)]
    assert 4 <= len(found) <= 5


def test_a_restart_keeps_them_and_another_server_keeps_its_own(tmp_path: Path) -> None:
    now = time.time()
    path = tmp_path / "cache" / "labeling-ground-history-1.ring"
    first, second = (History(path, steps=5, every_s=EVERY_S) for _ in range(2))
    first.open()
    second.open()  # the file is taken
    for history, hits in ((first, 1), (second, 2)):
        history.note(totals(), now - 60)
        history.note(totals(hit=hits), now)
    assert [history.since(0)["hit"].tolist() for history in (first, second)] == [[1.0], [2.0]]
    first.close()
    again = History(path, steps=5, every_s=EVERY_S)
    again.open()
    assert again.since(0)["hit"].tolist() == [1.0]
    again.close()
    longer = History(path, steps=6, every_s=EVERY_S)
    longer.open()
    assert len(longer.since(0)) == 0
    longer.close()


def test_a_folder_that_is_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    now = time.time()
    (tmp_path / "photo.jpg").write_bytes(b"")
    history = History(tmp_path / "labeling-ground-history-1.ring", steps=5, every_s=EVERY_S)
    history.open()
    history.note(totals(), now - 60)
    history.note(totals(hit=1), now)
    assert history.since(0)["hit"].tolist() == [1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def noted(history: History, now: float, hits: float) -> None:
    history.note(totals(), now - 60)
    history.note(totals(hit=hits), now)


@pytest.mark.parametrize("damage", ["shortened", "deleted", "folder-deleted"])
def test_what_others_do_to_the_file_while_the_server_runs_costs_neither_the_server_nor_a_sample(
    tmp_path: Path, damage: str
) -> None:
    now = time.time()
    path = tmp_path / "cache" / "labeling-ground-history-1.ring"
    history = History(path, steps=5, every_s=EVERY_S)
    history.open()
    noted(history, now - 120, 1)
    if damage == "shortened":
        os.truncate(path, 0)
    elif damage == "deleted":
        path.unlink()
    else:
        shutil.rmtree(path.parent)
    noted(history, now, 2)
    assert history.since(0)["hit"].tolist() == [1.0, 0.0, 2.0]
    history.close()
    again = History(path, steps=5, every_s=EVERY_S)
    again.open()
    assert again.since(0)["hit"].tolist() == [1.0, 0.0, 2.0]
    again.close()


def test_a_folder_that_cannot_be_written_any_more_leaves_the_samples_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.time()
    path = tmp_path / "cache" / "labeling-ground-history-1.ring"
    history = History(path, steps=5, every_s=EVERY_S)
    history.open()
    shutil.rmtree(path.parent)
    path.parent.write_text("a file where the folder was")
    noted(history, now, 2)
    assert history.since(0)["hit"].tolist() == [2.0]
    assert "history: a value was not kept" in caplog.text
    history.close()


def test_a_damaged_sample_is_none_and_the_others_stay(tmp_path: Path) -> None:
    now = time.time()
    path = tmp_path / "cache" / "labeling-ground-history-1.ring"
    first = History(path, steps=5, every_s=EVERY_S)
    first.open()
    noted(first, now - 120, 1)
    noted(first, now, 2)
    first.close()
    ring = np.frombuffer(path.read_bytes(), SAMPLE).copy()
    ring["saved"][ring["hit"] == 1] = np.nan
    path.write_bytes(ring.tobytes())
    again = History(path, steps=5, every_s=EVERY_S)
    again.open()
    assert again.since(0)["hit"].tolist() == [0.0, 2.0]
    again.close()


def test_samples_of_a_clock_that_was_ahead_do_not_stand_behind_those_of_now() -> None:
    now = time.time()
    history = History(None, steps=10, every_s=EVERY_S)
    noted(history, now + 400 * 86_400, 1)
    noted(history, now, 2)  # the clock is set back: what it ran ahead is no step
    assert history.since(0)["hit"].tolist() == [2.0]
