"""The containers under test: a project, a port and image tags of their own, beside whatever else runs here.

The tests of ``tests/compose`` and the figures of ``bench.stack`` are taken from the same ones.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import zipfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore

ROOT = Path(__file__).parent.parent.parent
TAG = "test"
ARCHIVES = "LABELING_GROUND_TEST_ARCHIVES"
"""Environment: a folder with archives that were made before, which saves the minutes that making them takes."""


def run(*command: str, timeout: float = 60.0, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command in the project's root, to its end."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def must(*command: str, timeout: float = 60.0, **environment: str) -> str:
    """The same, and it must succeed; what it wrote to stdout."""
    done = run(*command, timeout=timeout, **environment)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bytes_moved(pid: int) -> int:
    """Bytes that have gone in and out of the network that a process lives in."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]]
    return sum(int(row[1]) + int(row[9]) for row in rows if row[0] != "lo:")


@dataclass
class Stack:
    """One set of running containers."""

    engines: str
    port: int = field(default_factory=free_port)
    knobs: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What the verbs of the Makefile get."""
        own = {
            "ENGINES": self.engines,
            "COMPOSE_PROJECT_NAME": f"labeling-ground-test-{self.engines}",
            "IMAGE_TAG": TAG,
            "PROXY_PORT": str(self.port),
            "ENCODE_DEADLINE_S": "60",
        }
        return own | self.knobs

    @property
    def url(self) -> str:
        """Where the proxy answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def services(self) -> list[str]:
        """The services that run."""
        return ["redis", "proxy"] if self.engines == "none" else ["redis", "gpu", "cpu", "proxy"]

    def make(self, *verbs: str, timeout: float = 600.0) -> "subprocess.CompletedProcess[str]":
        """One of the Makefile's verbs."""
        return run("make", *verbs, timeout=timeout, **self.environment)

    def up(self) -> None:
        """``make c_up``, from nothing."""
        self.down()
        done = self.make("c_up")
        assert done.returncode == 0, done.stderr

    def down(self) -> None:
        """Remove everything, the disk tier too."""
        project = f"label=com.docker.compose.project={self.environment['COMPOSE_PROJECT_NAME']}"
        self.make("c_down")
        for volume in must("docker", "volume", "ls", "-q", "--filter", project).split():
            must("docker", "volume", "rm", volume)

    def container(self, service: str) -> str:
        """The container's full id."""
        project = f"label=com.docker.compose.project={self.environment['COMPOSE_PROJECT_NAME']}"
        of = f"label=com.docker.compose.service={service}"
        return must("docker", "ps", "-aq", "--no-trunc", "--filter", project, "--filter", of)

    def inspect(self, service: str) -> Any:
        """All that the engine knows about it."""
        return json.loads(must("docker", "inspect", self.container(service)))[0]

    def execute(self, service: str, *command: str, timeout: float = 30.0) -> "subprocess.CompletedProcess[str]":
        """Run something inside a container."""
        return run("docker", "exec", self.container(service), *command, timeout=timeout)

    def redis(self, *command: str) -> str:
        """One command to Redis."""
        done = self.execute("redis", "redis-cli", *command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def crash(self, service: str) -> None:
        """Kill a container's first process, as the kernel would; its restart policy takes over."""
        os.kill(self.pid(service), signal.SIGKILL)

    def answers(self, service: str) -> bool:
        """Whether it passes its own health check at this moment."""
        found = self.inspect(service)
        if not found["State"]["Running"] or found["State"]["Paused"]:
            return False
        return self.execute(service, *found["Config"]["Healthcheck"]["Test"][1:]).returncode == 0

    def wait_for(self, service: str, seconds: float) -> float:
        """Until it passes its health check again; how long that took."""
        began = time.monotonic()
        while not self.answers(service):
            waited = time.monotonic() - began
            assert waited < seconds, f"{service} did not come back within {seconds:g} s:\n{self.log(service)}"
            time.sleep(0.1)
        return time.monotonic() - began

    def pid(self, service: str) -> int:
        """Its first process, as this machine numbers it."""
        return int(self.inspect(service)["State"]["Pid"])

    def bytes_of(self, service: str) -> int:
        """Bytes that the container has received and sent so far, over all its networks."""
        return bytes_moved(self.pid(service))

    def log(self, service: str, lines: int = 30) -> str:
        """The end of its log."""
        done = run("docker", "logs", "--tail", str(lines), self.container(service))
        return done.stdout + done.stderr


MODEL = "random-mobile-sam"
"""The architecture of MobileSAM with random weights: what is tested is not how good its masks are."""


@cache
def archives() -> Path:
    """Folder with the TorchServe archives, made with the commands of the README, or brought along (``ARCHIVES``)."""
    if ARCHIVES in os.environ:
        return Path(os.environ[ARCHIVES]).resolve()
    folder = ROOT / "out" / "compose"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    image, name = f"labeling-ground/sam-builder:{TAG}", f"labeling-ground-{TAG}-builder"
    arguments = ["--build-arg", "WEIGHTS=random", "--build-arg", "MODEL=mobile-sam"]
    must("docker", "build", "-t", image, "-f", "./segment_anything/Dockerfile-build", *arguments, ".", timeout=1200)
    run("docker", "rm", "-f", name)
    must("docker", "run", "-d", "--name", name, image)
    try:
        must("docker", "cp", f"{name}:/home/model-store", str(folder))
    finally:
        must("docker", "rm", "-f", name)
    return folder / "model-store"


@cache
def models() -> Path:
    """Folder with the model of those archives, as our own engine reads it."""
    folder = ROOT / "out" / "compose-models"
    shutil.rmtree(folder, ignore_errors=True)
    store = ModelStore(folder)
    for half in ("encode", "decode"):
        with zipfile.ZipFile(archives() / f"sam_vit_h_{half}.mar") as archive:
            for role, file in json.loads(archive.read("model.json"))["files"].items():
                path = Path(archive.extract(file["file"], folder / "extracted"))
                store.add(path, name=MODEL, role=Role(role), family="sam")
    must("chmod", "-R", "a+rX", str(store.folder))
    return store.folder


@cache
def built(engines: str) -> Stack:
    """A stack whose images were built from this checkout."""
    stack = Stack(engines)
    if engines == "torchserve":
        stack.knobs["ARCHIVES"] = str(archives())
    if engines == "own":
        stack.knobs |= {"MODEL": MODEL, "MODELS_DIR": str(models())}
    done = stack.make("build_all", timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return stack
