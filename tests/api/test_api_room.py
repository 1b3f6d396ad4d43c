"""A cache that is too small for an image says so, and does not ask for the image again."""

import shutil
from typing import Any

import pytest
from tests.api.conftest import Start
from tests.doubles import image_bytes

from labeling_ground import key as keys
from labeling_ground.errors import BadSettings
from labeling_ground.settings.machine import memory_of_this_machine

pytestmark = pytest.mark.anyio

FILE = image_bytes(1)
ID = keys.image_id(FILE)
TINY: dict[str, Any] = {"memory_bytes": 100, "disk_bytes": 0}
"""Room for nothing at all."""


async def no_room(answer: Any) -> None:
    assert answer.status_code == 507, answer.text
    problem = answer.json()
    assert problem["type"] == "urn:labeling-ground:problem:no-room"
    assert "memory_bytes" in problem["detail"]
    assert "does not help" in problem["detail"]
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("tiny", [TINY, TINY | {"disk_bytes": 100}], ids=["memory", "memory and disk"])
async def test_what_cannot_be_kept_is_said_at_the_upload_and_at_every_ask(start: Start, tiny: dict[str, Any]) -> None:
    async with start(**tiny) as server:
        await no_room(await server.client.post("/v1/images", content=FILE))
        await no_room(await server.click(ID, 20, 15))
        await no_room(await server.client.get(f"/v1/images/{ID}"))
        await no_room(await server.client.get(f"/v1/images/{ID}/embedding"))
        unseen = await server.client.get(f"/v1/images/{'0' * 64}")
        assert unseen.status_code == 404


async def test_an_image_that_was_taken_on_ahead_is_not_asked_for_again_either(start: Start) -> None:
    async with start(**TINY) as server:
        assert (await server.client.post("/v1/images?wait=false", content=FILE)).status_code == 202
        await server.until(lambda: server.backend.encodes == 1 and not server.app_state.predictor.flights._flights)
        await no_room(await server.client.get(f"/v1/images/{ID}"))


@pytest.mark.parametrize("room", [{"memory_bytes": 8 << 20, "disk_bytes": 0}, {"memory_bytes": 100}])
async def test_where_one_tier_has_room_all_is_well(start: Start, room: dict[str, Any]) -> None:
    async with start(**room) as server:
        assert await server.send_image(FILE) == ID
        assert (await server.click(ID, 20, 15)).status_code == 200


async def test_a_policy_that_makes_no_room_says_so_when_it_is_full(start: Start) -> None:
    async with start(memory_bytes=200_000, disk_bytes=0, policy="idle") as server:
        statuses = []
        for seed in range(200):
            statuses.append((await server.client.post("/v1/images", content=image_bytes(seed))).status_code)
            if statuses[-1] != 200:
                break
        assert set(statuses[:-1]) == {200}
        assert statuses[-1] == 507


async def test_other_budgets_are_looked_at_while_the_server_runs(start: Start) -> None:
    async with start(admin_key="root") as server:
        answer = await server.client.put(
            "/v1/cache/settings",
            json={"memory_bytes": memory_of_this_machine() + 1},
            headers={"Authorization": "Bearer root"},
        )
        assert answer.status_code == 422
        assert "this machine" in answer.json()["detail"]


async def test_a_disk_budget_beyond_what_is_free_is_said_at_start_and_when_it_is_changed(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 100 << 20))
    async with start(real_engine=True, admin_key="root", disk_bytes=512 << 20) as server:
        assert "disk_bytes is 512 MiB" in caplog.text
        assert "has 100 MiB free" in caplog.text
        await server.app_state.runtime_settings.change(disk_bytes=64 << 20)
        assert caplog.text.count("100 MiB free") == 1
        await server.app_state.runtime_settings.change(disk_bytes=1 << 30)
        assert "disk_bytes is 1024 MiB" in caplog.text


async def test_with_more_room_it_is_asked_for_again(start: Start) -> None:
    async with start(**TINY, admin_key="root") as server:
        await no_room(await server.client.post("/v1/images", content=FILE))
        await server.app_state.runtime_settings.change(memory_bytes=8 << 20)
        assert (await server.click(ID, 20, 15)).status_code == 404
        await server.send_image(FILE)
        assert (await server.click(ID, 20, 15)).status_code == 200


async def test_a_server_that_could_keep_no_image_does_not_start(start: Start) -> None:
    for wrong in (
        TINY,
        {"memory_bytes": 1 << 20, "disk_bytes": 1 << 20},
        {"memory_bytes": memory_of_this_machine() + 1},
    ):
        with pytest.raises(BadSettings, match="memory_bytes is"):
            async with start(real_engine=True, **wrong):
                pass
