"""``PUT /v1/cache/settings``: who may, what it takes, what is in effect afterwards."""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio

ROOT = {"X-API-Key": "root"}
MIB = 1 << 20


async def put(server: "Running", body: dict[str, Any], **headers: str) -> "httpx.Response":
    return await server.client.put("/v1/cache/settings", json=body, headers=headers or ROOT)


async def test_it_takes_effect_at_once_and_answers_with_what_is_in_effect(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """What is left out, or ``null``, stays; entries stay; figures and answer agree."""
    async with start(admin_key="root", max_age_s=9999.0) as server:
        image_id = await server.send_image(make_image())
        await server.app_state.predictor.store.drain()
        answer = await put(server, {"policy": "lru", "memory_bytes": 8 * MIB, "idle_seconds": 600, "done_weight": None})
        assert answer.status_code == 200
        assert answer.json() == {
            "mode": "parallel",
            "policy": "lru",
            "done_weight": 0.1,
            "frequency_exponent": 0.0,
            "memory_bytes": 8 * MIB,
            "disk_bytes": 256 * MIB,
            "idle_seconds": 600.0,
            "max_age_seconds": 9999.0,
            "precision": "fp16",
        }
        figures = (await server.client.get("/v1/cache")).json()
        assert figures["settings"] == answer.json()
        assert [tier["budget"] for tier in figures["tiers"]] == [8 * MIB, 256 * MIB]
        assert (await put(server, {"disk_bytes": 16 * MIB})).json()["policy"] == "lru"
        assert (await put(server, {})).json()["disk_bytes"] == 16 * MIB
        assert (await server.click(image_id, 5, 5)).json()["outcome"] == "miss"
        again = await server.client.get(f"/v1/images/{image_id}")
        assert again.json()["encoded"] is True
        assert server.backend.encodes == 1


async def test_only_the_operator_may(start: "Start") -> None:
    """401 without a good key, 403 with one that is not the admin's; nothing is changed, nor is the body looked at."""
    body = {"memory_bytes": 2 * MIB}
    async with start(admin_key="root", api_keys=("one",)) as server:
        for headers, status in (({"X-API-Key": "no"}, 401), ({"X-API-Key": "one"}, 403), ({"X-Nothing": ""}, 401)):
            answer = await put(server, body, **headers)
            assert answer.status_code == status
            assert answer.json()["type"].endswith("forbidden" if status == 403 else "unauthorized")
        assert (await put(server, {"nonsense": 1}, **{"X-API-Key": "one"})).status_code == 403
        assert server.app_state.runtime_settings.now.memory_bytes == 64 * MIB
        assert (await put(server, body, Authorization="Bearer root")).status_code == 200
    async with start(admin_key="root") as server:
        answer = await put(server, body, **{"X-Nothing": ""})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await put(server, body)).status_code == 200
    async with start() as server:
        answer = await put(server, body)
        assert answer.status_code == 403
        assert "LABELING_GROUND_ADMIN_KEY" in answer.json()["detail"]
        assert server.app_state.runtime_settings.now.memory_bytes == 64 * MIB


async def test_the_documentation_says_that_a_key_is_needed(server: "Running") -> None:
    """Also where everything else needs none."""
    schema = (await server.client.get("/openapi.json")).json()
    assert {} not in schema["paths"]["/v1/cache/settings"]["put"]["security"]


@pytest.mark.parametrize(
    "body",
    [
        {"policy": "best"},
        {"policy": "os:system"},
        {"policy": 1},
        {"memory_bytes": 0},
        {"memory_bytes": 1.5 * MIB + 0.5},
        {"memory_bytes": "1GiB"},
        {"memory_bytes": 1 << 60},
        {"disk_bytes": 0},
        {"idle_seconds": 0},
        {"idle_seconds": 1e300},
        {"done_weight": 0},
        {"frequency_exponent": -1},
        {"memory": MIB},
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(start: "Start", body: dict[str, Any]) -> None:
    """422 that says what is wrong."""
    async with start(admin_key="root") as server:
        before = server.app_state.runtime_settings.now
        answer = await put(server, {"idle_seconds": 60.0} | body)
        assert answer.status_code == 422
        assert answer.json()["type"].endswith("invalid-request")
        assert server.app_state.runtime_settings.now == before


async def test_a_server_without_a_disk_tier_cannot_be_given_one(start: "Start") -> None:
    async with start(admin_key="root", disk_bytes=0) as server:
        answer = await put(server, {"disk_bytes": 8 * MIB})
        assert answer.status_code == 422
        assert "disk" in answer.json()["detail"]
        assert (await put(server, {"memory_bytes": 8 * MIB})).json()["disk_bytes"] == 0


async def test_a_restart_forgets_it(start: "Start") -> None:
    """What the server is started with counts again, as the documentation says."""
    async with start(admin_key="root") as server:
        assert (await put(server, {"policy": "lru"})).status_code == 200
    async with start(admin_key="root") as server:
        assert server.app_state.runtime_settings.now.policy == "gds"
