"""``GET /v1/cache/history``: the last day, as the operator's page draws it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from labeling_ground.errors import BackendFailed

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio


async def columns(server: "Running", since: float = 0.0) -> dict[str, list[float]]:
    answer = await server.client.get(f"/v1/cache/history?since={since}")
    assert answer.status_code == 200
    found: dict[str, list[float]] = answer.json()["columns"]
    return found


async def test_asks_refusals_and_errors_come_into_the_history_and_a_restart_keeps_it(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    chosen: dict[str, Any] = {"history_every_s": 0.05, "history_s": 600.0}
    async with start(**chosen) as server:
        image_id = await server.send_image(make_image())
        for _ in range(2):
            await server.click(image_id, 20, 20)
        server.backend.fail_decode = BackendFailed("no")
        assert (await server.click(image_id, 21, 21)).status_code == 503
        history = server.app_state.history
        await server.until(lambda: (history.since(0)["miss"].sum(), history.since(0)["refused"].sum()) == (2, 1))
        seen = await columns(server)
        assert (sum(seen["hit"]), sum(seen["miss"]), sum(seen["refused"]), sum(seen["errors"])) == (1, 2, 1, 0)
        assert seen["at"] == sorted(seen["at"])
        assert min(seen["resident_bytes"]) > 1e6
        last = seen["at"][-1]
        assert all(at > last for at in (await columns(server, last))["at"])
    async with start(**chosen) as server:
        assert sum((await columns(server))["miss"]) == 2
