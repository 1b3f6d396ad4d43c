"""What one of several workers says of the whole server."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from tests.api.conftest import LONG_S, ToyBackend
from tests.doubles import failures_of, until

from labeling_ground.api.app import create_app
from labeling_ground.api.state import AppState
from labeling_ground.api.workers import health_of_all
from labeling_ground.errors import BackendFailed
from labeling_ground.peers import Peers
from labeling_ground.settings import Settings
from labeling_ground.wiring import build_parts

pytestmark = pytest.mark.anyio

ADMIN = {"X-API-Key": "the-admin-key"}
SECOND = "tests.api.test_api_models:second"


def health(status: str, **checks: str) -> dict[str, Any]:
    return {"status": status, "checks": checks}


async def of_all(folder: Path, own: dict[str, Any], other: dict[str, Any] | None, *, started: bool) -> dict[str, Any]:
    """What worker 0 says, of which ``other`` is what worker 1 says; ``None``: it is not there."""
    one, two = Peers(folder, 0, 2), Peers(folder, 1, 2)

    async def tell() -> dict[str, Any] | None:
        return other

    if started:
        two.note_start()
    if other is not None:
        await two.open({"health": tell})
    try:
        return await health_of_all(cast("AppState", SimpleNamespace(peers=one)), own)
    finally:
        await two.aclose()


async def test_a_server_is_starting_until_all_of_its_workers_have_started(tmp_path: Path) -> None:
    found = await of_all(tmp_path, health("ok", model="ok"), None, started=False)
    assert found == health("starting", model="ok", **{"worker 0": "ok", "worker 1": "starting"})
    found = await of_all(tmp_path, health("ok", model="ok"), health("starting", model="starting"), started=False)
    assert (found["status"], found["checks"]["model"]) == ("starting", "starting")


async def test_one_that_is_started_anew_degrades_the_server_and_does_not_stop_it(tmp_path: Path) -> None:
    for other in (None, health("starting", model="starting")):
        found = await of_all(tmp_path, health("ok", model="ok"), other, started=True)
        assert (found["status"], found["checks"]["worker 1"]) == ("degraded", "restarting")


async def test_what_one_of_them_finds_wrong_is_said_whichever_is_asked(tmp_path: Path) -> None:
    wrong = health("degraded", model="ok", redis="failing (breaker open)")
    for own, other in ((health("ok", model="ok", redis="ok"), wrong), (wrong, health("ok", model="ok", redis="ok"))):
        found = await of_all(tmp_path, own, other, started=True)
        assert (found["status"], found["checks"]["redis"]) == ("degraded", "failing (breaker open)")


async def test_a_server_of_which_no_worker_is_well_is_not_ready(tmp_path: Path) -> None:
    failing = health("failing", model="failing: it is broken")
    assert (await of_all(tmp_path, failing, failing, started=True))["status"] == "failing"
    assert (await of_all(tmp_path, failing, health("ok", model="ok"), started=True))["status"] == "degraded"


async def test_a_worker_starts_without_its_disk_and_takes_over_changed_settings_when_that_is_there(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    folder, peers = tmp_path / "cache", Peers(tmp_path / "peers", 0, 2)
    peers.share({"policy": "lru", "idle_s": 90.0})
    folder.write_text("a file in its place")
    state = build_parts(make_settings(workers=2, cache_dir=folder), backend=ToyBackend(), peers=peers)
    app = create_app(state)
    async with app.router.lifespan_context(app):
        assert state.runtime_settings.now.policy == "gds"
        assert failures_of(state.supervisor)["take over settings"] >= 1
        peers.share({"policy": "lru", "idle_s": 60.0})  # what is changed meanwhile is newer
        folder.unlink()
        await until(lambda: state.runtime_settings.now.policy == "lru")
        assert state.runtime_settings.now.idle_s == 60.0


# --- several models ----------------------------------------------------------------------------------------------


@pytest.fixture
async def workers(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> AsyncIterator[tuple[list[httpx.AsyncClient], list[AppState]]]:
    """Two workers of one server."""
    settings = make_settings(workers=2, models=(SECOND,), admin_key="the-admin-key", engine_failures=1)
    async with AsyncExitStack() as open_ones:
        clients, states = [], []
        for number in (0, 1):
            states.append(build_parts(settings, backend=ToyBackend(), peers=Peers(tmp_path / "peers", number, 2)))
            app = create_app(states[-1])
            await open_ones.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://server", timeout=LONG_S)
            clients.append(await open_ones.enter_async_context(client))
        yield clients, states


async def second_at(client: httpx.AsyncClient) -> tuple[str, bool]:
    """Its id, and whether it is loaded, as this worker says."""
    _, second = (await client.get("/v1/models")).json()["models"]
    return second["id"], second["loaded"]


async def test_a_model_that_one_worker_loads_is_known_by_its_id_to_all_and_listed_by_all(
    workers: tuple[list[httpx.AsyncClient], list[AppState]], make_image: Callable[..., bytes]
) -> None:
    """A factory's model has no id before it is loaded."""
    (one, two), states = workers
    assert [await second_at(client) for client in (one, two)] == [(SECOND, False)] * 2
    file = make_image()
    assert (await one.post(f"/v1/images?model={SECOND}", content=file)).status_code == 200
    assert "second" not in [served.model for served in states[1].models.loaded.values()]
    assert [await second_at(client) for client in (one, two)] == [("second", True)] * 2
    assert (await two.post("/v1/images?model=second", content=file)).json()["model"] == "second"
    backend = states[0].models.loaded[SECOND].predictor.backend
    assert isinstance(backend, ToyBackend)
    backend.fail_encode = BackendFailed("It is away.")
    assert (await one.post("/v1/images?model=second", content=make_image())).status_code == 503
    for client in (one, two):
        _, second = (await client.get("/v1/models")).json()["models"]
        assert second["failing"]["encoder"].endswith("calls failed: It is away.")


async def test_the_operator_loads_and_unloads_a_model_at_all_workers(
    workers: tuple[list[httpx.AsyncClient], list[AppState]],
) -> None:
    (one, two), states = workers
    loaded = await one.post(f"/v1/models/{SECOND}/load", headers=ADMIN)
    assert (loaded.status_code, loaded.json()["loaded"]) == (200, True)
    assert [SECOND in state.models.loaded for state in states] == [True, True]
    used = states[0].models.at_hand("second")
    assert used is not None
    refused = await two.post("/v1/models/second/unload", headers=ADMIN)
    assert (refused.status_code, refused.json()["detail"]) == (503, "second is in use. Try again in a moment.")
    assert await second_at(two) == ("second", True), "one of them has it still"
    states[0].models.leave(used)
    assert (await two.post("/v1/models/second/unload", headers=ADMIN)).json()["loaded"] is False
    assert [SECOND in state.models.loaded for state in states] == [False, False]
    assert [await second_at(client) for client in (one, two)] == [("second", False)] * 2


async def test_an_operator_hears_of_a_worker_that_did_not_do_it(
    workers: tuple[list[httpx.AsyncClient], list[AppState]],
) -> None:
    (one, _), states = workers
    assert states[0].peers is not None
    states[0].peers.count = 3  # the third one is not there
    answer = await one.post(f"/v1/models/{SECOND}/load", headers=ADMIN)
    assert (answer.status_code, answer.json()["detail"]) == (
        503,
        "Not all worker processes have loaded the model: one is being restarted. Try again.",
    )
