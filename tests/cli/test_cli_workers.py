"""``--workers``: what each of several processes is given, and what they cannot do without."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from labeling_ground.cli import cli
from labeling_ground.cli.workers import _CANNOT_START, _Beats, _Watched, check_shared, share_of_worker
from labeling_ground.errors import BadSettings
from labeling_ground.settings import Settings

MIB = 1 << 20


def test_budgets_of_memory_are_for_all_workers_together_and_the_disks_is_shared(tmp_path: Path) -> None:
    whole = Settings(workers=4, memory_bytes="1GiB", disk_bytes="2GiB", trace_file=str(tmp_path / "trace"))
    shares = [share_of_worker(whole, number) for number in range(4)]
    for name in ("memory_bytes", "answers_bytes", "max_pixels_at_once", "max_bytes_in_flight"):
        assert sum(getattr(share, name) for share in shares) == getattr(whole, name), name
    assert {share.disk_bytes for share in shares} == {whole.disk_bytes}
    assert [share.trace_file for share in shares] == [tmp_path / f"trace.worker{number}" for number in range(4)]


def test_threads_are_divided_and_each_has_one_at_least() -> None:
    share = share_of_worker(Settings(workers=4, decode_workers=6, encode_workers=2), 3)
    assert (share.decode_workers, share.encode_workers) == (2, 1)


def test_one_worker_takes_an_image_of_the_largest_size_however_many_there_are() -> None:
    share = share_of_worker(Settings(workers=64, max_bytes_in_flight="256MiB", max_image_bytes="32MiB"), 0)
    assert share.max_bytes_in_flight == 64 * MIB


def test_workers_that_could_share_nothing_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSettings, match="the disk tier is switched off"):
        check_shared(Settings(workers=2, disk_bytes=0, redis_url=None))
    with pytest.raises(BadSettings, match="is no directory"):
        check_shared(Settings(workers=2, cache_dir=str(tmp_path / "file"), redis_url=None))
    check_shared(Settings(workers=2, redis_url="redis://127.0.0.1:1/0"))
    check_shared(Settings(workers=2, cache_dir=str(tmp_path / "cache"), redis_url=None))


def test_silence_is_counted_from_the_first_beat_while_somebody_watches() -> None:
    clock = SimpleNamespace(now=100.0)
    beats = _Beats(lambda: clock.now)
    beats.begin()

    def watched(seconds: float) -> float:
        clock.now += seconds
        return beats.silent_s()

    assert [watched(100.0), watched(100.0)] == [0.0, 0.0], "it is loading"
    beats.beat()
    assert watched(0.2) == 0.0
    assert [round(watched(0.2), 3) for _ in range(3)] == [0.2, 0.4, 0.6]
    assert watched(3600.0) == pytest.approx(1.6), "a machine that slept"
    beats.beat()
    assert watched(0.2) == 0.0
    beats.begin()  # its successor, which loads anew
    assert [watched(100.0), watched(100.0)] == [0.0, 0.0]


def test_the_command_says_so() -> None:
    done = CliRunner().invoke(cli, ["serve", "--port", "0", "--workers", "2", "--disk-bytes", "0"])
    assert isinstance(done.exception, BadSettings)
    assert "redis_url; or workers to 1" in str(done.exception)


@pytest.mark.parametrize(
    ("code", "has_started", "ends"), [(_CANNOT_START, False, True), (_CANNOT_START, True, False), (3, False, False)]
)
def test_only_a_worker_that_never_could_start_ends_the_others(code: int, has_started: bool, ends: bool) -> None:
    died: Any = SimpleNamespace(is_alive=lambda: False, exitcode=code)
    watched = _Watched("worker 1", lambda: died, _Beats(), 0.0, process=died, has_started=has_started)
    if ends:
        with pytest.raises(SystemExit):
            watched.restart_if_ended()
    else:
        watched.restart_if_ended()
        assert watched.due > 0, "it is started anew after a pause"
