"""Logs that all servers share, in Redis."""

import hashlib

from redis.exceptions import NoPermissionError

from labeling_ground.cache.redis.connect import RedisConnection
from labeling_ground.cache.redis.script import Script
from labeling_ground.errors import StoreFailed, StoreFull

# A script that has written something is not stopped for want of memory: after a command that takes none, a server that
# is full and evicts nothing takes these few hundred bytes too.
_WRITE = Script("""
redis.call('pexpire', KEYS[1], ARGV[5])
local log, size = redis.call('get', KEYS[1]) or '', tonumber(ARGV[1])
local anew = ARGV[4] == '1'
if redis.sha1hex(anew and log or string.sub(log, 1, size)) ~= ARGV[2] then return {0, log} end
if anew then
  redis.call('set', KEYS[1], ARGV[3], 'px', ARGV[5])
  return {1, ''}
end
redis.call('append', KEYS[1], ARGV[3])
redis.call('pexpire', KEYS[1], ARGV[5])
return {1, string.sub(log, size + 1) .. ARGV[3]}
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
    """Logs under names of their own (``lg.session.log:…``), which no purge touches and which expire by themselves.

    Args:
        redis: a tier's connection, which its owner closes.
    """

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def load(self, name: str) -> bytes:
        """See ``StateStore``."""
        return await self._redis.execute("GET", self._name(name)) or b""

    async def write(
        self, name: str, seen: bytes, new: bytes, idle_s: float, *, anew: bool
    ) -> tuple[bool, bytes] | None:
        """See ``StateStore``. A server that is full takes it nevertheless, unless it needs a larger value's room."""
        position = len(seen), hashlib.sha1(seen, usedforsecurity=False).hexdigest()
        milliseconds = max(1, round(idle_s * 1000))
        try:
            done, log = await _WRITE.run(self._redis, [self._name(name)], *position, new, int(anew), milliseconds)
        except StoreFull:
            return None
        if not done:
            return False, log
        return True, new if anew else seen + log

    async def meet(self, server: str, present_s: float) -> tuple[int, str]:
        """See ``StateStore``. What keeps the logs are the primaries, each of which names itself anew at its start."""
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
        return self._redis.names.ours(f"session.log:{name}")
