"""What ``doctor`` says about a Redis."""

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner
from tests.doubles import LONG_S
from tests.redis_servers import Cluster, Server, program, serving

from labeling_ground.cache.redis.connect import connect
from labeling_ground.cache.redis.health import examine, judge
from labeling_ground.cli import cli
from labeling_ground.errors import StoreFailed

GOOD = {
    "redis_version": "7.2.4",
    "role": "master",
    "cluster_enabled": 0,
    "maxmemory": 4 << 30,
    "maxmemory_policy": "volatile-ttl",
}


def said(as_cluster: bool = False, **info: Any) -> list[tuple[bool, str]]:
    return [(remark.fatal, remark.text) for remark in judge(GOOD | info, as_cluster=as_cluster)]


def test_a_server_that_is_set_up_well_gets_no_remark() -> None:
    assert said() == []
    assert said(maxmemory_policy="volatile-lru") == []
    assert said(redis_version="6.2.14") == []
    assert said(redis_version="8.2.3", cluster_enabled=1, as_cluster=True) == []


@pytest.mark.parametrize(
    ("info", "fatal", "words"),
    [
        ({"redis_version": "6.0.16"}, True, "6.2"),
        ({"redis_version": "5"}, True, "6.2"),
        ({"role": "slave"}, True, "primary"),
        ({"cluster_enabled": 1}, True, r"redis\+cluster://"),
        ({"maxmemory": 0}, False, "no maxmemory"),
        ({"maxmemory": 16 << 20}, False, "nearly everything"),
        ({"maxmemory_policy": "noeviction"}, False, "evicts nothing"),
        ({"maxmemory_policy": "allkeys-random"}, False, "by chance"),
        ({"maxmemory_policy": "volatile-random"}, False, "by chance"),
        ({"maxmemory_policy": "allkeys-lfu"}, False, "finished"),
        ({"maxmemory_policy": "allkeys-lru"}, False, "log of purges"),
        ({"maxmemory_policy": "volatile-lrm"}, False, "not known"),
    ],
)
def test_each_fault_gets_a_sentence_on_what_to_do(info: dict[str, Any], fatal: bool, words: str) -> None:
    [(is_fatal, text)] = said(**info)
    assert is_fatal is fatal
    assert re.search(words, text)


@pytest.mark.anyio
async def test_a_cluster_is_looked_at_as_a_whole_and_nothing_is_left_behind(redis_cluster: tuple[Cluster, str]) -> None:
    cluster, url = redis_cluster
    for server in cluster.servers:
        server.ask("FLUSHALL")
    connection = connect(url, timeout_s=LONG_S)
    text, remarks = await examine(connection)
    await connection.aclose()
    assert "3 primaries" in text
    assert "a small read takes" in text
    assert len(remarks) == 1, "each thing once"
    assert "no maxmemory" in remarks[0].text
    assert [server.ask("DBSIZE") for server in cluster.servers] == [0, 0, 0]


@pytest.mark.anyio
async def test_a_cluster_that_is_none_and_a_node_that_is_of_one(
    valkey: tuple[Server, str], redis_cluster: tuple[Cluster, str]
) -> None:
    connection = connect(valkey[1].replace("redis://", "redis+cluster://").removesuffix("/0"), timeout_s=LONG_S)
    with pytest.raises(StoreFailed, match=r"[Cc]luster"):
        await examine(connection)
    await connection.aclose()
    connection = connect(redis_cluster[0].servers[0].url, timeout_s=LONG_S)
    _, remarks = await examine(connection)
    await connection.aclose()
    assert [remark.text for remark in remarks if remark.fatal] == [
        "It is a node of a cluster: begin redis_url with redis+cluster://."
    ]


def finding(url: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> tuple[int, dict[str, Any]]:
    monkeypatch.setenv("LABELING_GROUND_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("LABELING_GROUND_REDIS_TIMEOUT_S", str(LONG_S))
    if url is not None:
        monkeypatch.setenv("LABELING_GROUND_REDIS_URL", url)
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    [found] = [each for each in json.loads(result.stdout)["findings"] if each["name"] == "redis tier"]
    assert "geheim" not in result.output
    return result.exit_code, found


def test_the_command_advises_and_does_not_fail_where_the_server_would_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with serving(program(), "--maxmemory", "100mb", "--maxmemory-policy", "noeviction") as server:
        code, found = finding(server.url, monkeypatch, tmp_path)
    assert (code, found["ok"]) == (0, True)
    assert "Valkey" in found["text"]
    assert "100 MiB" in found["text"]
    [advice] = found["advice"]
    assert "evicts nothing" in advice


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:geheim@127.0.0.1:1/0", "127.0.0.1:1"),
        ("redis+sentinel://:geheim@127.0.0.1:1/lg", "failed"),
        ("http://:geheim@127.0.0.1:1", "redis_url cannot be used"),
    ],
)
def test_the_command_fails_where_redis_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, url: str, words: str
) -> None:
    code, found = finding(url, monkeypatch, tmp_path)
    assert (code, found["ok"]) == (1, False)
    assert words in found["text"]


def test_the_command_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    code, found = finding(None, monkeypatch, tmp_path)
    assert (code, found["ok"]) == (0, True)
    assert "not set" in found["text"]
