"""What every request passes: checks of origin, places and size before it, and headers, metrics and a log line after it.

Plain ASGI. What a request passes here it passes for every answer, a cache hit's too, so nothing is done twice.
"""

import asyncio
import logging
import math
import re
import secrets
import time
import types
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_ground.api.adapter import Endpoint, EndpointTable, in_words
from labeling_ground.api.errors import TooSlow, answer_to, bug_response
from labeling_ground.api.limits import ALWAYS, InFlight, Limits, Usage
from labeling_ground.api.state import REQUEST_LOG_KEY, RequestLog
from labeling_ground.api.web_security import SECURITY_HEADERS, OriginCheck
from labeling_ground.errors import BadInput, LabelingGroundError, Overloaded, TooLarge
from labeling_ground.metrics import Metrics
from labeling_ground.observe import access
from labeling_ground.types import Priority
from labeling_ground.urgency import Urgency, current

_READING = frozenset({"GET", "HEAD"})
_LEFT_UNREAD = 64 * 1024
"""So much of a body that is not wanted is skipped; beyond that the connection is closed. No limit: the answer is the
same, and ``discard_bytes`` bounds what is read then."""
_SMALL = 4 * 1024
"""Bodies up to so many bytes, clicks among them, are bounded by the number of requests. No limit of its own: with
``max_requests`` of them that is all the memory that they can take."""
_MOST_HOSTS = 64
"""So many ``Host`` headers that were found good are remembered. No limit: others are looked at anew."""
_EXCHANGE = "labeling_ground.exchange"
_PRIORITIES = {priority.label.encode(): priority for priority in Priority}


class DirectRoute:
    """A route that a request is handed to at once, as the framework's way there takes longer than a cache hit's answer.

    It stands among the framework's routes too, for the documentation, and for what is wrong with a path.

    Args:
        method: HTTP method.
        path: as the framework has it, with ``{name}`` for one part.
        handle: answers a request; called with the parts of the path by name.
        parts: from a name to the pattern of good parts; a path with another one goes the framework's way, and so does a
            request with a query.
    """

    def __init__(self, method: str, path: str, handle: Callable[..., Awaitable[Response]], **parts: str) -> None:
        self.method = method
        self.path = path
        self.handle = handle
        patterns = {name: pattern.strip("^$") for name, pattern in parts.items()}
        self.match = re.compile(
            re.sub(r"\{(\w+)\}", lambda part: f"(?P<{part[1]}>{patterns[part[1]]})", path)
        ).fullmatch


