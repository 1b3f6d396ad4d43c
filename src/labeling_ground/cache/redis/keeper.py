"""States that all servers share, in Redis."""

from labeling_ground.cache.keeper import VERSION_BYTES, Kept
from labeling_ground.cache.redis.connect import RedisConnection
from labeling_ground.cache.redis.script import Script
from labeling_ground.errors import StoreFull

# What lies there is the version and then the value.
_REPLACE = Script(f"""
local kept = redis.call('get', KEYS[1])
if kept and string.sub(kept, 1, {VERSION_BYTES}) ~= ARGV[1] then return kept end
redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3])
return false
""")


class RedisKeeper:
    """States under names of their own (``lg.session:…``), which no purge touches and which expire by themselves.

    Args:
        redis: a tier's connection, which its owner closes.
    """

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def load(self, name: str) -> Kept | None:
        """See ``Keeper``."""
        kept: bytes | None = await self._redis.execute("GET", self._name(name))
        return None if kept is None else _kept(kept)

    async def save(self, name: str, new: Kept, seen: bytes, idle_s: float) -> Kept | None:
        """See ``Keeper``. There is no room where the server is full and evicts nothing."""
        milliseconds = max(1, round(idle_s * 1000))
        try:
            other: bytes | None = await _REPLACE.run(
                self._redis, [self._name(name)], seen, new.version + new.value, milliseconds
            )
        except StoreFull:
            return None
        return new if other is None else _kept(other)

    async def sweep(self) -> None:
        """Nothing: Redis deletes what has expired by itself."""

    async def aclose(self) -> None:
        """Nothing: the connection is its owner's."""

    def _name(self, name: str) -> bytes:
        return self._redis.names.ours(f"session:{name}")


def _kept(value: bytes) -> Kept:
    return Kept(value[:VERSION_BYTES], value[VERSION_BYTES:])
