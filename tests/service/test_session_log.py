"""A session's log: lines that are added once each, in one order for all, and begun anew before there are many."""

import pytest

from labeling_ground.service.session_state import Change, SessionLog, lines_of
from labeling_ground.types import Box, Point

A, B = "a" * 64, "b" * 64
OPEN = Change("x.1", "open", (A, 40, 30, "x", 1, "sam"))


def click(name: str, x: float = 1.0) -> Change:
    return Change(name, "click", (Point(x, 2, 1),))


def log_of(*changes: Change) -> SessionLog:
    made = SessionLog()
    for change in (OPEN, *changes):
        made.add(change)
    return made


def names(log: SessionLog) -> list[str]:
    return [change for _, change in log.state.clicks]


def test_what_is_read_is_what_was_written_with_the_lines_that_others_added() -> None:
    log = log_of(Change("x.2", "rect", (Box(1, 2.5, 9, 9),)), click("x.3", 1.5))
    before = log.state.snapshot()
    restored = Change("y.1", "restore", (before.last_reset, before.mark, None, [(Point(1, 2, 1), "x.3")]))
    added = [restored, click("y.2"), Change("y.3", "undo")]
    read = SessionLog.from_bytes(log.to_bytes() + lines_of(added))
    for change in added:
        log.add(change)
    assert read == log
    assert read is not None
    assert (names(read), read.state.model, read.state.box) == (["x.3"], "sam", None)


def test_a_line_that_was_written_twice_or_comes_after_what_undid_it_counts_once_or_not() -> None:
    assert names(log_of(click("x.2"), click("x.2"))) == ["x.2"]
    assert names(log_of(Change("x.3", "drop", (A, "x.2")), click("x.2"), click("x.4"))) == ["x.4"]


@pytest.mark.parametrize("verb", ["rect", "finish"])
def test_what_forgets_the_clicks_begins_the_log_anew(verb: str) -> None:
    log = log_of(click("x.2"), Change("x.3", verb, (Box(1, 1, 5, 5),) if verb == "rect" else ()))
    assert (log.changes, log.state.generation) == ([], 2)


def test_a_log_that_grows_long_is_begun_anew_with_what_has_come_of_it() -> None:
    log = log_of(*(click(f"x.{n}") if n % 2 else Change(f"x.{n}", "undo") for n in range(3, 5000)))
    assert len(log.changes) < 1100
    read = SessionLog.from_bytes(log.to_bytes())
    assert read == log
    assert names(log) == ["x.4999"]


def test_of_two_logs_the_later_generation_counts_with_clicks_that_only_the_other_one_has_seen() -> None:
    old = log_of(click("x.2"))
    lost = SessionLog.from_bytes(old.to_bytes())
    assert lost is not None
    lost.add(Change("x.3", "finish"))
    lost.add(click("x.4"))
    old.add(click("y.1"))  # by one who was told by a replica that had not heard of that
    assert names(lost.merged(old)) == ["x.4", "y.1"]


def test_clicks_on_another_image_are_not_taken_over() -> None:
    one, other = log_of(click("x.2")), log_of(click("x.2"), Change("y.1", "open", (B, 9, 9, "y", 1, "")))
    one.add(click("x.3"))
    assert names(one.merged(other)) == []
