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
