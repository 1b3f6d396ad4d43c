"""Nothing that carries no mark of ours is ever deleted, nor lived beside; looking makes nothing."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.folder import INDEX, LOCK, MARKER, VALUES
from labeling_ground.cache.disk.state_store import DiskStateStore
from labeling_ground.cache.disk.store import look
from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cli import cli
from labeling_ground.errors import BadSettings, StoreFailed
from labeling_ground.settings import Settings
from labeling_ground.types import Entry, Kind
from labeling_ground.wiring import build_disk

pytestmark = pytest.mark.anyio

KEY = "v1/public/a/image"
LARGE = Entry(Kind.IMAGE, b"x" * 50_000, 1.0, 1_700_000_000.0)


def build(folder: Path) -> DiskStore:
    return DiskStore(folder, budget_bytes=1 << 20, idle_s=None, max_age_s=None, ranking=GreedyDualSize())


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def somebody_s_objects(folder: Path) -> None:
    (folder / "objects" / "ab").mkdir(parents=True)
    (folder / "objects" / "ab" / ("0" * 38)).write_bytes(b"precious")


def somebody_s_repository(folder: Path) -> None:
    (folder / "refs").mkdir()
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    somebody_s_objects(folder)


def somebody_s_index(folder: Path) -> None:
    """Another program's database under the name that ours had, with our number."""
    with closing(sqlite3.connect(folder / "index.sqlite3")) as db:
        db.executescript("CREATE TABLE entries (x); PRAGMA user_version = 1;")
    somebody_s_objects(folder)


def somebody_s_sessions(folder: Path) -> None:
    (folder / "sessions.sqlite3").write_bytes(b"not a database at all" * 500)


FOREIGN = [somebody_s_objects, somebody_s_repository, somebody_s_index, somebody_s_sessions]


@pytest.mark.parametrize("fill", FOREIGN)
async def test_a_folder_that_holds_something_else_is_refused_and_stays_as_it_is(
    tmp_path: Path, fill: Callable[[Path], None]
) -> None:
    fill(tmp_path)
    before = snapshot(tmp_path)
    store = build(tmp_path)
    for work in (store.open(), store.get(KEY), store.put(KEY, LARGE), store.delete("v1/*"), store.sweep()):
        with pytest.raises(StoreFailed, match=r"holds something else .* Give an empty folder"):
            await work
    await store.aclose()
    sessions = DiskStateStore(tmp_path, most=3)
    for _ in range(2):
        with pytest.raises(StoreFailed, match="holds something else"):
            await sessions.write("a", b"", b"log", 60.0, anew=True)
    await sessions.aclose()
    with pytest.raises(BadSettings, match="holds something else"):
        build_disk(Settings(cache_dir=tmp_path))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", [["doctor"], ["cache", "stats"], ["cache", "purge", "--yes"], ["serve"]])
@pytest.mark.parametrize("fill", FOREIGN)
def test_no_command_touches_a_folder_that_holds_something_else(
    tmp_path: Path, fill: Callable[[Path], None], command: list[str]
) -> None:
    fill(tmp_path)
    before = snapshot(tmp_path)
    result = CliRunner().invoke(cli, [*command, "--cache-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds something else" in result.output + str(result.exception)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", [["doctor"], ["cache", "stats"], ["cache", "purge", "--yes"]])
def test_asking_about_a_folder_that_is_not_there_makes_none(tmp_path: Path, command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--cache-dir", str(tmp_path / "new")])
    assert (result.exit_code, list(tmp_path.iterdir())) == (0, [])


async def test_asking_about_a_cache_changes_nothing_while_it_is_in_use_and_after(tmp_path: Path) -> None:
    store = build(tmp_path)
    await store.put(KEY, LARGE)
    expected = await store.stats()
    names = names_in(tmp_path)
    assert {MARKER, INDEX, LOCK, VALUES, f"{INDEX}-wal"} <= names
    assert all(name.startswith("labeling-ground-") for name in names)
    found = look(tmp_path, 1 << 20)
    assert (found.entries, found.bytes_by_kind) == (1, expected.bytes_by_kind)
    assert names_in(tmp_path) == names
    await store.aclose()
    before = snapshot(tmp_path)
    assert look(tmp_path, 1 << 20) == replace(expected, evictions={})
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["doctor", "--cache-dir", str(tmp_path)])
    assert (result.exit_code, "1 entries" in result.output) == (0, True)
    assert snapshot(tmp_path) == before


async def test_what_comes_into_the_folder_later_is_left_alone(tmp_path: Path) -> None:
    """Also where the index is thrown away, and where the folder is a mounted file system of its own."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".directory").write_bytes(b"a file manager's")
    store = build(tmp_path)
    await store.put(KEY, LARGE)
    await store.aclose()
    somebody_s_objects(tmp_path)
    (tmp_path / INDEX).write_bytes(b"no database" * 1000)
    store = build(tmp_path)
    assert await store.get(KEY) is None
    await store.put(KEY, LARGE)
    assert await store.get(KEY) == LARGE
    await store.aclose()
    assert (tmp_path / "objects" / "ab" / ("0" * 38)).read_bytes() == b"precious"
    assert (tmp_path / "lost+found").is_dir()


def earlier_release(folder: Path) -> Path:
    """A folder as releases before the marker left it; returns a value's path."""
    value = folder / "objects" / "ab" / f"{'ab' * 20}-01234567.bin"
    value.parent.mkdir(parents=True)
    value.write_bytes(b"value")
    (folder / "lock.sqlite3").touch()
    with closing(sqlite3.connect(folder / "index.sqlite3")) as db:
        tables = (
            "CREATE TABLE entries (x); CREATE TABLE inline (x); CREATE TABLE totals (x); CREATE TABLE progress (x);"
        )
        db.executescript(f"{tables} PRAGMA user_version = 1;")
    with closing(sqlite3.connect(folder / "sessions.sqlite3")) as db:
        db.executescript("CREATE TABLE kept (x);")
    return value


async def test_a_folder_of_an_earlier_release_is_known_by_its_index_and_what_that_release_wrote_goes(
    tmp_path: Path,
) -> None:
    earlier_release(tmp_path)
    assert look(tmp_path, 1).entries == 0
    assert (tmp_path / "index.sqlite3").exists(), "looking removes nothing"
    store = build(tmp_path)
    await store.put(KEY, LARGE)
    await store.aclose()
    assert all(name.startswith("labeling-ground-") for name in names_in(tmp_path))


async def test_of_an_earlier_release_s_folder_only_its_own_files_go(tmp_path: Path) -> None:
    value = earlier_release(tmp_path)
    somebody_s = value.with_name("0" * 38)
    somebody_s.write_bytes(b"precious")
    store = build(tmp_path)
    await store.open()
    await store.aclose()
    assert not value.exists()
    assert somebody_s.read_bytes() == b"precious"
