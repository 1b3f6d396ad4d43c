"""Who else may have a session's next click follows from the settings."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.doubles import unkept
from tests.redis_servers import Server as Redis

from labeling_ground.cache.disk.folder import SESSIONS
from labeling_ground.errors import StoreFailed
from labeling_ground.service.sessions import Sessions
from labeling_ground.settings import Settings
from labeling_ground.types import Point
from labeling_ground.wiring import build_session_store, build_store

pytestmark = pytest.mark.anyio

TENANT, NAME, IMAGE = "public", "annotator-7", "0" * 64


@pytest.mark.parametrize(
    ("given", "refuses"),
    [
        ({"workers": 2}, True),
        ({"workers": 2, "other_servers": "none"}, True),  # the workers are there all the same
        ({"workers": 1, "other_servers": "some"}, True),
        ({"workers": 1}, False),
    ],
    ids=lambda value: "-".join(f"{name}-{given}" for name, given in value.items()) if isinstance(value, dict) else "",
)
async def test_a_click_that_is_not_kept_on_disk_is_refused_where_another_process_may_have_the_next_one(
    tmp_path: Path, given: dict[str, object], refuses: bool
) -> None:
    settings = Settings(cache_dir=tmp_path, **given)  # type: ignore[arg-type]
    store = build_store(settings)
    sessions = Sessions(
        most=9, idle_s=60.0, most_clicks=9, state_store=build_session_store(settings, store), patience_s=0.2
    )
    try:
        await sessions.open(TENANT, NAME, IMAGE, 64, 48, sessions.turn())
        with contextlib.closing(sqlite3.connect(tmp_path / SESSIONS, isolation_level=None)) as another:
            another.execute("BEGIN IMMEDIATE")  # nobody else can write
            if refuses:
                with pytest.raises(StoreFailed, match="was not made"):
                    await sessions.click(TENANT, NAME, [Point(20, 20, 1)])
            else:
                assert len((await sessions.click(TENANT, NAME, [Point(20, 20, 1)])).clicks) == 1
            another.execute("ROLLBACK")
        assert unkept(sessions) == (0 if refuses else 1)
    finally:
        await sessions.aclose()
        await store.aclose()


@pytest.mark.parametrize(("workers", "is_shared"), [(1, False), (2, True)])
async def test_workers_over_a_redis_know_that_they_are_several_whoever_is_there_yet(
    valkey: tuple[Redis, str], tmp_path: Path, workers: int, is_shared: bool
) -> None:
    settings = Settings(
        cache_dir=tmp_path, workers=workers, redis_url=SecretStr(valkey[1]), redis_prefix=f"alone{workers}"
    )
    store = build_store(settings)
    try:
        await store.open()
        sessions = build_session_store(settings, store)
        assert sessions is not None
        assert await sessions.meet("the first one") is not None
        assert sessions.is_shared is is_shared
    finally:
        await store.aclose()


async def test_what_one_worker_knows_of_a_session_is_there_for_all_again_after_the_folder_was_cleared(
    tmp_path: Path,
) -> None:
    """Also where another worker, which knows of less, is the first to come back to the file."""
    settings = Settings(cache_dir=tmp_path, workers=2)
    stores = [build_store(settings) for _ in range(2)]
    one, other = (
        Sessions(most=9, idle_s=60.0, most_clicks=9, state_store=build_session_store(settings, store))
        for store in stores
    )
    try:
        await one.open(TENANT, NAME, IMAGE, 64, 48, one.turn())
        assert (await other.look(TENANT, NAME)).image_id == IMAGE
        await one.open(TENANT, NAME, "1" * 64, 64, 48, one.turn())
        await one.click(TENANT, NAME, [Point(20, 20, 1)])
        for each in (one, other):
            await each.meet()
        for end in ("", "-wal", "-shm"):
            (tmp_path / f"{SESSIONS}{end}").unlink(missing_ok=True)
        for each in (other, one):
            await each.meet()
        clicked = await other.click(TENANT, NAME, [Point(30, 30, 1)])
        assert (clicked.image_id, len(clicked.clicks)) == ("1" * 64, 2)
    finally:
        for each in (one, other):
            await each.aclose()
        for store in stores:
            await store.aclose()
