"""Scripts that run at the server, in one step."""

import hashlib
from typing import Any

from redis.exceptions import NoScriptError

from labeling_ground.cache.redis.connect import Argument, RedisConnection
from labeling_ground.errors import StoreFailed


class Script:
    """A script that Redis knows by its digest, and is sent only where it does not know it yet."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, redis: RedisConnection, keys: list[bytes], *arguments: Argument) -> Any:
        """Its answer. All keys must lie in one slot.

        Raises:
            StoreFailed: Redis did not answer, or the script failed.
        """
        try:
            return await redis.execute("EVALSHA", self._digest, len(keys), *keys, *arguments)
        except StoreFailed as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
            return await redis.execute("EVAL", self._source, len(keys), *keys, *arguments)
