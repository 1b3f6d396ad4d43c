"""The containers' tests: what needs none runs always, what needs them runs under ``make test_compose``."""

import os
import shutil
from collections.abc import Iterator

import pytest
from bench.stack.containers import Stack, built, run

ENABLED = "LABELING_GROUND_TEST_COMPOSE"


BASES = ("python:3.11-slim-bookworm", "redis:7-bookworm")


def obstacle() -> str | None:
    """Why no container can be built and run here; ``None`` where one can."""
    if shutil.which("docker") is None:
        return "there is no container engine: docker is not on PATH"
    if (asked := run("docker", "info")).returncode != 0:
        return f"the container engine does not answer: {asked.stderr.strip()[-200:]}"
    for base in BASES:
        if (
            run("docker", "image", "inspect", base).returncode != 0
            and run("docker", "pull", base, timeout=600).returncode
        ):
            return f"the base image {base} is not here, and no registry has it for us"
    return None


@pytest.fixture(scope="session", params=["none", "own", "torchserve"])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The running containers, once with each of the engines that ``LABELING_GROUND_TEST_ENGINES`` names (all)."""
    if os.environ.get(ENABLED) != "1":
        pytest.skip(f"needs a container engine and many minutes: make test_compose ({ENABLED}=1)")
    if (why := obstacle()) is not None:  # also in strict mode: a machine that is itself a container has none
        pytest.skip(why)
    wanted = os.environ.get("LABELING_GROUND_TEST_ENGINES", "none,own,torchserve").split(",")
    if request.param not in wanted:
        pytest.skip(f"LABELING_GROUND_TEST_ENGINES does not name {request.param}")
    running = built(str(request.param))
    try:
        running.up()
        yield running
    finally:
        running.down()
