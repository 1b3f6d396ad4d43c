"""Which tiers there are, and in which order, follows from the settings."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ByteSize, SecretStr
from tests.doubles import LONG_S, sealed
from tests.redis_servers import Server

from labeling_ground import key as keys
from labeling_ground.cache.redis.store import RedisStore
from labeling_ground.errors import BadSettings
from labeling_ground.settings import Settings
from labeling_ground.types import ModelVersion
from labeling_ground.wiring import build_redis, build_store

pytestmark = pytest.mark.anyio

URL = SecretStr("redis://:geheim@127.0.0.1:1/0")


async def names(settings: Settings) -> list[str]:
    store = build_store(settings)
    await store.aclose()
    return [store.memory.name, *(tier.store.name for tier in store.lower)]


async def test_the_disk_is_behind_memory_and_redis_behind_both(tmp_path: Path) -> None:
    assert await names(Settings(cache_dir=tmp_path)) == ["memory", "disk"]
    assert await names(Settings(cache_dir=tmp_path, redis_url=URL)) == ["memory", "redis"], "no disk unless asked for"
    both = Settings(cache_dir=tmp_path, redis_url=URL, disk_bytes=ByteSize(1 << 20))
    assert await names(both) == ["memory", "disk", "redis"]
    assert await names(Settings(cache_dir=tmp_path, disk_bytes=ByteSize(0))) == ["memory"]


def test_the_environment_says_it_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELING_GROUND_REDIS_URL", "unix:///run/redis.sock")
    settings = Settings()
    assert settings.disk_bytes == 0
    monkeypatch.setenv("LABELING_GROUND_DISK_BYTES", "3MiB")
    assert Settings().disk_bytes == 3 << 20


def test_no_setting_shows_the_password() -> None:
    settings = Settings(redis_url=URL)
    for told in (repr(settings), str(settings), settings.model_dump_json()):
        assert "geheim" not in told


async def test_a_url_that_cannot_be_used_is_refused_at_start() -> None:
    with pytest.raises(BadSettings, match="redis_url"):
        build_store(Settings(redis_url=SecretStr("redis:/oops")))
    with pytest.raises(BadSettings, match="redis_prefix"):
        build_store(Settings(redis_url=URL, redis_prefix="a b"))


async def test_a_notice_is_kept_for_as_long_as_an_entry_may_lie_on_a_disk() -> None:
    store = build_redis(Settings(redis_url=URL, idle_s=86_400.0))
    assert isinstance(store, RedisStore)
    assert store.notices is not None
    assert store.notices.log_s >= 86_400.0
    await store.aclose()


@pytest.mark.parametrize("kind", ["image", "embedding"])
async def test_by_default_no_key_goes_before_the_whole_idle_time_however_cheap(
    valkey: tuple[Server, str], kind: str
) -> None:
    """After a write, a read and a touch alike; with ``cost``, half the time is what is chosen."""
    server, url = valkey
    server.ask("FLUSHALL")
    names = keys.ImageKeys(keys.PUBLIC, "0" * 64)
    key = names.image if kind == "image" else names.embedding(ModelVersion("toy", "0" * 64))
    for redis_ttl, whole in ((None, True), ("cost", False)):
        chosen: dict[str, Any] = {} if redis_ttl is None else {"redis_ttl": redis_ttl}
        store = build_redis(Settings(redis_url=SecretStr(url), redis_timeout_s=LONG_S, **chosen))
        assert store is not None
        cheap = sealed(key, 1_000_000, cost=1e-6)
        for use in (store.put(key, cheap), store.get(key), store.touch(key)):
            await use
            left_s = server.ask("PTTL", store.connection.names.redis_key(key)) / 1000
            assert (left_s > 1800 - LONG_S) is whole
        await store.aclose()
        server.ask("FLUSHALL")
