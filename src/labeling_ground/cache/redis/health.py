"""What an operator should know about a Redis server before trusting it with the cache."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labeling_ground.cache.redis.connect import RedisConnection

_OLDEST = (6, 2)
"""The first version with ``GETEX``, which reads and restarts the idle time at once."""
_LEAST = 32 << 20
"""An eighth of this is 4 MiB: the embedding of one image, unrounded."""
_SET = "Set 'maxmemory-policy volatile-ttl'."
_POLICIES = {
    "volatile-ttl": "",
    "volatile-lru": "",
    "noeviction": f"It evicts nothing: once it is full, nothing new is kept until something has expired. {_SET}",
    "allkeys-random": f"It evicts by chance, also what is in use, and the log of purges. {_SET}",
    "volatile-random": f"It evicts by chance, also what is in use. {_SET}",
    "allkeys-lfu": f"It keeps what was used often, and in labeling that is what is finished. {_SET}",
    "volatile-lfu": f"It keeps what was used often, and in labeling that is what is finished. {_SET}",
    "allkeys-lru": f"It may evict the log of purges as well. {_SET}",
}


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to put right. ``fatal``: the tier does not work with it."""

    fatal: bool
    text: str


def judge(info: Mapping[str, Any], *, as_cluster: bool) -> list[Remark]:
    """What is wrong with one server, by its own ``INFO``.

    Args:
        info: the answer, as the driver reads it.
        as_cluster: whether the setting calls it a cluster.
    """
    found = []
    version = str(info.get("redis_version", ""))
    if _numbers(version) < _OLDEST:
        found.append(Remark(True, f"Redis {version} is too old: it takes 6.2, or any Valkey."))
    if info.get("role") == "slave":
        found.append(
            Remark(True, "It is a replica and takes no writes. Name the primary in redis_url, or the sentinels.")
        )
    if info.get("cluster_enabled") and not as_cluster:
        found.append(Remark(True, "It is a node of a cluster: begin redis_url with redis+cluster://."))
    memory, policy = int(info.get("maxmemory", 0)), str(info.get("maxmemory_policy", ""))
    if memory == 0:
        found.append(
            Remark(False, f"It has no maxmemory and grows until the machine has no memory left. Set one. {_SET}")
        )
        return found
    if memory < _LEAST:
        found.append(
            Remark(
                False,
                f"Its maxmemory is {memory / 2**20:.0f} MiB. No entry above an eighth of it is kept, and an embedding "
                "has 2 to 4 MiB: it will evict nearly everything at once. Give it some GiB.",
            )
        )
    advice = _POLICIES.get(policy, f"Whether its policy {policy!r} suits a cache is not known. {_SET}")
    if advice:
        found.append(Remark(False, advice))
    return found


async def examine(connection: RedisConnection) -> tuple[str, list[Remark]]:
    """Connect, look at every primary, and where nothing is in the way write, read and delete a value.

    Returns a sentence on what was found, and what to put right, each thing once.

    Raises:
        StoreFailed: Redis is not there, or does not let us do our work. The sentence says what is wrong.
    """
    servers = await connection.each("INFO")
    remarks = {remark: None for info in servers for remark in judge(info, as_cluster=connection.is_cluster)}
    if connection.is_cluster:
        told = await connection.execute_at((await connection.primaries())[0], "CLUSTER INFO")
        state = dict(told).get("cluster_state", "unknown")
        if state != "ok":
            remarks[Remark(True, f"The cluster's state is {state!r}: some of its slots have no server.")] = None
    first = servers[0]
    name = f"Valkey {first['valkey_version']}" if "valkey_version" in first else f"Redis {first.get('redis_version')}"
    memory = sum(int(info.get("maxmemory", 0)) for info in servers)
    used = sum(int(info.get("used_memory", 0)) for info in servers)
    text = (
        f"{connection.address}: {name}, {len(servers)} primar{'y' if len(servers) == 1 else 'ies'}, "
        f"{used / 2**20:.0f} MiB of {f'{memory / 2**20:.0f} MiB' if memory else 'no limit'} used, "
        f"policy {first.get('maxmemory_policy', 'not known')}"
    )
    if not any(remark.fatal for remark in remarks):
        text += f"; a small read takes {await probe(connection) * 1e3:.1f} ms"
    return text, list(remarks)


async def probe(connection: RedisConnection) -> float:
    """Write, read and delete a small value; seconds that reading it took.

    Raises:
        StoreFailed: Redis is not there, or does not let us do that.
        StoreFull: Redis has no room and makes none.
    """
    name = connection.names.name_for("v1/doctor/probe/image", "probe")
    await connection.execute("SET", name, b"probe", "PX", 1000)
    started = time.perf_counter()
    await connection.execute("GETEX", name, "PX", 1000)
    seconds = time.perf_counter() - started
    await connection.execute("UNLINK", name)
    return seconds


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
