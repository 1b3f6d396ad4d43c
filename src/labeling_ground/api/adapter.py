"""What the app knows of an adapter: its paths, how large their bodies may be, and how its client hears of a failure."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import responses
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure, as its problem body (RFC 9457) says it.

    Attributes:
        status: HTTP status.
        title: what kind of failure it is.
        detail: what was wrong, and what to do.
        type: the kind's stable name, without the URN in front of it; empty where the failure came without a body.
        body: the whole problem body.
    """

    status: int
    title: str
    detail: str
    type: str
    body: Mapping[str, Any]


def as_problem(failure: Failure) -> tuple[int, dict[str, Any]]:
    """The problem body unchanged: for a client that reads no field of it."""
    return failure.status, dict(failure.body)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of another tool's protocol, at each path where its clients look for it.

    Attributes:
        method: HTTP method.
        paths: without a slash at the end; may hold ``{name}`` for one part. A request whose path has a slash more at
            its end, or several for one, is the same.
        handle: answers a request.
        max_body_bytes: largest body; ``None``: that of a request without an image.
        failure: status and JSON body by which the client hears of a failure, wherever in the server that arose.
    """

    method: str
    paths: tuple[str, ...]
    handle: Callable[[Request], Awaitable[Response]]
    max_body_bytes: int | None = None
    failure: Callable[[Failure], tuple[int, dict[str, Any]]] = as_problem


async def nothing_to_close() -> None:
    """The ``aclose`` of an adapter that holds nothing open."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A way in that speaks another tool's protocol.

    Attributes:
        name: as operators write it in ``LABELING_GROUND_ADAPTERS``.
        endpoints: its operations.
        shared_paths: paths of our own API that its clients ask as well, written like those of endpoints.
        models_fields: what it adds to the answer of ``GET /v1/models``, where that is one of them.
        aclose: closes what it holds open, when the server stops.
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    shared_paths: tuple[str, ...] = ()
    models_fields: Callable[[], Mapping[str, Any]] = dict
    aclose: Callable[[], Awaitable[None]] = nothing_to_close


class EndpointTable:
    """Finds the endpoints of a path."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._shared = {path for adapter in adapters for path in adapter.shared_paths}
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Endpoint]]] = []
        of: dict[str, dict[str, Endpoint]] = {}
        for endpoint in (each for adapter in adapters for each in adapter.endpoints):
            for path in endpoint.paths:
                of.setdefault(path, {})[endpoint.method] = endpoint
        for path, endpoints in of.items():
            if "{" in path:
                pattern = "".join(
                    "[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", path)
                )
                self._patterns.append((re.compile(pattern), endpoints))
            else:
                self._exact[path] = endpoints

    def find(self, path: str) -> dict[str, Endpoint]:
        """The endpoints at a path, by method; empty where it is no adapter's."""
        found = self._exact.get(path)
        if found is not None or not self._patterns:
            return found or {}
        return next((endpoints for pattern, endpoints in self._patterns if pattern.fullmatch(path)), {})

    def settled(self, path: str) -> str:
        """The path without repeated and closing slashes where it is an adapter's then; else the path as it is."""
        if "//" not in path and not path.endswith("/"):
            return path
        plain = re.sub("/+", "/", path).rstrip("/")
        return plain if plain in self._shared or self.find(plain) else path


def in_words(endpoint: Endpoint, send: Send) -> Send:
    """A ``send`` that tells an adapter's client of a failure in that client's own way, as ``application/json``.

    Whatever the reason, and wherever it arose, the client hears it.
    """
    failing: Message | None = None
    pieces: list[bytes] = []

    async def send_in_words(message: Message) -> None:
        nonlocal failing
        if message["type"] == "http.response.start" and message["status"] >= 400:
            failing = message
        elif failing is None:
            await send(message)
        else:
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                for each in _in_words(endpoint, failing, b"".join(pieces)):
                    await send(each)

    return send_in_words


def _in_words(endpoint: Endpoint, start: Message, content: bytes) -> Sequence[Message]:
    status, body = endpoint.failure(_problem_of(start["status"], content))
    text = json.dumps(body, ensure_ascii=False).encode()
    start = {**start, "status": status, "headers": list(start.get("headers", ()))}
    headers = MutableHeaders(scope=start)
    headers["content-type"] = "application/json"
    headers["content-length"] = str(len(text))
    return start, {"type": "http.response.body", "body": text}


def _problem_of(status: int, content: bytes) -> Failure:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    phrase = responses.get(status, "Failure")
    if not isinstance(body, dict) or "detail" not in body:
        return Failure(status, phrase, phrase, "", {"status": status, "title": phrase, "detail": phrase})
    # One that another server's answer brought along may lack the rest.
    title, kind = str(body.get("title", phrase)), str(body.get("type", ""))
    return Failure(status, title, str(body["detail"]), kind.rpartition(":")[2], body)


def install_endpoints(app: FastAPI, adapters: Sequence[Adapter]) -> EndpointTable:
    """Serve the adapters' endpoints; the table knows them."""
    for endpoint in (each for adapter in adapters for each in adapter.endpoints):
        for path in endpoint.paths:
            app.add_api_route(
                path, endpoint.handle, methods=[endpoint.method], include_in_schema=False, response_model=None
            )
    return EndpointTable(adapters)
