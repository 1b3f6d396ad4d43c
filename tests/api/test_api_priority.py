"""``X-Priority``: what a client may say of how urgent its request is."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.doubles import until

from labeling_ground.key import tenant_of
from labeling_ground.types import Priority

if TYPE_CHECKING:
    from tests.api.conftest import Start

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("query", "header", "expected"),
    [
        ("", None, Priority.INTERACTIVE),
        ("", "interactive", Priority.INTERACTIVE),
        ("", "job", Priority.JOB),
        ("", "prefetch", Priority.PREFETCH),
        ("?wait=false", None, Priority.PREFETCH),
        ("?wait=false", "interactive", Priority.PREFETCH),
        ("?wait=false", "job", Priority.JOB),
    ],
)
async def test_a_request_is_of_its_routes_class_or_of_a_lesser_one(
    start: "Start", make_image: Callable[..., bytes], query: str, header: str | None, expected: Priority
) -> None:
    async with start(encode_workers=1) as server:
        queue = server.app_state.predictor.encode_queue
        server.backend.encode_may_go_on.clear()
        first = asyncio.create_task(server.client.post("/v1/images", content=make_image()))
        await until(lambda: queue.running == 1)
        headers = {} if header is None else {"X-Priority": header}
        post = asyncio.create_task(server.client.post(f"/v1/images{query}", content=make_image(), headers=headers))
        await until(lambda: queue.waiting == 1)
        assert [priority for priority, (waiting, _) in queue.classes().items() if waiting] == [expected]
        server.backend.encode_may_go_on.set()
        assert (await first).status_code == 200
        assert (await post).status_code in (200, 202)


async def test_the_class_of_a_click_is_that_of_its_request_and_not_of_the_one_before(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start(decode_workers=1) as server:
        queue = server.app_state.predictor.decode_queue
        image_id = await server.send_image(make_image(), **{"X-Priority": "job"})
        server.backend.decode_may_go_on.clear()
        path = f"/v1/images/{image_id}/masks"
        clicks = []
        for number, headers in enumerate(({"X-Priority": "prefetch"}, {"X-Priority": "job"}, {})):
            body = {"points": [{"x": number, "y": 1, "label": 1}]}
            clicks.append(asyncio.create_task(server.client.post(path, json=body, headers=headers)))
            await until(lambda: queue.running + queue.waiting == number + 1)  # noqa: B023 -- awaited at once
        assert [waiting for waiting, _ in queue.classes().values()] == [1, 0, 1]
        server.backend.decode_may_go_on.set()
        assert [(await one).status_code for one in clicks] == [200, 200, 200]


@pytest.mark.parametrize("named", ["urgent", "JOB", "", "job, prefetch"])
async def test_a_class_that_does_not_exist_is_said(
    start: "Start", make_image: Callable[..., bytes], named: str
) -> None:
    async with start() as server:
        answer = await server.client.post("/v1/images", content=make_image(), headers={"X-Priority": named})
        assert answer.status_code == 400
        assert answer.json()["type"] == "urn:labeling-ground:problem:bad-input"
        assert "interactive, prefetch, job" in answer.json()["detail"]


async def test_jobs_have_half_of_the_requests_in_flight(start: "Start", make_image: Callable[..., bytes]) -> None:
    async with start(max_requests=4, encode_workers=1) as server:
        server.backend.encode_may_go_on.clear()
        queue = server.app_state.predictor.encode_queue
        jobs = []
        for number in range(2):
            jobs.append(
                asyncio.create_task(
                    server.client.post("/v1/images", content=make_image(), headers={"X-Priority": "job"})
                )
            )
            await until(lambda: queue.running + queue.waiting == number + 1)  # noqa: B023 -- awaited at once
        refused = await server.client.post("/v1/images", content=make_image(), headers={"X-Priority": "job"})
        assert (refused.status_code, "2 requests" in refused.json()["detail"]) == (503, True)
        opening = asyncio.create_task(server.client.post("/v1/images", content=make_image()))
        await until(lambda: queue.running + queue.waiting == 3)
        server.backend.encode_may_go_on.set()
        assert (await opening).status_code == 200
        assert [(await job).status_code for job in jobs] == [200, 200]


async def test_waiting_is_shown_and_lifted_by_somebody_who_waits(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    """The place in the queue and the seconds expected; what a page polls for while somebody waits goes first."""
    async with start(encode_workers=1) as server:
        queue = server.app_state.predictor.encode_queue
        known = await server.send_image(make_image())
        queue.typical_s = 2.0
        server.backend.encode_may_go_on.clear()
        ids = []
        for number in range(4):
            answer = await server.client.post("/v1/images?wait=false", content=make_image())
            ids.append(answer.json()["image_id"])
            await until(lambda: queue.running + queue.waiting == number + 1)  # noqa: B023 -- awaited at once

        async def shown(query: str = "", **headers: str) -> list[tuple[int | None, float | None]]:
            states = [(await server.client.get(f"/v1/images/{one}", headers=headers)).json() for one in ids[:3]]
            states.append((await server.client.get(f"/v1/images/{ids[3]}{query}", headers=headers)).json())
            assert all(state["encoding"] for state in states)
            return [(state.get("place"), state.get("seconds_expected")) for state in states]

        in_order = [(None, 2.0), (1, 4.0), (2, 6.0), (3, 8.0)]
        assert await shown() == in_order
        assert await shown("?waiting=true", **{"X-Priority": "job"}) == in_order
        await shown("?waiting=true")
        assert await shown() == [(None, 2.0), (2, 6.0), (3, 8.0), (1, 4.0)]
        state = (await server.client.get(f"/v1/images/{known}")).json()
        assert state["encoded"]
        assert not {"place", "seconds_expected"} & state.keys()
        server.backend.encode_may_go_on.set()
        await until(lambda: queue.running + queue.waiting == 0)


async def test_what_waits_by_tenant_is_told_to_the_operator_alone(
    start: "Start", make_image: Callable[..., bytes]
) -> None:
    async with start(encode_workers=1, api_keys=["ann", "bob"], admin_key="boss") as server:
        queue = server.app_state.predictor.encode_queue
        server.backend.encode_may_go_on.clear()
        posts = []
        for key in ("ann", "ann", "bob", "ann"):
            headers = {"X-API-Key": key}
            posts.append(asyncio.create_task(server.client.post("/v1/images", content=make_image(), headers=headers)))
            await until(lambda: queue.running + queue.waiting == len(posts))
        told = {}
        for key in ("ann", "boss"):
            answer = (await server.client.get("/v1/cache", headers={"X-API-Key": key})).json()
            told[key] = answer["queues"]["encoder"]["tenants"]
            assert answer["models"]["toy"]["queues"]["encoder"]["tenants"] == told[key]
        assert told == {"ann": {}, "boss": {tenant_of("ann"): 2, tenant_of("bob"): 1}}
        server.backend.encode_may_go_on.set()
        assert [(await post).status_code for post in posts] == [200] * 4
        assert queue.tenants() == {}
