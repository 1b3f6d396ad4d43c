"""States that all servers share, in Redis."""

from redis.exceptions import NoPermissionError

from labeling_ground.cache.redis.connect import RedisConnection
from labeling_ground.cache.redis.script import Script
from labeling_ground.cache.state_store import VERSION_BYTES, VersionedState
from labeling_ground.errors import StoreFailed, StoreFull

# What lies there is the version and then the value. A script that has written something is not stopped for want of
# memory: after a command that takes none, a server that is full and evicts nothing takes these few hundred bytes too.
_REPLACE = Script(f"""
redis.call('pexpire', KEYS[1], ARGV[3])
local kept = redis.call('get', KEYS[1])
if kept and string.sub(kept, 1, {VERSION_BYTES}) ~= ARGV[1] then return kept end
redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3])
return false
""")

# A stream in which each server says now and then that it is there. The places tell by Redis' clock when that was; what
# is older than that counts is trimmed. As with the notices of purges, the first trimming takes nothing away, and asking
# for no time of its own takes no further right.
_MEET = Script("""
redis.call('xtrim', KEYS[1], 'MINID', 0)
local place = redis.call('xadd', KEYS[1], '*', 'server', ARGV[1])
local oldest = math.max(0, string.match(place, '^%d+') - ARGV[2])
redis.call('xtrim', KEYS[1], 'MINID', string.format('%d', oldest))
redis.call('pexpire', KEYS[1], ARGV[2])
local seen, count = {}, 0
for _, entry in ipairs(redis.call('xrange', KEYS[1], '-', '+')) do
  local server = entry[2][2]
  if not seen[server] then seen[server] = true; count = count + 1 end
end
return count
""")

_LEAVE = Script("""
for _, entry in ipairs(redis.call('xrange', KEYS[1], '-', '+')) do
  if entry[2][2] == ARGV[1] then redis.call('xdel', KEYS[1], entry[1]) end
end
return 1
""")


class RedisStateStore:
    """States under names of their own (``lg.session:…``), which no purge touches and which expire by themselves.

    Args:
        redis: a tier's connection, which its owner closes.
    """

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def load(self, name: str) -> VersionedState | None:
        """See ``StateStore``."""
        kept: bytes | None = await self._redis.execute("GET", self._name(name))
        return None if kept is None else _kept(kept)

    async def save(self, name: str, new: VersionedState, seen: bytes, idle_s: float) -> VersionedState | None:
        """See ``StateStore``. A server that is full takes it nevertheless, unless it needs a larger value's room."""
        milliseconds = max(1, round(idle_s * 1000))
        try:
            other: bytes | None = await _REPLACE.run(
                self._redis, [self._name(name)], seen, new.version + new.value, milliseconds
            )
        except StoreFull:
            return None
        return new if other is None else _kept(other)

    async def meet(self, server: str, present_s: float) -> tuple[int, str]:
        """See ``StateStore``. What keeps the states are the primaries, each of which names itself anew at its start."""
        present = await _MEET.run(self._redis, [self._redis.names.ours("servers")], server, round(present_s * 1000))
        try:
            runs = sorted(str(info.get("run_id")) for info in await self._redis.each("INFO"))
        except StoreFailed as error:
            if not isinstance(error.__cause__, NoPermissionError):
                raise
            runs = []
        return int(present) - 1, " ".join(runs)

    async def leave(self, server: str) -> None:
        """See ``StateStore``."""
        await _LEAVE.run(self._redis, [self._redis.names.ours("servers")], server)

    async def sweep(self) -> None:
        """Nothing: Redis deletes what has expired by itself."""

    async def aclose(self) -> None:
        """Nothing: the connection is its owner's."""

    def _name(self, name: str) -> bytes:
        return self._redis.names.ours(f"session:{name}")


def _kept(value: bytes) -> VersionedState:
    return VersionedState(value[:VERSION_BYTES], value[VERSION_BYTES:])
