"""``make c_up``: start the containers and come back when the service is ready, or say what keeps it from that.

Needs Python 3.8 and nothing else: it runs with whatever Python the machine has. The compose command stands in the
environment variable ``COMPOSE``, the services to start are the arguments (none: all of them).

Exit codes: 0 ready, 1 not ready (the reason is the last thing said).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAIT_S = float(os.environ.get("WAIT_S", "").strip() or "420")
"""Longest time until all services are ready, the first encode included. ViT-H under TorchServe takes a minute and
a half when it is alone on two cores, three where others work beside it."""
CRASHES = 2
"""A container that was restarted so often is not going to come up."""
LOG_LINES = 15


class NotReadyError(Exception):
    """The sentence that the user reads."""


@dataclass(frozen=True)
class Container:
    """What the engine says about one container."""

    service: str
    identity: str
    state: str
    health: str
    started: str
    restarts: int
    exit_code: int
    error: str

    @property
    def ready(self) -> bool:
        """Running, and healthy where there is a check."""
        return self.state == "running" and self.health in ("healthy", "")

    @property
    def hopeless(self) -> bool:
        """Waiting any longer is of no use."""
        return self.state in ("exited", "dead") or self.health == "unhealthy" or self.restarts >= CRASHES

    def __str__(self) -> str:
        if self.state not in ("exited", "dead", "restarting") and not self.restarts:
            return self.health or self.state
        again = f", restarted {self.restarts} times" if self.restarts else ""
        return f"{self.state}{again}, exit code {self.exit_code}" + (f" ({self.error})" if self.error else "")


def say(text: str) -> None:
    """People read stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def output(command: list[str]) -> tuple[int, str, str]:
    """Run to the end: exit code, stdout, stderr."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr.strip()


def check_engine(compose: list[str]) -> None:
    """Is there a container engine, does it answer, and is compose there?

    Raises:
        NotReadyError: no.
    """
    for program in ("docker", compose[0]):
        if shutil.which(program) is None:
            raise NotReadyError(f"'{program}' is not installed; docs/compose.md says what is needed.")
    code, _, error = output(["docker", "version", "--format", "{{.Server.Version}}"])
    if code:
        raise NotReadyError(
            "The container engine does not answer. Is it running ('sudo systemctl start docker'), and may you use it "
            f"('sudo usermod -aG docker $USER', then log in again)? It said: {error}"
        )


def configuration(compose: list[str]) -> dict[str, str]:
    """Every service of the compose files with its image.

    Raises:
        NotReadyError: the files or a knob in them are wrong.
    """
    images = {}
    code, names, error = output([*compose, "config", "--services"])
    if code:
        raise NotReadyError(f"The compose files cannot be read: {error}")
    _, text, _ = output([*compose, "config"])
    service = ""
    for line in text.splitlines():
        word = line.strip()
        if word.rstrip(":") in names.split() and line.startswith("  ") and not line.startswith("   "):
            service = word.rstrip(":")
        elif word.startswith("image:") and service:
            images[service] = word.split(":", 1)[1].strip().strip("'\"")
    return images


def check_images(images: dict[str, str], services: list[str]) -> None:
    """Were the images built?

    Raises:
        NotReadyError: one is missing.
    """
    for service in services:
        if output(["docker", "image", "inspect", images[service]])[0]:
            raise NotReadyError(f"There is no image {images[service]} for '{service}' yet: run 'make build_all' first.")


def check_port() -> tuple[str, int]:
    """Address and port that the proxy is published at; nobody else may listen there.

    Raises:
        NotReadyError: somebody does.
    """
    address, port = knob("PROXY_ADDRESS"), int(knob("PROXY_PORT"))
    if any(one.service == "proxy" and one.state == "running" for one in look()):
        return address, port  # it is ours, from an earlier start
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise NotReadyError(
                f"Cannot publish the service at {address} port {port}: {error.strerror}. Stop what listens there, or "
                "choose another port: PROXY_PORT=9000 make c_up"
            ) from None
    return address, port


def knob(name: str) -> str:
    """A value as compose sees it: from the shell, else from ``.env``.

    Raises:
        NotReadyError: neither has it.
    """
    if name in os.environ:
        return os.environ[name]
    for line in Path(".env").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        if key == name:
            return value
    raise NotReadyError(f"The file .env names no {name}; docs/compose.md says what belongs there.")


def look() -> list[Container]:
    """The containers of this project, as far as there are any yet."""
    # Asked of the engine and not of compose, which takes most of a second for each answer.
    project = f"label=com.docker.compose.project={knob('COMPOSE_PROJECT_NAME')}"
    names = output(["docker", "ps", "--all", "--quiet", "--filter", project])[1].split()
    code, text, _ = output(["docker", "inspect", *names]) if names else (1, "", "")
    return [_container(one) for one in json.loads(text)] if code == 0 else []


def _container(found: dict[str, Any]) -> Container:
    state = found["State"]
    return Container(
        found["Config"]["Labels"]["com.docker.compose.service"],
        found["Id"],
        state["Status"],
        state.get("Health", {}).get("Status", ""),
        state["StartedAt"],
        found["RestartCount"],
        state["ExitCode"],
        state["Error"] or ("out of memory" if state["OOMKilled"] else ""),
    )


def last_words(container: Container) -> str:
    """The end of a container's log, and of its last health check."""
    done = subprocess.run(
        ["docker", "logs", "--tail", str(LOG_LINES), container.identity],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    return "\n".join(f"  {container.service} | {line}" for line in lines) or f"  {container.service} said nothing"


def wait(services: list[str], starting: subprocess.Popen[str], earlier: set[str]) -> None:
    """Until every service is ready.

    What was started at one of the times ``earlier`` is from before: it is judged only once compose has left it alone.

    Raises:
        NotReadyError: a service is not ready, and why.
    """
    began = time.monotonic()
    said: dict[str, str] = {}
    while True:
        ended = starting.poll()
        containers = [one for one in look() if one.service in services and (one.started not in earlier or ended == 0)]
        for one in containers:
            if said.get(one.service) != str(one):
                said[one.service] = str(one)
                say(f"  {one.service:8} {one}  ({time.monotonic() - began:.0f} s)")
        if ended == 0 and {one.service for one in containers if one.ready} == set(services):
            return
        for one in containers:
            if one.hopeless:
                raise NotReadyError(f"'{one.service}' is not ready: {one}. Its last words:\n{last_words(one)}")
        if ended:
            error = starting.stderr.read().strip() if starting.stderr else ""
            raise NotReadyError(f"The containers could not be started:\n{error}")
        if time.monotonic() - began > WAIT_S:
            late = [one for one in containers if not one.ready]
            words = "\n".join(last_words(one) for one in late)
            names = ", ".join(f"'{one.service}' ({one})" for one in late) or "compose has not started them all"
            raise NotReadyError(f"Not ready after {WAIT_S:.0f} s: {names}. Last words:\n{words}")
        time.sleep(0.5)


def start(compose: list[str], wanted: list[str]) -> str:
    """Check, start, wait; the address of the running service.

    Raises:
        NotReadyError: what is in the way.
    """
    check_engine(compose)
    images = configuration(compose)
    services = wanted or sorted(images)
    check_images(images, services)
    address, port = check_port()
    earlier = {one.started for one in look()}
    command = [*compose, "up", "-d", "--no-build", *(["--no-deps", *wanted] if wanted else ["--remove-orphans"])]
    starting = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        wait(services, starting, earlier)
    finally:
        if starting.poll() is None:
            starting.terminate()
    return f"http://{'localhost' if address in ('127.0.0.1', '0.0.0.0') else address}:{port}"


def main(arguments: list[str] | None = None) -> int:
    """Say how it went."""
    compose = shlex.split(os.environ.get("COMPOSE", "").strip() or "docker-compose")
    wanted = sys.argv[1:] if arguments is None else arguments
    try:
        url = start(compose, wanted)
    except NotReadyError as reason:
        say(str(reason))
        return 1
    say(f"ready: {url}   (try it at {url}/docs, read it at {url}/redoc; make c_logs, make c_ps, make c_down)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
