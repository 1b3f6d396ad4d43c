"""A host of model files for every test, and no proxy in between."""

import os
from collections.abc import Iterator

import pytest
from tests.models.weights_server import WeightsServer, weights_server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with weights_server() as running:
        yield running
