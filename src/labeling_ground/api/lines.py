"""Answers that grow: one JSON object a line (NDJSON), from when the first is there."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from labeling_ground.api.errors import as_line
from labeling_ground.api.requests import request_log_of, while_connected
from labeling_ground.api.responses import fields
from labeling_ground.api.schemas.common import reference
from labeling_ground.api.state import RequestLog

LINES = "application/x-ndjson"


def wants_lines(request: Request) -> bool:
    """Whether ``Accept`` names the stream, and does not rule it out with a ``q`` of 0."""
    for part in request.headers.get("accept", "").lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind == LINES:
            return not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
    return False


def whole_or_lines(whole: str, line: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The documentation of an answer that is one JSON object (``whole`` says of what), or a stream of such lines."""
    stream = {LINES: {"schema": reference(line)}}
    return {200: {"content": stream, "description": f"{whole}; or, where `Accept` names `{LINES}`, a stream of lines"}}


def line(event: str, values: dict[str, Any]) -> bytes:
    """One line of a stream, without the values that are ``None``."""
    return b"{%b}\n" % fields({"event": event} | values)


async def as_lines(request: Request, lines: AsyncGenerator[bytes, None]) -> StreamingResponse:
    """The response that sends these lines. Whatever ends it closes them.

    Until the first there is no stream: what fails before is answered like anywhere else, and what fails later is said
    in a last line, ``problem``.
    """
    first = await while_connected(request, _next(lines))
    return _Lines(first, lines, request_log_of(request))


async def _next(lines: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(lines)


class _Lines(StreamingResponse):
    def __init__(self, first: bytes, lines: AsyncGenerator[bytes, None], record: RequestLog) -> None:
        # A proxy in between must not hold the lines back.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._all(first), headers=headers, media_type=LINES)
        self._rest = lines
        self._record = record
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._rest.aclose()
            if not self._ended:
                self._record.fields["stream"] = "left"

    async def _all(self, first: bytes) -> AsyncIterator[bytes]:
        yield first
        try:
            async for each in self._rest:
                yield each
        except Exception as error:  # noqa: BLE001 -- the answer has begun: what ends it early must be said in it
            self._record.fields["problem"] = type(error).__name__
            yield line("problem", as_line(error))
        self._ended = True
