"""What every test can ask for."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.order import longest_first
from tests.redis_servers import _valkey, redis_cluster, redis_sentinels, system_redis, valkey, valkey_socket

# What properties say does not depend on how fast this machine is today.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Fixtures for all tests.
__all__ = ["_valkey", "redis_cluster", "redis_sentinels", "system_redis", "valkey", "valkey_socket"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the files, those with the most slow tests are begun first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = longest_first(items)


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, which is what the server runs on."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def names_of_servers() -> Iterator[None]:
    """What a test writes as the server's name where that does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABELING_GROUND_ALLOWED_HOSTS", "server,x")
        yield


@pytest.fixture(scope="session", autouse=True)
def no_models_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever models are installed here, a test that names none gets the weight-free engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABELING_GROUND_MODELS_DIR", str(tmp_path_factory.mktemp("models")))
        yield
