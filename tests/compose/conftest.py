"""The containers' tests: what needs none runs always, what needs them runs under ``make test_compose``."""

import os
from collections.abc import Iterator

import pytest
from bench.stack.containers import Stack, built

ENABLED = "LABELING_GROUND_TEST_COMPOSE"


@pytest.fixture(scope="session", params=["none", "own", "torchserve"])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The running containers, once with each of the engines that ``LABELING_GROUND_TEST_ENGINES`` names (all)."""
    if os.environ.get(ENABLED) != "1":
        pytest.skip(f"needs a container engine and many minutes: make test_compose ({ENABLED}=1)")
    wanted = os.environ.get("LABELING_GROUND_TEST_ENGINES", "none,own,torchserve").split(",")
    if request.param not in wanted:
        pytest.skip(f"LABELING_GROUND_TEST_ENGINES does not name {request.param}")
    running = built(str(request.param))
    try:
        running.up()
        yield running
    finally:
        running.down()
