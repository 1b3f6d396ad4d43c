"""Leases in Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio.client import PubSub

from labeling_ground.cache.lease import Claim
from labeling_ground.cache.redis.connect import RedisConnection
from labeling_ground.cache.redis.script import Script
from labeling_ground.cache.tasks import stop
from labeling_ground.errors import StoreFailed, StoreFull
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Priority

_SUBSCRIBED_WITHIN_S = 0.1
"""Who listens waits no longer for the subscription: without it there is still the looking now and then."""
_AGAIN_S = 0.5
"""Pause before a subscription that broke is tried again."""

# A lease is a hash with the holder's token, and, where somebody waits, the class of the most urgent of them. All keys
# of a script are about one image: one slot. Nothing is written after a step that can fail, for Redis takes nothing
# back. A full server may refuse the mark: then who waits is not told, and looks again now and then.
_TAKE = Script("""
if redis.call('exists', KEYS[2]) == 1 then return 'stored' end
if redis.call('exists', KEYS[1]) == 1 then
  local before = redis.call('hget', KEYS[1], 'awaited')
  if not before or tonumber(ARGV[3]) < tonumber(before) then redis.pcall('hset', KEYS[1], 'awaited', ARGV[3]) end
  return 'taken'
end
redis.call('hset', KEYS[1], 'token', ARGV[1])
redis.call('pexpire', KEYS[1], ARGV[2])
return 'granted'
""")

_RENEW = Script("""
if redis.call('hget', KEYS[1], 'token') ~= ARGV[1] then return 0 end
return redis.call('pexpire', KEYS[1], ARGV[2])
""")

_RELEASE = Script("""
if redis.call('hget', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local awaited = redis.call('hget', KEYS[1], 'awaited')
redis.call('del', KEYS[1])
if awaited then redis.pcall('publish', ARGV[2], ARGV[3]) end
return 1
""")


class RedisLeases:
    """Leases beside the values of a Redis tier, in the same slot as these.

    One channel carries all notices, and only of leases that somebody waits for. It is subscribed to when the first one
    here waits, over a connection of its own, until nobody does.

    Args:
        redis: the tier's connection, which its owner closes.
        silence_s: after so many seconds without a notice the server is asked whether it is still there; or the
            subscription ends, if nobody listens any more.
        supervisor: counts subscriptions that broke.
    """

    def __init__(self, redis: RedisConnection, *, silence_s: float = 5.0, supervisor: Supervisor | None = None) -> None:
        self._supervisor = supervisor or Supervisor()
        self._redis = redis
        self._silence_s = silence_s
        self._channel = redis.names.ours("released")
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._subscribed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def take(self, key: str, token: str, seconds: float, priority: Priority = Priority.INTERACTIVE) -> Claim:
        """See ``Leases``."""
        names = [self._name(key), self._redis.names.redis_key(key)]
        try:
            answer: bytes = await _TAKE.run(self._redis, names, token, _milliseconds(seconds), int(priority))
        except StoreFull:
            return Claim.FULL
        return Claim(answer.decode())

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        """See ``Leases``."""
        return bool(await _RENEW.run(self._redis, [self._name(key)], token, _milliseconds(seconds)))

    async def awaited_as(self, key: str) -> Priority | None:
        """See ``Leases``."""
        awaited: bytes | None = await self._redis.execute("HGET", self._name(key), "awaited")
        return None if awaited is None else Priority(int(awaited))

    async def release(self, key: str, token: str) -> bool:
        """See ``Leases``."""
        return bool(await _RELEASE.run(self._redis, [self._name(key)], token, self._channel, key))

    @asynccontextmanager
    async def listen(self, key: str) -> AsyncIterator[asyncio.Event]:
        """See ``Leases``."""
        event = asyncio.Event()
        listeners = self._listeners.setdefault(key, set())
        listeners.add(event)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SUBSCRIBED_WITHIN_S):
                    await self._subscribed.wait()
            yield event
        finally:
            listeners.discard(event)
            if not listeners and self._listeners.get(key) is listeners:
                del self._listeners[key]

    async def aclose(self) -> None:
        """See ``Leases``."""
        if self._reader is not None:
            await stop(self._reader)

    def _name(self, key: str) -> bytes:
        return self._redis.names.name_for(key, "lease")

    async def _read(self) -> None:
        while self._listeners:
            if not await self._supervisor.attempt(
                "lease notices", self._listen_once
            ):  # meanwhile, each asker looks itself
                await asyncio.sleep(_AGAIN_S)

    async def _listen_once(self) -> None:
        subscription = self._redis.client.pubsub()
        try:
            await subscription.subscribe(self._channel)
            await self._hear(subscription)
        finally:
            self._subscribed.clear()
            with contextlib.suppress(Exception):
                await subscription.aclose()  # type: ignore[no-untyped-call]

    async def _hear(self, subscription: PubSub) -> None:
        """Pass notices on until nobody listens any more."""
        asked = False
        while True:
            message = await subscription.get_message(timeout=self._silence_s)
            if message is None:
                if not self._listeners:
                    return
                if asked:
                    raise StoreFailed("the server fell silent")
                await subscription.ping()
            elif message["type"] == "subscribe":
                self._subscribed.set()
            elif message["type"] == "message":
                for event in self._listeners.get(message["data"].decode(), ()):
                    event.set()
            asked = message is None


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
