"""The server under test: a process of its own, started as a user starts it, on a cache of its own."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """User and system seconds that the process has used so far (Linux)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, field: str) -> float:
        """Resident memory in MB: ``VmRSS`` now, ``VmHWM`` at its peak (Linux)."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
        return int(kilobytes) * 1024 / 1e6

    def get(self, path: str) -> Any:
        """A JSON answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)


SERVE = ("labeling_ground", "serve", "--port", "0")
BARE = ("bench.serving.bare",)


@contextmanager
def running(command: tuple[str, ...] = SERVE, /, **settings: str) -> Iterator[Server]:
    """Start a module as a server on a free port with its defaults, wait until it is ready, stop it in the end."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "LABELING_GROUND_CACHE_DIR": f"{folder}/cache",
            **{f"LABELING_GROUND_{name.upper()}": value for name, value in settings.items()},
        }
        said = Path(folder) / "stderr"
        with said.open("wb") as stderr:  # a file: log lines cost what they cost a user, and nobody must read a pipe
            process = subprocess.Popen([sys.executable, "-m", *command], env=environment, stderr=stderr)
        try:
            port = _port(process, said)
            _wait(port)
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _port(process: "subprocess.Popen[bytes]", said: Path, seconds: float = 240.0) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", said.read_text(encoding="utf-8"))
        if found:
            return int(found.group(1))
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the server did not say where it listens: {said.read_text(encoding='utf-8')}")


def _wait(port: int, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise TimeoutError("the server did not become ready")
