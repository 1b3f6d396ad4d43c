"""API keys, their namespaces, and pages of other origins."""

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest

from labeling_ground.api.schemas.common import EXAMPLE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Start, ToyBackend

pytestmark = pytest.mark.anyio

ORIGIN = "https://label.example"
CLOSED = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}/decoder"),
    ("POST", "/v1/images"),
    ("GET", f"/v1/images/{'0' * 64}"),
    ("GET", f"/v1/images/{'0' * 64}/preview"),
    ("GET", f"/v1/images/{'0' * 64}/embedding"),
    ("DELETE", f"/v1/images/{'0' * 64}"),
    ("POST", f"/v1/images/{'0' * 64}/masks"),
    ("POST", f"/v1/images/{'0' * 64}/everything"),
    ("POST", f"/v1/images/{'0' * 64}/concepts"),
    ("POST", "/v1/upcoming"),
    ("GET", "/v1/cache/history"),
    ("GET", "/v1/cache"),
    ("DELETE", "/v1/cache"),
    ("PUT", "/v1/cache/settings"),
    *[("POST", f"/v1/models/{{model}}/{verb}") for verb in ("load", "unload")],
    *[("POST", f"/api/sam/{verb}") for verb in ("image", "click", "rect", "undo", "finish_click")],
]
OPEN = ["/health/live", "/health/ready", "/metrics", "/docs", "/redoc", "/openapi.json", "/docs/static/swagger-ui.css"]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_without_a_key_nothing_is_done(start: "Start", method: str, path: str) -> None:
    """401 with the way in, before the body or the path is even looked at, for a missing and for a wrong key."""
    async with start(api_keys=("one", "two"), admin_key="root") as server:
        for headers in ({}, bearer("three"), bearer(""), {"X-API-Key": "ONE"}, {"Authorization": "Basic b25l"}):
            answer = await server.client.request(method, path, headers=headers, content=b"nonsense")
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["type"] == "urn:labeling-ground:problem:unauthorized"


async def test_every_documented_route_is_open_or_closed_on_purpose(start: "Start") -> None:
    """A route that is added has to be listed here, on one side or the other; the docs say which needs a key."""
    async with start(api_keys=("one",)) as server:
        assert [(await server.client.get(path)).status_code for path in OPEN] == [200] * len(OPEN)
        paths = (await server.client.get("/openapi.json")).json()["paths"]
        documented = {
            (method.upper(), path.replace("{image_id}", "0" * 64)): "security" in operation
            for path, operations in paths.items()
            for method, operation in operations.items()
        }
        assert {route for route, needs_key in documented.items() if needs_key} == set(CLOSED)
        assert {path for (_, path), needs_key in documented.items() if not needs_key} <= set(OPEN)


async def test_a_key_is_taken_from_either_header(start: "Start") -> None:
    """The scheme's case does not matter, the key's does; a key need not be ASCII."""
    async with start(api_keys=("one", "schlüssel", "voilà")) as server:
        for headers in (bearer("one"), {"Authorization": "bearer one"}, {"X-API-Key": "one"}):
            assert (await server.client.get("/v1/models", headers=headers)).status_code == 200
        # The last byte of the latter alone would be a blank in Latin-1. Blanks around the value are none of it.
        for key in ("schlüssel", "voilà", " one\t"):
            raw = {b"X-API-Key": key.encode()}
            assert (await server.client.get("/v1/models", headers=raw)).status_code == 200
            raw = {b"Authorization": b"Bearer " + key.encode()}
            assert (await server.client.get("/v1/models", headers=raw)).status_code == 200


