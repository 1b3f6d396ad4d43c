"""What one of several workers says of the whole server."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from labeling_ground.api.state import AppState
from labeling_ground.api.workers import health_of_all
from labeling_ground.peers import Peers

pytestmark = pytest.mark.anyio


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
