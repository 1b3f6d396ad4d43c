"""Embeddings kept for several processes: bounded, never half, safe while files come and go."""

import errno
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeling_ground.errors import BadSettings
from labeling_ground.inference.remote.embedding_store import EmbeddingStore

FILE = 5 * 1024


def key(number: int) -> str:
    return f"{number:064x}"


def tensors(number: int) -> dict[str, Any]:
    return {"image_embeddings": np.full((1, 1024), number, np.float32)}


def held(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_what_was_put_is_got_by_any_process(tmp_path: Path) -> None:
    assert EmbeddingStore(tmp_path / "kept", 1 << 20).put(key(1), tensors(1))
    other = EmbeddingStore(tmp_path / "kept", 1 << 20)
    got = other.get(key(1))
    assert got is not None
    np.testing.assert_array_equal(got["image_embeddings"], tensors(1)["image_embeddings"])
    assert other.get(key(2)) is None


def test_those_unused_for_longest_go_first(tmp_path: Path) -> None:
    kept = EmbeddingStore(tmp_path, 3 * FILE)
    for number in range(3):
        kept.put(key(number), tensors(number))
        os.utime(kept.path_of(key(number)), (number, number))
    assert kept.get(key(0)) is not None  # used just now
    kept.put(key(3), tensors(3))
    assert [kept.get(key(number)) is not None for number in range(4)] == [True, False, True, True]
    assert held(tmp_path) <= 3 * FILE


def test_what_is_larger_than_the_budget_is_not_kept(tmp_path: Path) -> None:
    kept = EmbeddingStore(tmp_path, FILE // 2)
    assert not kept.put(key(1), tensors(1))
    assert kept.get(key(1)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_goes_while_it_is_read_stays_readable_for_its_reader(tmp_path: Path) -> None:
    kept = EmbeddingStore(tmp_path, 1 << 20)
    kept.put(key(7), tensors(7))
    got = kept.get(key(7))
    kept.path_of(key(7)).unlink()
    assert got is not None
    np.testing.assert_array_equal(got["image_embeddings"], tensors(7)["image_embeddings"])


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "misnamed"])
def test_a_damaged_file_is_no_embedding(tmp_path: Path, damage: str) -> None:
    kept = EmbeddingStore(tmp_path, 1 << 20)
    kept.put(key(1), tensors(1))
    whole = kept.path_of(key(1)).read_bytes()
    content = {"empty": b"", "cut": whole[:-100], "foreign": b"x" * 5000, "misnamed": whole}[damage]
    name = key(2) if damage == "misnamed" else key(1)
    kept.path_of(name).write_bytes(content)
    assert kept.get(name) is None
    assert kept.put(name, tensors(2))
    assert kept.get(name) is not None


def test_where_the_file_system_has_less_than_the_budget_others_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's shared memory may be smaller than what we were told to take."""
    kept = EmbeddingStore(tmp_path, 1 << 20)
    write = Path.write_bytes

    def write_if_there_is_room(path: Path, data: bytes) -> int:
        if held(tmp_path) + len(data) > 3 * FILE:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_if_there_is_room)
    for number in range(6):
        assert kept.put(key(number), tensors(number))
        os.utime(kept.path_of(key(number)), (number, number))
    assert kept.get(key(5)) is not None
    assert kept.get(key(0)) is None
    assert not kept.put(key(9), {"image_embeddings": np.zeros((16, 1024), np.float32)})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_a_dead_worker_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    part, fresh = tmp_path / f".labeling-ground-{key(1)}.dead", tmp_path / f".labeling-ground-{key(2)}.alive"
    for path in (part, fresh):
        path.write_bytes(b"half")
    os.utime(part, (time.time() - 3600,) * 2)
    EmbeddingStore(tmp_path, 1 << 20).put(key(3), tensors(3))
    assert not part.exists()
    assert fresh.exists()


def test_nothing_but_its_own_files_is_counted_or_deleted(tmp_path: Path) -> None:
    """Whatever folder ``embedding_store_dir`` names, and however old what is in it."""
    others = [tmp_path / "thesis.tex", tmp_path / key(5), tmp_path / f".{key(6)}.part"]
    for path in others:
        path.write_bytes(bytes(10 * FILE))
        os.utime(path, (1, 1))
    (tmp_path / "folder").mkdir()
    kept = EmbeddingStore(tmp_path, 2 * FILE)
    for number in range(4):
        assert kept.put(key(number), tensors(number))
    assert [path.stat().st_size for path in others] == [10 * FILE] * 3
    assert sum(kept.get(key(number)) is not None for number in range(4)) == 2


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(BadSettings, match="nobody else"):
        EmbeddingStore(folder, 1 << 20)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BadSettings):
        EmbeddingStore(tmp_path / "file", 1 << 20)


def _churn(folder: Path, seed: int, rounds: int, wrong: Any) -> None:
    kept = EmbeddingStore(folder, 4 * FILE)
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        number = int(rng.integers(0, 8))
        got = kept.get(key(number))
        if got is None:
            kept.put(key(number), tensors(number))
        elif (got["image_embeddings"] != number).any():
            wrong.value += 1


def test_many_writers_and_readers_see_whole_values_within_the_bound(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    wrong = context.Value("i", 0)
    workers = [context.Process(target=_churn, args=(tmp_path, seed, 150, wrong)) for seed in range(2)]
    threads = [threading.Thread(target=_churn, args=(tmp_path, 10 + seed, 150, wrong)) for seed in range(2)]
    everyone: list[Any] = [*workers, *threads]
    for one in everyone:
        one.start()
    for one in everyone:
        one.join(180)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert wrong.value == 0
    assert held(tmp_path) <= 4 * FILE