async def test_a_tenant_sees_nothing_of_another(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """Not its images, not its masks, not its predictions, not its sessions; and purges only what is its own."""
    file = make_image()
    async with start(api_keys=("one", "two")) as server:
        image_id = await server.send_image(file, **bearer("one"))
        address = f"/v1/images/{image_id}/masks"
        body = {"points": [{"x": 9, "y": 9}]}
        first = await server.client.post(address, json=body, headers=bearer("one"))
        assert (await server.client.get(f"/v1/images/{image_id}", headers=bearer("two"))).status_code == 404
        assert (await server.client.post(address, json=body, headers=bearer("two"))).status_code == 404
        own = await server.client.post("/v1/images", content=file, headers=bearer("two"))
        assert own.json()["outcome"] == "miss"
        reference = {"mask_input": {"prediction_id": first.json()["prediction_id"]}}
        stolen = await server.client.post(address, json=reference, headers=bearer("two"))
        assert stolen.json()["type"] == "urn:labeling-ground:problem:unknown-prediction"
        assert (await server.client.post(address, json=body, headers=bearer("two"))).json()["outcome"] == "miss"

        image = {"session_id": "s", "image": base64.b64encode(file).decode()}
        assert (await server.client.post("/api/sam/image", json=image, headers=bearer("one"))).status_code == 200
        click = {"session_id": "s", "points": [1, 1]}
        assert (await server.client.post("/api/sam/click", json=click, headers=bearer("two"))).status_code == 404

        assert (await server.client.delete("/v1/cache", headers=bearer("two"))).json()["deleted"] > 0
        kept = await server.client.post(address, json=body, headers=bearer("one"))
        assert kept.json()["outcome"] == "hit"
        await server.client.delete(f"/v1/images/{image_id}", headers=bearer("two"))
        assert (await server.client.get(f"/v1/images/{image_id}", headers=bearer("one"))).status_code == 200


async def test_the_admin_key_purges_everybody(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """It sees the figures and purges all namespaces; it opens no tenant's image."""
    async with start(api_keys=("one", "two"), admin_key="root") as server:
        ids = [await server.send_image(make_image(), **bearer(key)) for key in ("one", "two")]
        await server.app_state.predictor.store.drain()
        assert (await server.client.get(f"/v1/images/{ids[0]}", headers=bearer("root"))).status_code == 404
        assert (await server.client.get("/v1/cache", headers=bearer("root"))).status_code == 200
        assert (await server.client.delete("/v1/cache", headers=bearer("root"))).json()["deleted"] >= 4
        for image_id, key in zip(ids, ("one", "two"), strict=True):
            assert (await server.client.get(f"/v1/images/{image_id}", headers=bearer(key))).status_code == 404


async def test_keys_are_never_told(start: "Start", caplog: pytest.LogCaptureFixture) -> None:
    """Neither answers, nor figures, nor the log hold a key."""
    async with start(api_keys=("top-secret-1",), admin_key="top-secret-2") as server:
        caplog.set_level("DEBUG")
        texts = [
            (await server.client.get(path, headers=bearer("top-secret-1"))).text
            for path in ("/v1/cache", "/metrics", "/v1/models", "/health/ready", "/v1/images/x", "/openapi.json")
        ]
        assert "top-secret" not in "".join(texts) + caplog.text
        assert "top-secret" not in repr(server.app_state.settings)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "one "},
        {"X-API-Key": " \tone"},
        {"Authorization": "Bearer one\t "},
        {"Authorization": "bearer\t one"},
    ],
)
async def test_blanks_around_a_key_are_none_of_it(start: "Start", headers: dict[str, str]) -> None:
    async with start(api_keys=("one",)) as server:
        assert (await server.client.get("/v1/models", headers=headers)).status_code == 200
        image_id = await server.send_image(base64.b64decode(EXAMPLE_IMAGE), **headers)
        assert (await server.client.get(f"/v1/images/{image_id}", headers=bearer("one"))).status_code == 200


async def test_other_origins_are_shut_out_by_default(start: "Start") -> None:
    """403 and no CORS header anywhere, to requests and to their preflights."""
    async with start() as server:
        answer = await server.client.get("/v1/models", headers={"Origin": ORIGIN})
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
        preflight = await server.client.options(
            "/v1/images", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        )
        assert preflight.status_code == 403
        assert not [name for name in preflight.headers if name.startswith("access-control")]


