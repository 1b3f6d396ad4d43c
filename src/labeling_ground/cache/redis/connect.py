"""One way to talk to Redis, whether it is one server, a cluster, or servers that sentinels watch."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import exceptions as driver
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from labeling_ground.cache.redis.address import RedisAddress, Shape, parse
from labeling_ground.cache.redis.names import Names
from labeling_ground.errors import BadSettings, StoreFailed, StoreFull

_READ_SIZE = 256 * 1024
"""Bytes asked of the socket at once."""
_SPARE = 16
"""Connections beyond the bound on commands, for subscriptions (which hold one each) and those being closed."""
_CLIENT_NAME = "labeling-ground"

_ERRORS = (driver.RedisError, driver.RedisClusterException, OSError)

Argument = bytes | str | int | float


@dataclass(frozen=True, slots=True)
class Tls:
    """Files (PEM) for encrypted connections; what is not given is the system's, or not sent."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


class RedisConnection:
    """A bounded number of connections, with deadlines, and the same calls for every shape.

    Nothing connects before the first command. No command is tried twice: its caller decides what a failure means. The
    driver answers as it does with RESP2 and ``decode_responses=False``: strings are ``bytes``; ``OK`` of a ``SET`` is
    ``True`` and its ``nil`` is ``None``. RESP3 would bring push messages and a longer greeting, and nothing that is
    used here.

    Every call raises ``StoreFailed`` when Redis is not there, does not answer in time, or answers an error, and
    ``StoreFull`` (which is one) where it is out of memory and evicts nothing. No message holds a password.

    Belongs to the event loop that it is first used in.

    Args:
        address: where Redis is, and as whom to go there.
        names: how our keys are called.
        timeout_s: how long to wait for a free connection, for a connection to be made, and for an answer; each.
        connections: how many commands may be under way at once. In a cluster, over all its nodes.
        tls: files for ``rediss://``.
    """

    def __init__(
        self,
        address: RedisAddress,
        names: Names | None = None,
        *,
        timeout_s: float = 2.0,
        connections: int = 32,
        tls: Tls | None = None,
    ) -> None:
        self.address = address
        self.names = names or Names()
        self._timeout_s = timeout_s
        self.connections = connections
        self._tls = tls or Tls()
        self._slots = asyncio.Semaphore(connections)
        self._sentinel: Sentinel | None = None
        self._first = asyncio.Lock()
        self._known = False
        self.client = self._client()

    def __repr__(self) -> str:
        return f"<RedisConnection {self.address}>"

    @property
    def is_cluster(self) -> bool:
        """Whether keys of different images may lie on different servers."""
        return self.address.shape is Shape.CLUSTER

    def patient(self, timeout_s: float, connections: int = 1) -> "RedisConnection":
        """Another one to the same place, for commands that wait at the server (``XREAD BLOCK``). Close it too."""
        return RedisConnection(self.address, self.names, timeout_s=timeout_s, connections=connections, tls=self._tls)

    async def execute(self, *command: Argument) -> Any:
        """One command, sent to the server that has its key (``EVAL`` and the like too: their keys are found).

        Raises:
            StoreFailed: see the class.
        """
        return await self._do(command)

    async def each(self, *command: Argument) -> list[Any]:
        """One command without a key (``DBSIZE``, ``INFO memory``), sent to every primary; the answers in some order.

        Raises:
            StoreFailed: see the class.
        """
        return list(await asyncio.gather(*(self.execute_at(node, *command) for node in await self.primaries())))

    async def primaries(self) -> Sequence[ClusterNode | None]:
        """The servers that hold keys, as ``execute_at`` takes them.

        Raises:
            StoreFailed: see the class.
        """
        if not isinstance(self.client, RedisCluster):
            return [None]
        try:
            await self._know()
            await self.client.initialize()
        except _ERRORS as error:
            raise await self._failed(error) from error
        return self.client.get_primaries()

    async def execute_at(self, node: ClusterNode | None, *command: Argument) -> Any:
        """One command at one of the ``primaries``.

        Raises:
            StoreFailed: see the class.
        """
        return await self._do(command, node)

    async def together(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Many commands in one round trip a server, in no transaction, whatever slots they are about.

        Raises:
            StoreFailed: see the class; one of the commands failed. The others may have been carried out.
        """
        await self._acquire()
        try:
            await self._know()
            pipeline = self.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)  # queued, not sent
            return list(await pipeline.execute())
        except _ERRORS as error:
            raise await self._failed(error) from error
        finally:
            self._slots.release()

    def pubsub(self) -> PubSub:
        """A subscription, which holds a connection of its own until it is closed. In a cluster any node will do: what
        is published at one reaches the subscribers of all. Its errors are the driver's own."""
        return self.client.pubsub(ignore_subscribe_messages=True)

    async def aclose(self) -> None:
        """Close all connections. May be called twice."""
        try:
            await self.client.aclose()
        finally:
            if self._sentinel is not None:
                await self._sentinel.aclose()

    async def _do(self, command: Sequence[Argument], node: ClusterNode | None = None) -> Any:
        await self._acquire()
        try:
            await self._know()
            if node is None:
                return await self.client.execute_command(*command)
            return _of_one(await self.client.execute_command(*command, target_nodes=node))
        except _ERRORS as error:
            raise await self._failed(error) from error
        finally:
            self._slots.release()

    async def _know(self) -> None:
        """Learn a cluster's shape before the first command: the driver's own start is not made for many at once."""
        if self._known or not isinstance(self.client, RedisCluster):
            return
        async with self._first:
            if not self._known:
                await self.client.initialize()
                self._known = True

    async def _acquire(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise StoreFailed(f"All {self.connections} connections to Redis at {self.address} are busy.") from error

    def _client(self) -> Redis | RedisCluster:
        address = self.address
        common: dict[str, Any] = {
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "socket_read_size": _READ_SIZE,
            "client_name": _CLIENT_NAME,
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "max_connections": self.connections + _SPARE,
            "username": address.username,
            "password": address.password,
        }
        encrypted: dict[str, Any] = {}
        if address.tls:
            files = {"ca_certs": self._tls.ca_file, "certfile": self._tls.cert_file, "keyfile": self._tls.key_file}
            encrypted = {"ssl": True} | {f"ssl_{name}": str(file) for name, file in files.items() if file is not None}
        if address.path is not None:
            return Redis(unix_socket_path=address.path, db=address.db, **common)
        if address.shape is Shape.SINGLE:
            [(host, port)] = address.hosts
            return Redis(host=host, port=port, db=address.db, **common, **encrypted)
        if address.shape is Shape.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **common, **encrypted)
        watchers = {name: common[name] for name in ("socket_timeout", "socket_connect_timeout", "retry", "protocol")}
        watchers |= {"username": address.sentinel_username, "password": address.sentinel_password}
        self._sentinel = Sentinel(address.hosts, sentinel_kwargs=watchers | encrypted)  # type: ignore[no-untyped-call]
        master: Redis = self._sentinel.master_for(address.service, db=address.db, **common, **encrypted)
        return master

    async def _failed(self, error: Exception) -> StoreFailed:
        where = f"Redis at {self.address}"
        if isinstance(error, driver.ReadOnlyError) and isinstance(self.client, Redis):
            # Behind one address another server may be the primary by now, to which only a new connection leads.
            with contextlib.suppress(*_ERRORS):
                await self.client.connection_pool.disconnect(inuse_connections=False)
            return StoreFailed(f"{where} is a replica, which takes no writes; connections to it are made anew.")
        # Redis before 7 wraps what a script was refused up in words of its own.
        if isinstance(error, driver.OutOfMemoryError) or "-OOM command not allowed" in str(error):
            return StoreFull(f"{where} is full and evicts nothing: its maxmemory-policy should be volatile-ttl.")
        if isinstance(error, driver.AuthenticationError | driver.AuthorizationError):
            return StoreFailed(f"{where} does not accept the user or the password in redis_url.")
        if isinstance(error, driver.NoPermissionError):
            return StoreFailed(f"{where} does not let this user do that: {error}.")
        if isinstance(error, TimeoutError | driver.TimeoutError):
            return StoreFailed(f"{where} did not answer within {self._timeout_s:g} s.")
        return StoreFailed(f"{where} failed: {str(error).rstrip('.') or type(error).__name__}.")


def connect(
    url: str,
    *,
    prefix: str = "lg",
    timeout_s: float = 2.0,
    connections: int = 32,
    tls: Tls | None = None,
) -> RedisConnection:
    """From the setting ``redis_url`` to a connection; nothing connects yet.

    Raises:
        BadSettings: the URL, the prefix or a file cannot be used.
    """
    for file in (tls.ca_file, tls.cert_file, tls.key_file) if tls else ():
        if file is not None and not file.is_file():
            raise BadSettings(f"There is no file {file}, which a setting redis_…_file names.")
    return RedisConnection(parse(url), Names(prefix), timeout_s=timeout_s, connections=connections, tls=tls)


def _of_one(answer: Any) -> Any:
    """One node's answer, where the driver wraps it up as if several had been asked."""
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], dict):
        return next(iter(answer[0].values())), answer[1]  # SCAN: cursors by node, and keys
    return answer