class Edge:
    """Checks every request before the app gets it, and completes every answer.

    It also answers what the app's own error handling did not catch, so that such an answer is measured, and carries all
    headers, like any other.

    Args:
        app: what answers.
        limits: what is too much.
        origins: which names the server answers to, and which web sites' pages.
        metrics: counts requests, which are logged too, where that is wanted.
        endpoints: of other tools' protocols, whose clients hear of failures in their own way.
        routes: that requests are handed to without asking the app for its own.
        cors: wraps an app so that pages of other origins may read its answers.
        root_path: below it the server is, whether the proxy in front cuts that off or not: with a slash at its
            beginning and none at its end.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        origins: OriginCheck,
        metrics: Metrics | None = None,
        endpoints: EndpointTable | None = None,
        routes: Sequence[DirectRoute] = (),
        cors: Callable[[ASGIApp], ASGIApp] | None = None,
        root_path: str = "",
    ) -> None:
        self.limits = limits
        self.in_flight = InFlight(limits)
        self._app = app
        self._origins = origins
        self._good_hosts: set[bytes] = set()
        self._metrics = metrics
        self._endpoints = endpoints or EndpointTable(())
        self._routes: dict[str, list[DirectRoute]] = {}
        for route in routes:
            self._routes.setdefault(route.method, []).append(route)
        self._admitted: ASGIApp = cors(self._admit) if cors else self._admit
        self._root = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if self._root:
            if path == self._root:  # the page's relative addresses would lead beside it
                await RedirectResponse(f"{self._root}/", 308)(scope, receive, send)
                return
            if path.startswith(f"{self._root}/"):
                path = scope["path"] = path.removeprefix(self._root)
            scope["root_path"] = self._root
        exchange = scope[_EXCHANGE] = Exchange(self, scope, receive, send)
        # One with a query goes the framework's way, which reads it.
        for route in self._routes.get(scope["method"], ()) if not scope.get("query_string") else ():
            if (parts := route.match(path)) is not None:
                exchange.route = route, parts
                break
        else:
            path = scope["path"] = self._endpoints.settled(path)
            exchange.use(self._endpoints.find(path).get(scope["method"]))
        try:
            await self._admitted(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            exchange.status = exchange.status or 499  # the server is stopping, and the grace is over
            raise
        except Exception:
            exchange.status = exchange.status or 500
            raise
        finally:
            exchange.finish(self._metrics)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[_EXCHANGE]
        try:
            headers = exchange.headers
            if headers.get(b"host") not in self._good_hosts or b"origin" in headers or b"sec-fetch-site" in headers:
                self._check_origin(scope["method"], headers)
            if scope["method"] not in _READING or not self.limits.takes_no_place(scope["path"]):
                self._give_place(exchange, scope)
            if exchange.route is not None:
                route, parts = exchange.route
                scope["route"] = route
                response = await route.handle(Request(scope, receive, send), **parts.groupdict())
                await response(scope, receive, send)
                return
            if scope["method"] != "HEAD":
                await self._app(scope, receive, send)
                return
            asked = {**scope, "method": "GET"}  # a copy: the server around us must not wait for a body
            try:
                await self._app(asked, receive, send)
            finally:
                if "route" in asked:
                    scope["route"] = asked["route"]
        except asyncio.CancelledError:
            if not exchange.status:
                stopping = Overloaded("The server is stopping. Try again when it is back.")
                await answer_to(stopping)(scope, receive, send)
            raise
        except Exception as error:
            if exchange.status:
                raise
            if isinstance(error, ClientDisconnect):
                response = Response(status_code=499)  # nobody reads this; it is what the log line says
            else:
                response = answer_to(error) if isinstance(error, LabelingGroundError) else bug_response(error)
            await response(scope, receive, send)

    def _check_origin(self, method: str, headers: dict[bytes, bytes]) -> None:
        """See that the request is for this host name, and not from a foreign web page.

        Raises:
            UnknownHost, CrossSite: it is not.
        """
        self._origins.check(method, headers)
        host = headers.get(b"host")
        if host is not None and len(self._good_hosts) < _MOST_HOSTS:
            self._good_hosts.add(host)

    def _give_place(self, exchange: "Exchange", scope: Scope) -> None:
        """Let the request be worked on.

        Raises:
            Overloaded: too many are, and the tenant has its part of the places.
            BadInput: the client asks for a class that there is not.
        """
        header = exchange.headers.get(b"x-priority")
        if header is not None:
            if header not in _PRIORITIES:
                names = ", ".join(priority.label for priority in sorted(Priority))
                raise BadInput(f"X-Priority is one of: {names}. Without it a request is of its route's class.")
            exchange.priority = _PRIORITIES[header]
        # It goes with the task rather than from hand to hand, like a trace's id: what asks, and what waits in a queue
        # for it, are many calls apart.
        exchange.urgency = current.set(Urgency(exchange.priority) if header is not None else None)
        exchange.usage = self.in_flight.enter(scope)
        if self.in_flight.total.in_work > self.in_flight.half:
            self.in_flight.check_places(exchange.usage, exchange.priority)


class Exchange:
    """One request on its way in, and its answer on its way out: bounded, timed, and noted for the log.

    Attributes:
        headers: of the request; of those that came several times, the last.
        log: what the routes note of it.
        status: of the answer; 0 before that begins.
        usage: what the tenant has whose request this is; ``None`` where the request takes no place, and its body is not
            bounded.
        route: where it goes at once, and the parts of its path.
        priority: its class.
        urgency: gives back what class the task worked for before.
        seen: bytes of the body that were received.
    """

    def __init__(self, edge: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.log = scope[REQUEST_LOG_KEY] = RequestLog()
        self.status = 0
        self.usage: Usage | None = None
        self.route: tuple[DirectRoute, re.Match[str]] | None = None
        self.priority = Priority.INTERACTIVE
        self.urgency: Any = None
        self.seen = 0
        self._edge = edge
        self._scope = scope
        self._receive = receive
        self._send = send
        self._most_bytes = edge.limits.bodies.get(scope["path"], edge.limits.most_bytes)
        self._started = time.perf_counter()
        self._deadline = 0.0
        self._complete = False
        self._id = secrets.token_hex(6)

    def use(self, endpoint: Endpoint | None) -> None:
        """Hold to what the endpoint of another tool says of bodies and failures, where the request is for one."""
        if endpoint is not None:
            self._send = in_words(endpoint, self._send)
            self._most_bytes = endpoint.max_body_bytes or self._most_bytes

    async def receive(self) -> Message:
        """The next piece of the request.

        Raises:
            TooSlow: it did not come in time.
            TooLarge: the body exceeds the path's limit, or says that it will.
            Overloaded: there is no room for it now.
        """
        in_flight, usage, most = self._edge.in_flight, self.usage, self._most_bytes
        # Once it is complete, what comes is the client leaving, which may take as long as it likes.
        if self._complete or usage is None:
            return await self._receive()
        length = self.headers.get(b"content-length", b"")
        # Not before it is asked for: who may not ask at all hears that first.
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        total = in_flight.total
        total.in_work -= 1
        usage.in_work -= 1
        receiving = self._receive().__await__()
        try:
            # Mostly it is here already, and a timer would cost more than all else that is done for it here.
            waits_for = next(receiving)
        except StopIteration as done:
            message: Message = done.value
        else:
            message = await self._awaited(receiving, waits_for)
        finally:
            total.in_work += 1
            usage.in_work += 1
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.seen += size
            total.held += size
            usage.held += size
            self._complete = not message.get("more_body", False)
            if self._complete and total.in_work > in_flight.half:  # work begins
                in_flight.check_places(usage, self.priority)
            if self.seen > most:
                raise _too_large(most)
            if self.seen > _SMALL:
                in_flight.check_bytes(usage, self.seen)
        return message

    async def _awaited(self, receiving: Generator[Any, Any, Message], waits_for: Any) -> Message:
        """The next piece of the request, which is not here yet.

        Raises:
            TooSlow: it did not come in time.
        """
        now, limits = asyncio.get_running_loop().time(), self._edge.limits
        self._deadline = self._deadline or now + limits.silence_s
        try:
            async with asyncio.timeout_at(
                min(now + limits.silence_s, self._deadline + self.seen / limits.least_bytes_s)
            ):
                return await _rest_of(receiving, waits_for)
        except TimeoutError:
            raise TooSlow(
                f"Of the request's body {self.seen} bytes came, and then too little for too long. Send it again."
            ) from None

    async def send(self, message: Message) -> None:
        """Pass a piece of the answer on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            if not self._complete and self._leaves_much_unread():
                MutableHeaders(scope=message)["Connection"] = "close"
            self.status = message["status"]
            parts = [f"{name};dur={seconds * 1e3:.2f}" for name, seconds in self.log.timing.items()]
            parts.append(f"total;dur={(time.perf_counter() - self._started) * 1e3:.2f}")
            own = ((b"server-timing", ", ".join(parts).encode()), (b"x-request-id", self._id.encode()))
            message["headers"] = [*message.get("headers", ()), *own, *SECURITY_HEADERS]
        elif self._scope["method"] == "HEAD":
            if message.get("more_body", False):
                return
            message = {"type": "http.response.body", "body": b""}
        if self.usage is None:
            await self._send(message)
            return
        total = self._edge.in_flight.total
        total.in_work -= 1
        self.usage.in_work -= 1
        try:
            await self._send(message)
        finally:
            total.in_work += 1
            self.usage.in_work += 1

    def finish(self, metrics: Metrics | None) -> None:
        """Give back what the request has, and note how it went."""
        if self.usage is not None:
            self._edge.in_flight.leave(self.usage, self.seen)
        if self.urgency is not None:
            current.reset(self.urgency)
        log = self.log
        if log.at_end is not None:
            log.at_end()
        if metrics is None:
            return
        seconds = time.perf_counter() - self._started
        template = getattr(self._scope.get("route"), "path", None) or "(none)"
        metrics.observe(template, self.status, log.outcome, seconds)
        if access.isEnabledFor(logging.INFO) and template not in ALWAYS:
            fields: dict[str, Any] = {"status": self.status, "outcome": log.outcome, "ms": round(seconds * 1e3, 2)}
            fields |= {f"{name}_ms": round(took * 1e3, 2) for name, took in log.timing.items()}
            fields |= log.fields
            fields["request"] = self._id
            said = self._scope["method"], self._scope["path"]
            # By hand: the logger would look for the line of code that says it, which is always this one.
            line = logging.LogRecord(access.name, logging.INFO, __file__, 0, "%s %s", said, None)
            line.fields = fields
            access.handle(line)

    def _leaves_much_unread(self) -> bool:
        """Whether so much of the body is unread that the connection is to be closed."""
        length = self.headers.get(b"content-length", b"")
        announced = math.inf if b"transfer-encoding" in self.headers else int(length) if length.isdigit() else 0
        # Whether a client that waits for "100 Continue" sends its body after another answer nobody knows.
        return announced - self.seen > (0 if b"expect" in self.headers else _LEFT_UNREAD)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"The request's body is larger than {most} bytes, which is this server's limit.")


@types.coroutine
def _rest_of(steps: Generator[Any, Any, Message], waits_for: Any) -> Generator[Any, Any, Message]:
    """Finish a coroutine whose first step was made by hand: pass what it waits for to the running task."""
    while True:
        try:
            yield waits_for
        except BaseException as error:  # noqa: BLE001 -- a cancellation as well is the coroutine's own to see
            step = partial(steps.throw, error)
        else:
            step = partial(next, steps)
        try:
            waits_for = step()
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
