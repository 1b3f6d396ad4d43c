"""Trace files: what is appended is what is read, through rotation, restarts and crashes."""

from pathlib import Path

import numpy as np
import pytest

from labeling_ground.errors import BadTrace
from labeling_ground.metrics import Metrics
from labeling_ground.trace.events import EVENT, Events, What, digest
from labeling_ground.trace.files import TraceWriter, of_worker, read, write


def events(count: int, start: float = 0.0) -> Events:
    made = np.zeros(count, EVENT)
    made["time"] = start + np.arange(count)
    made["key"] = np.arange(1, count + 1)
    made["what"] = What.ASKED
    made["cost"] = 0.5
    return made


def append(writer: TraceWriter, made: Events) -> None:
    for event in made:
        writer.append(event.tobytes())


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    metrics = Metrics()
    writer = TraceWriter(tmp_path / "t", max_bytes=1 << 20, files=2, metrics=metrics)
    append(writer, events(100))
    writer.close()
    assert np.array_equal(read([tmp_path / "t"]), events(100))
    assert metrics.figures().by("outcome", "trace_events") == {"written": 100, "lost": 0}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_what_a_full_disk_does_not_take_is_counted_as_lost_and_costs_nothing_else(tmp_path: Path) -> None:
    metrics = Metrics()
    writer = TraceWriter(tmp_path / "t", max_bytes=1 << 20, files=2, metrics=metrics)
    append(writer, events(3))
    writer.close()
    with Path("/dev/full").open("ab", buffering=0) as full:
        writer._file = full
        append(writer, events(5, 3.0))
        writer.flush()
    assert metrics.figures().by("outcome", "trace_events") == {"written": 3, "lost": 5}


def test_a_trace_of_version_1_is_read_and_put_aside_where_it_would_be_gone_on_with(tmp_path: Path) -> None:
    """Its events have the same layout; what reads version 1 only shall not meet the new ones in it."""
    write(tmp_path / "t", events(5))
    old = (tmp_path / "t").read_bytes().replace(b'"version": 2', b'"version": 1', 1)
    (tmp_path / "t").write_bytes(old + b"half an event")
    assert np.array_equal(read([tmp_path / "t"]), events(5))
    writer = TraceWriter(tmp_path / "t", max_bytes=1 << 20, files=2)
    append(writer, events(3, 100.0))
    writer.close()
    assert (tmp_path / "t.1").read_bytes() == old
    assert b'"version": 2' in (tmp_path / "t").read_bytes()
    assert read([tmp_path / "t"])["time"].tolist() == [0, 1, 2, 3, 4, 100, 101, 102]


def test_it_says_when_it_is_time_to_write(tmp_path: Path) -> None:
    """After 64 KiB: until then nothing touches the disk."""
    writer = TraceWriter(tmp_path / "t", max_bytes=1 << 20, files=1)
    before = (tmp_path / "t").stat().st_size
    due = [writer.append(event.tobytes()) for event in events(1200)]
    assert due.index(True) == -(-(64 << 10) // EVENT.itemsize) - 1
    assert (tmp_path / "t").stat().st_size == before
    writer.close()


def test_full_files_rotate_and_the_oldest_goes(tmp_path: Path) -> None:
    """No file is above its bound, no more files than allowed, and the newest events are the ones kept."""
    limit = 600 + 20 * EVENT.itemsize
    writer = TraceWriter(tmp_path / "t", max_bytes=limit, files=3)
    for start in range(0, 200, 10):
        append(writer, events(10, start))
        writer.flush()
    writer.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["t", "t.1", "t.2"]
    assert all(file.stat().st_size <= limit for file in files)
    kept = read([tmp_path / "t"])["time"]
    assert kept[-1] == 199
    assert np.array_equal(kept, np.arange(kept[0], 200))
    assert len(kept) >= 40


def test_the_files_of_several_workers_are_one_trace_in_the_order_of_time(tmp_path: Path) -> None:
    limit = 600 + 20 * EVENT.itemsize
    for number in range(2):
        writer = TraceWriter(of_worker(tmp_path / "t", number), max_bytes=limit, files=3)
        for start in range(number, 60, 2):
            append(writer, events(1, start))
            writer.flush()
        writer.close()
    (tmp_path / "t.worker1.txt").write_text("somebody's notes", encoding="utf-8")
    (tmp_path / "tt.worker1").write_text("another trace", encoding="utf-8")
    names = {file.name for file in tmp_path.iterdir()}
    assert {"t.worker0", "t.worker0.1", "t.worker1", "t.worker1.1"} <= names
    assert np.array_equal(read([tmp_path / "t"])["time"], np.arange(60))


def test_one_file_starts_anew_when_it_is_full(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t", max_bytes=600 + 5 * EVENT.itemsize, files=1)
    append(writer, events(23))
    writer.close()
    assert [file.name for file in tmp_path.iterdir()] == ["t"]
    assert read([tmp_path / "t"])["time"][-1] == 22


def test_a_restart_goes_on_behind_half_an_event(tmp_path: Path) -> None:
    """A killed process may leave one; what comes after it must not be read from its middle."""
    writer = TraceWriter(tmp_path / "t", max_bytes=1 << 20, files=1)
    append(writer, events(5))
    writer.close()
    with (tmp_path / "t").open("ab") as file:
        file.write(b"half")
    assert len(read([tmp_path / "t"])) == 5
    again = TraceWriter(tmp_path / "t", max_bytes=1 << 20, files=1)
    append(again, events(5, 5.0))
    again.close()
    assert np.array_equal(read([tmp_path / "t"])["time"], np.arange(10.0))


def test_several_files_are_one_trace_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b", events(3, 10.0))
    write(tmp_path / "a", events(3, 11.0))
    assert list(read([tmp_path / "b", tmp_path / "a"])["time"]) == [10, 11, 11, 12, 12, 13]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b'{"trace": "other"}\n', b"\n" * 9, b"x" * 9000])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(BadTrace, match="no trace"):
        read([tmp_path / "t"])


def test_another_files_end_is_not_written_to(tmp_path: Path) -> None:
    """A wrong path in the settings must not cost somebody a file."""
    (tmp_path / "notes.txt").write_bytes(b"important\n")
    with pytest.raises(BadTrace, match="no trace"):
        TraceWriter(tmp_path / "notes.txt", max_bytes=1 << 20, files=1)
    assert (tmp_path / "notes.txt").read_bytes() == b"important\n"


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="No such file"):
        read([tmp_path / "nothing"])


def test_digests_are_stable_and_never_none() -> None:
    """They are written to files that another version reads."""
    assert digest("v1/public/abc/mask") == 12695475615263988027
    assert digest("a", 4) == 1431053258
    assert EVENT.itemsize == 68
