"""A real TorchServe on free ports, with the settings that we ship, and archives of a small SAM with random weights."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.needs import needs_program
from tests.ports import free_port

SETTINGS = Path(__file__).parents[2] / "segment_anything"
"""Where the settings are that we ship."""
PATIENCE_S = 180.0
"""A start takes 10 s on two idle cores, and several times that beside other work."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class TorchServe:
    """One that runs.

    Attributes:
        inference: its address for asks.
        management: its address for questions about itself.
        log: what it writes.
    """

    inference: str
    management: str
    log: Path

    def ask(self, model: str, body: bytes, media_type: str = "application/octet-stream") -> Answer:
        """Post a body to a model."""
        return post(f"{self.inference}/predictions/{model}", body, media_type)

    def about(self, model: str) -> dict[str, Any]:
        """What the management API says of a model."""
        with urllib.request.urlopen(f"{self.management}/models/{model}", timeout=60) as answer:
            (found,) = json.load(answer)
        return dict(found)


def post(url: str, body: bytes, media_type: str) -> Answer:
    """Post; a status of 4xx or 5xx is an answer, too."""
    request = urllib.request.Request(url, body, {"Content-Type": media_type}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return Answer(answer.status, _lower(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers), error.read())


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@contextlib.contextmanager
def torchserve(
    store: Path, half: str, models: Mapping[str, int], *, environment: Mapping[str, str] | None = None
) -> Iterator[TorchServe]:
    """Run TorchServe with the settings of ``config-{half}.properties`` until the block ends.

    Args:
        store: folder of the archives.
        half: ``encode`` or ``decode``.
        models: name of an archive, without ``.mar`` → workers that it should have. The archives of those that do not
            say so themselves have the largest of these numbers.
        environment: more of it, for the workers.
    """
    program = needs_program("torchserve")
    needs_program("java")
    inference, management, metrics, grpc_inference, grpc_management = (free_port() for _ in range(5))
    # Workers and their server meet at Unix sockets of fixed names in TEMP, and such a path is at most 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="ts-") as temporary:
        given = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TS_", "LABELING_GROUND_"))},
            "TEMP": temporary,
            "TMPDIR": temporary,
            "TS_INFERENCE_ADDRESS": f"http://127.0.0.1:{inference}",
            "TS_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{management}",
            "TS_METRICS_ADDRESS": f"http://127.0.0.1:{metrics}",
            "TS_GRPC_INFERENCE_PORT": str(grpc_inference),
            "TS_GRPC_MANAGEMENT_PORT": str(grpc_management),
            "TS_DEFAULT_WORKERS_PER_MODEL": str(max(models.values())),
            "TS_MODEL_STORE": str(store),
            "TS_LOAD_MODELS": ",".join(f"{model}.mar" for model in models),
            **(environment or {}),
        }
        command = [program, "--start", "--foreground", "--ncs"]
        command += ["--model-store", str(store)]
        command += ["--ts-config", str(SETTINGS / f"config-{half}.properties")]
        log = Path(temporary, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=temporary,
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            running = TorchServe(f"http://127.0.0.1:{inference}", f"http://127.0.0.1:{management}", log)
            _wait(running, process, models)
            yield running
        finally:
            assert _stop(process), f"processes of TorchServe (group {process.pid}) had to be killed"


def _wait(running: TorchServe, process: subprocess.Popen[bytes], models: Mapping[str, int]) -> None:
    """Until all workers are ready. ``/ping`` says Healthy before any of them is."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            states = {model: [worker["status"] for worker in running.about(model)["workers"]] for model in models}
            if states == {model: ["READY"] * workers for model, workers in models.items()}:
                return
        time.sleep(0.2)
    raise AssertionError(f"TorchServe did not start:\n{running.log.read_text(errors='replace')[-6000:]}")


def _stop(process: subprocess.Popen[bytes]) -> bool:
    """End the launcher, the Java process and the workers: to end the launcher alone leaves the others behind.

    Returns whether they all went when they were asked to.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and _members(process.pid):
        process.poll()
        time.sleep(0.1)
    gone = not _members(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    return gone


def _members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