async def test_a_configured_origin_is_let_in_and_reads_errors_too(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """Preflight needs no key; answers and problems, 401 and 500 too, carry the header, or a page cannot read them."""
    async with start(cors_origins=(ORIGIN,), api_keys=("one",), max_image_bytes=100_000) as server:
        preflight = await server.client.options(
            "/v1/images",
            headers={
                "Origin": ORIGIN,
                "Access-Control-Request-Method": "DELETE",
                "Access-Control-Request-Headers": "authorization, content-type, x-client-id",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        image_id = await server.send_image(make_image(), **bearer("one"))
        server.backend.fail_decode = ZeroDivisionError("a bug")
        page = {"Origin": ORIGIN}
        keyed = page | bearer("one")
        for status, answer in (
            (200, await server.client.get("/v1/models", headers=keyed)),
            (401, await server.client.get("/v1/models", headers=page)),
            (404, await server.client.get("/nope", headers=page)),
            (413, await server.client.post("/v1/images", content=bytes(300_000), headers=keyed)),
            (
                500,
                await server.client.post(
                    f"/v1/images/{image_id}/masks", json={"points": [{"x": 1, "y": 1}]}, headers=keyed
                ),
            ),
        ):
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
            assert "Server-Timing" in answer.headers["access-control-expose-headers"]
        other = await server.client.get("/v1/models", headers={"Origin": "https://evil.example", **bearer("one")})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("path", ["/v1/images", f"/v1/images/{'0' * 64}/masks", "/api/sam/click", "/api/sam/image"])
async def test_one_who_may_not_ask_hears_that_however_large_the_body_is(start: "Start", path: str) -> None:
    """Of two things that are wrong, the one is said that a smaller body would not change."""
    async with start(api_keys=("one",), allowed_hosts=("server",), max_image_bytes=20_000) as server:
        for status, headers in (
            (401, {}),
            (401, bearer("two")),
            (421, bearer("one") | {"Host": "evil.example"}),
            (403, bearer("one") | {"Origin": "https://evil.example"}),
            (413, bearer("one") | {"Content-Type": "application/json" if path != "/v1/images" else "image/png"}),
        ):
            answer = await server.client.post(path, content=bytes(3_000_000), headers=headers)
            assert answer.status_code == status, answer.text


async def test_the_flood_of_one_key_ends_nothing_that_another_ones_holder_works_on(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """Sessions, and what is in memory and on disk; before and after a change of the policy while it runs."""
    small, flood = ({"X-API-Key": letter * 32} for letter in "sf")
    limits = {"max_sessions": 4, "memory_bytes": 24 << 10, "disk_bytes": 1 << 20, "admin_key": "r" * 32}
    async with start(api_keys="s" * 32 + "," + "f" * 32, **limits) as server:
        image_id = await server.send_image(make_image(), **small)
        sent = {"image": base64.b64encode(make_image()).decode(), "session_id": "mine"}
        assert (await server.client.post("/api/sam/image", json=sent, headers=small)).status_code == 200
        for policy in ("gds", "lru"):
            changed = await server.client.put(
                "/v1/cache/settings", json={"policy": policy}, headers={"X-API-Key": "r" * 32}
            )
            assert changed.status_code == 200
            for number in range(20):
                sent |= {"image": base64.b64encode(make_image(150, 100, "BMP")).decode(), "session_id": str(number)}
                assert (await server.client.post("/api/sam/image", json=sent, headers=flood)).status_code == 200
            await server.app_state.predictor.store.drain()
            click = {"points": [5, 5], "labels": [1], "session_id": "mine"}
            assert (await server.client.post("/api/sam/click", json=click, headers=small)).status_code == 200
            again = await server.client.get(f"/v1/images/{image_id}", headers=small)
            assert again.json()["encoded"] is True
        tiers = (await server.client.get("/v1/cache", headers=small)).json()["tiers"]
        assert [tier["tier"] for tier in tiers if tier["evictions"]["budget"] > 0] == ["memory", "disk"]


async def test_the_prefetches_of_one_key_do_not_keep_another_ones_holder_from_sending_an_image(
    start: "Start", make_image: "Callable[..., bytes]", make_backend: "type[ToyBackend]"
) -> None:
    """Nor from prefetching: the share of one is what the others find free."""
    small, flood = ({"X-API-Key": letter * 32} for letter in "sf")
    backend = make_backend()
    async with start(backend=backend, api_keys="s" * 32 + "," + "f" * 32, encode_queue=8, encode_workers=1) as server:
        backend.encode_may_go_on.clear()
        codes = [
            (await server.client.post("/v1/images?wait=false", content=make_image(), headers=flood)).status_code
            for _ in range(20)
        ]
        assert codes.count(202) == 4, "half of the queue"
        assert set(codes[4:]) == {503}
        answer = await server.client.post("/v1/images?wait=false", content=make_image(), headers=small)
        assert answer.status_code == 202
        sending = asyncio.create_task(server.send_image(make_image(), **small))
        await server.until(lambda: server.app_state.predictor.encode_queue.waiting == 5)
        backend.encode_may_go_on.set()
        await sending
