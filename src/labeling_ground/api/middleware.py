"""Around every request: how many, how large, how slow, and one log line. Plain ASGI, so that it costs little."""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_ground.api.errors import TooSlow, bug_response, response_for
from labeling_ground.api.state import REQUEST_LOG_KEY, RequestLog
from labeling_ground.errors import BadInput, Overloaded, TooLarge
from labeling_ground.observe import RequestMetrics, access
from labeling_ground.service.urgency import asked_as
from labeling_ground.types import Priority

_READING = frozenset({"GET", "HEAD"})
ALWAYS = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Answered however busy we are: this is where one looks when we are."""
_SLOWEST = 1024
"""Bytes a second, in the long run, below which a client is not sending but holding a place."""
_LEFT_UNREAD = 64 * 1024
"""So much of a body that is not wanted is skipped; beyond that the connection is closed."""


class Observe:
    """Measures a request, tells browsers (``Server-Timing``), metrics and the log about it."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and see how it went."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = RequestLog()
        scope[REQUEST_LOG_KEY] = record
        request_id = secrets.token_hex(6)
        started = time.perf_counter()
        status = 0

        async def send_timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                parts = [f"{name};dur={seconds * 1e3:.2f}" for name, seconds in record.timing.items()]
                parts.append(f"total;dur={(time.perf_counter() - started) * 1e3:.2f}")
                headers = MutableHeaders(scope=message)
                headers["Server-Timing"] = ", ".join(parts)
                headers["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_timed)
        except asyncio.CancelledError:
            status = status or 499  # the server is stopping, and the grace is over
            raise
        except Exception:
            status = status or 500
            raise
        finally:
            if record.at_end is not None:
                record.at_end()
            seconds = time.perf_counter() - started
            route = scope.get("route")
            template = getattr(route, "path", None) or "(none)"
            self.metrics.observe(template, status, record.outcome, seconds)
            if access.isEnabledFor(logging.INFO) and template not in ALWAYS:
                fields: dict[str, Any] = {"status": status, "outcome": record.outcome}
                fields["ms"] = round(seconds * 1e3, 2)
                for name, took in record.timing.items():
                    fields[f"{name}_ms"] = round(took * 1e3, 2)
                fields |= record.fields
                fields["request"] = request_id
                access.info("%s %s", scope["method"], scope["path"], extra={"fields": fields})


class Limit:
    """Turns away what is too much before any work is done: requests at once, bytes of a body, silence in a body.

    A request has a place while the server works for it, and none while it waits for its client to send the body or to
    take the answer: clients that do nothing take nobody's place.

    It also answers what the routes' own error handling did not catch, so that such an answer is measured, and carries
    the CORS headers, like any other.

    Args:
        app: what to protect.
        most_requests: how many may be worked on.
        most_bytes: from a path to the largest body it takes.
        most_held: bytes of bodies that all requests in flight may hold together.
        held_beside: tells the bytes of bodies of earlier requests that are still held, and count likewise.
        silence_s: longest wait for the next piece of a body. A body that trickles gets so long, plus a second for
            every KiB of it: one byte now and then does not hold a connection for hours.
        takes_no_place: whether ``GET`` of a path is answered however busy the server is: what takes no work.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        most_requests: int,
        most_bytes: Callable[[str], int],
        most_held: int,
        held_beside: Callable[[], int] = int,
        silence_s: float,
        takes_no_place: Callable[[str], bool] = ALWAYS.__contains__,
    ) -> None:
        self.app = app
        self._most_requests = most_requests
        self._most_bytes = most_bytes
        self._most_held = most_held
        self._held = 0
        self._held_beside = held_beside
        self._silence_s = silence_s
        self._takes_no_place = takes_no_place
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if there is room for it, its body bounded."""
        if scope["type"] != "http" or (scope["method"] in _READING and self._takes_no_place(scope["path"])):
            await self.app(scope, receive, send)
            return
        self._in_work += 1
        try:
            await self._bounded(scope, receive, send)
        finally:
            self._in_work -= 1

    def _check_room(self, priority: Priority) -> None:
        # What is not urgent has half of the places, so that it keeps out nobody who waits.
        most = self._most_requests if priority is Priority.INTERACTIVE else max(1, self._most_requests // 2)
        if self._in_work > most:
            raise Overloaded(f"{most} requests are in flight, which is this server's limit. Try again.")

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._most_bytes(scope["path"])
        too_large = TooLarge(f"The request's body is larger than {limit} bytes, which is this server's limit.")
        declared = 0
        announced = 0.0
        expects = False
        asked_for: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                announced = declared = int(value)
            elif name == b"transfer-encoding":
                announced = math.inf
            elif name == b"expect":
                expects = True
            elif name == b"x-priority":
                asked_for = value
        seen = 0
        complete = False
        started = False
        deadline = asyncio.get_running_loop().time() + self._silence_s

        async def receive_bounded() -> Message:
            nonlocal seen, complete
            if complete:  # what comes now is the client leaving, which may take as long as it likes
                return await receive()
            until = min(asyncio.get_running_loop().time() + self._silence_s, deadline + seen / _SLOWEST)
            self._in_work -= 1
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise TooSlow(
                    f"Of the request's body {seen} bytes came, and then too little for too long. Send it again."
                ) from None
            finally:
                self._in_work += 1
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                seen += size
                self._held += size
                complete = not message.get("more_body", False)
                if complete:  # work begins
                    self._check_room(priority)
                if seen > limit:
                    raise too_large
                held = self._held + self._held_beside()
                if held > self._most_held and held > seen:  # alone it may be as large as its own limit
                    raise Overloaded("Too many large requests are in flight. Try again in a moment.")
            return message

        async def send_noting(message: Message) -> None:
            nonlocal started
            # Rather than read what nobody wants. Whether a client that waits for "100 Continue" sends its body after
            # another answer nobody knows.
            if not started and not complete and (announced - seen > _LEFT_UNREAD or (expects and announced > seen)):
                MutableHeaders(scope=message)["Connection"] = "close"
            started = True
            self._in_work -= 1
            try:
                await send(message)
            finally:
                self._in_work += 1

        try:
            priority = _priority(asked_for)
            self._check_room(priority)
            if declared > limit:
                raise too_large
            with asked_as(priority):
                await self.app(scope, receive_bounded, send_noting)
        except (BadInput, Overloaded) as error:
            # Raised outside a route's own error handling, for instance while a form was being read.
            if started:
                raise
            await response_for(error)(scope, receive, send_noting)
        except Exception as error:
            if started:
                raise
            await bug_response(error)(scope, receive, send_noting)
        finally:
            self._held -= seen


_PRIORITIES = {priority.label.encode(): priority for priority in Priority}


def _priority(header: bytes | None) -> Priority:
    """The class that a client asks for in ``X-Priority``; without the header, the best.

    Raises:
        BadInput: there is no such class.
    """
    if header is None:
        return Priority.INTERACTIVE
    try:
        return _PRIORITIES[header]
    except KeyError:
        names = ", ".join(priority.label for priority in sorted(Priority))
        raise BadInput(f"X-Priority is one of: {names}. Without it a request is of its route's class.") from None
