"""The containers under test: a project, a port and image tags of their own, beside whatever else runs here.

The tests of ``tests/compose`` and the figures of ``bench.stack`` are taken from the same ones.
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.ports import free_port

from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore

ROOT = Path(__file__).parent.parent.parent
TAG = os.environ.get("LABELING_GROUND_TEST_TAG", "test")
"""Tag of the images that are built and run here."""
_FIGURES = {"gpu": 8082, "cpu": 7082}
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

    @property
    def project(self) -> str:
        """What compose calls it."""
        return self.environment["COMPOSE_PROJECT_NAME"]

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
        self.make("c_down")
        project = f"label=com.docker.compose.project={self.project}"
        for volume in must("docker", "volume", "ls", "-q", "--filter", project).split():
            must("docker", "volume", "rm", volume)

    def container(self, service: str) -> str:
        """The container's full id."""
        project = f"label=com.docker.compose.project={self.project}"
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
        return _answers(self.container(service))

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

    def figures(self) -> Any:
        """What the proxy has counted (``/v1/cache``)."""
        with urllib.request.urlopen(f"{self.url}/v1/cache", timeout=10) as answer:
            return json.load(answer)

    def figures_url(self, service: str) -> str:
        """Where TorchServe tells its own figures. It is not published; this machine reaches all networks of its own."""
        [network] = self.inspect(service)["NetworkSettings"]["Networks"].values()
        return f"http://{network['IPAddress']}:{_FIGURES[service]}/metrics"

    @staticmethod
    def handler_ms(figures_url: str) -> float:
        """How long TorchServe's handler took for its last ask, as it says itself."""
        with urllib.request.urlopen(figures_url, timeout=10) as answer:
            found = re.search(r"^PredictionTime\{.*\} ([0-9.E+-]+)$", answer.read().decode(), re.MULTILINE)
        assert found is not None, "TorchServe tells no PredictionTime"
        return float(found[1])

    @contextmanager
    def more_proxies(self, count: int, *settings: str) -> Iterator[list[int]]:
        """So many proxies more, on the same Redis and engines, each with memory of its own: their ports.

        Args:
            count: how many.
            settings: ``LABELING_GROUND_…=…`` beside the proxy's own.
        """
        given = self.inspect("proxy")
        variables = [part for one in (*given["Config"]["Env"], *settings) for part in ("--env", one)]
        with ExitStack() as running:
            started = []
            for _ in range(count):
                name, port = f"{self.project}-proxy-{secrets.token_hex(4)}", free_port()
                published = ("--publish", f"127.0.0.1:{port}:8000", "--network", f"{self.project}_front")
                limits = ("--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp", "--init")
                must("docker", "create", "--name", name, *published, *limits, *variables, given["Config"]["Image"])
                running.callback(run, "docker", "rm", "--force", "--volumes", name)
                must("docker", "network", "connect", f"{self.project}_back", name)
                must("docker", "start", name)
                started.append((name, port))
            for name, _ in started:
                until = time.monotonic() + 120
                while not _answers(name, ("healthy", "8000", "/health/ready")):
                    assert time.monotonic() < until, must("docker", "logs", name)
                    time.sleep(0.2)
            yield [port for _, port in started]

    def rebuilt_s(self, *images: str) -> dict[str, float]:
        """How many seconds ``make build_…`` takes after one line of our code has changed, with all layers there."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("Makefile", ".env", "pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(ROOT / name, folder)
            for name in ("requirements", "src", "docker"):
                shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            (Path(folder) / "segment_anything").mkdir()
            for path in (ROOT / "segment_anything").glob("config-*.properties"):
                shutil.copy(path, Path(folder) / "segment_anything")
            with (Path(folder) / "src" / "labeling_ground" / "key.py").open("a", encoding="utf-8") as file:
                file.write(f"# {secrets.token_hex(8)}\n")
            environment = self.environment | {"IMAGE_TAG": f"{TAG}-changed"}
            seconds = {}
            for image in images:
                began = time.monotonic()
                must("make", "-C", folder, f"build_{image}", timeout=600, **environment)
                seconds[image] = time.monotonic() - began
            for image in must("docker", "images", "--quiet", "--filter", f"reference=*/*:{TAG}-changed").split():
                run("docker", "image", "rm", "--force", image)
        return seconds

    def log(self, service: str, lines: int = 30) -> str:
        """The end of its log."""
        done = run("docker", "logs", "--tail", str(lines), self.container(service))
        return done.stdout + done.stderr


def _answers(container: str, check: Sequence[str] = ()) -> bool:
    """Whether it runs and passes a check at this moment, its own if no other is given."""
    found = json.loads(must("docker", "inspect", container))[0]
    if not found["State"]["Running"] or found["State"]["Paused"]:
        return False
    command = check or found["Config"]["Healthcheck"]["Test"][1:]
    return run("docker", "exec", container, *command, timeout=30).returncode == 0


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
def archives_with_discs() -> Path:
    """The same with masks that are discs around the click.

    Random weights make noise: as run lengths it is a hundred times as large as any object, and all that comes after the
    decoder would be timed on that.
    """
    from bench.engines.models import add_discs  # brings torch, which only this needs

    folder = ROOT / "out" / "compose-discs"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(archives(), folder)
    decode = folder / "sam_vit_h_decode.mar"
    with tempfile.TemporaryDirectory() as unpacked:
        with zipfile.ZipFile(decode) as archive:
            archive.extractall(unpacked)
        for graph in Path(unpacked).glob("*.onnx"):
            add_discs(graph, graph)
        made = shutil.make_archive(str(decode), "zip", unpacked)
    Path(made).replace(decode)
    return folder


@cache
def models(archives: Path) -> Path:
    """Folder with the model of these archives, as our own engine reads it."""
    folder = ROOT / "out" / "compose-models"
    shutil.rmtree(folder, ignore_errors=True)
    store = ModelStore(folder)
    for half in ("encode", "decode"):
        with zipfile.ZipFile(archives / f"sam_vit_h_{half}.mar") as archive:
            for role, file in json.loads(archive.read("model.json"))["files"].items():
                path = Path(archive.extract(file["file"], folder / "extracted"))
                store.add(path, name=MODEL, role=Role(role), family="sam")
    must("chmod", "-R", "a+rX", str(store.folder))
    return store.folder


@cache
def built(engines: str, *, discs: bool = False) -> Stack:
    """A stack whose images were built from this checkout; see ``archives_with_discs``."""
    stack = Stack(engines)
    if engines != "none":
        made = archives_with_discs() if discs else archives()
        own = {"MODEL": MODEL, "MODELS_DIR": str(models(made))} if engines == "own" else {"ARCHIVES": str(made)}
        stack.knobs |= own
    done = stack.make("build_all", timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return stack
