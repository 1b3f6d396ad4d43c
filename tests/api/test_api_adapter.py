"""Paths of other tools' protocols, and failures in their clients' words."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from labeling_ground.api.adapter import Adapter, Endpoint, EndpointTable, Failure
from labeling_ground.api.app import create_app
from labeling_ground.api.edge import Edge
from labeling_ground.api.errors import response_for
from labeling_ground.api.limits import Limits
from labeling_ground.api.web_security import ANY, OriginCheck
from labeling_ground.errors import BadPrompt
from labeling_ground.wiring import build_parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from labeling_ground.settings import Settings

pytestmark = pytest.mark.anyio


async def hello(request: Request) -> Response:
    await request.body()
    return Response(json.dumps(request.path_params))


def words(problem: Failure) -> tuple[int, dict[str, Any]]:
    return 299, {"code": problem.type, "was": problem.status, "why": problem.detail}


PLAIN = Endpoint("POST", ("/tool/ask", "/ask"), hello, 5000, words)
NAMED = Endpoint("GET", ("/tool/things/{name}", "/tool/{name}/parts/{part}"), hello)
TABLE = EndpointTable([Adapter("tool", (PLAIN, NAMED), ("/v1/models",))])


def test_paths_are_found_with_slashes_too_many() -> None:
    assert TABLE.find("/tool/ask") == TABLE.find("/ask") == {"POST": PLAIN}
    assert TABLE.find("/tool/things/a.b") == TABLE.find("/tool/x/parts/y") == {"GET": NAMED}
    for path in ("/tool", "/tool/things", "/tool/things/", "/tool/things/a/b", "/v1/images", "/tool/asking", "/"):
        assert TABLE.find(path) == {}
    for given, meant in (
        ("//tool//ask/", "/tool/ask"),
        ("/tool/things/a/", "/tool/things/a"),
        ("//v1/models/", "/v1/models"),
        ("//v1//images/", "//v1//images/"),
        ("/tool/ask", "/tool/ask"),
    ):
        assert TABLE.settled(given) == meant


def around(app: "ASGIApp") -> Edge:
    limits = Limits(most_requests=9, most_bytes=9, most_held=9, silence_s=60.0)
    return Edge(app, limits=limits, origins=OriginCheck(hosts=(ANY,), origins=()), endpoints=TABLE)


async def asked(app: "ASGIApp", path: str = "/ask", method: str = "POST") -> httpx.Response:
    transport = httpx.ASGITransport(around(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.request(method, path)


async def raises(*_: Any) -> None:
    raise ZeroDivisionError("a bug")


async def in_pieces() -> "AsyncIterator[bytes]":
    for piece in json.dumps({"type": "urn:x:late", "title": "Late", "detail": "Too late.", "status": 503}):
        yield piece.encode()


@pytest.mark.parametrize(
    ("app", "told"),
    [
        (response_for(BadPrompt("No point.")), {"code": "bad-prompt", "was": 422, "why": "No point."}),
        (StreamingResponse(in_pieces(), 503), {"code": "late", "was": 503, "why": "Too late."}),
        (PlainTextResponse("what?", 400), {"code": "", "was": 400, "why": "Bad Request"}),
        (Response(b"\xff[", 599), {"code": "", "was": 599, "why": "Failure"}),
        (Response(status_code=499), {"code": "", "was": 499, "why": "Failure"}),
    ],
)
async def test_every_failure_is_told_in_the_clients_words(app: "ASGIApp", told: dict[str, Any]) -> None:
    answer = await asked(app)
    assert (answer.status_code, answer.headers["content-type"], answer.json()) == (299, "application/json", told)
    assert answer.headers["content-length"] == str(len(answer.content))


async def test_a_bug_outside_of_everything_is_told_too() -> None:
    assert (await asked(raises)).json()["code"] == "internal"


async def test_other_paths_and_methods_and_what_went_well_are_left_alone() -> None:
    failure, fine = response_for(BadPrompt("No point.")), Response("fine", headers={"X-Thing": "1"})
    for path, method in (("/v1/models", "GET"), ("/ask", "GET"), ("/elsewhere", "POST")):
        answer = await asked(failure, path, method)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    answer = await asked(fine)
    assert (answer.status_code, answer.text, answer.headers["x-thing"]) == (200, "fine", "1")
    answer = await asked(failure, "/tool/things/a", "GET")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
    assert answer.json() == json.loads(bytes(failure.body)), "for a client that has no words of its own"


async def test_what_is_called_off_is_told_and_stays_called_off() -> None:
    sent: list[Message] = []

    async def called_off(*_: Any) -> None:
        raise asyncio.CancelledError

    async def keep(message: "Message") -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/ask", "headers": []}
    with pytest.raises(asyncio.CancelledError):
        await around(called_off)(scope, asyncio.Event().wait, keep)  # type: ignore[arg-type]
    assert sent[0]["status"] == 299
    assert json.loads(sent[1]["body"])["code"] == "overloaded"


async def test_a_failure_in_the_middle_of_an_answer_is_none_that_can_be_told() -> None:
    sent: list[Message] = []

    async def breaks(scope: "Scope", receive: "Receive", send: "Send") -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await raises()

    async def keep(message: "Message") -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/ask", "headers": []}
    with pytest.raises(ZeroDivisionError):
        await around(breaks)(scope, asyncio.Event().wait, keep)  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_an_adapter_is_served_bounded_and_closed_with_the_server(
    make_settings: "Callable[..., Settings]",
) -> None:
    closed: list[str] = []

    async def aclose() -> None:
        closed.append("tool")

    adapter = Adapter("tool", (PLAIN, NAMED), ("/v1/models",), lambda: {"extra": 1}, aclose)
    app = create_app(build_parts(make_settings(max_body_bytes=100)), [adapter])
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://server") as client,
    ):
        assert (await client.get("/tool/x/parts/y/")).json() == {"name": "x", "part": "y"}
        assert (await client.post("/tool/ask", content=bytes(5000))).status_code == 200
        assert (await client.post("/tool/ask", content=bytes(5001))).json()["code"] == "too-large"
        assert (await client.get("/v1/models")).json()["extra"] == 1
        assert "/tool/ask" not in (await client.get("/openapi.json")).json()["paths"]
        assert closed == []
    assert closed == ["tool"]
