"""uvicorn's HTTP/1.1 with the bounds and the care that it lacks; ``docs/decisions/0011-http-edge.md`` says why."""

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from starlette.responses import Response
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from labeling_ground.api.errors import problem
from labeling_ground.api.request_head import (
    RefusedError,
    bad_request,
    check_head,
    not_done,
    resolved,
    sentence_on,
    too_large,
    without_upgrade,
)
from labeling_ground.api.web_security import SECURITY_HEADERS
from labeling_ground.draining import Drain

if sys.platform != "win32":
    import fcntl
    import termios

log = logging.getLogger(__name__)

_PIECE = 16 * 1024
"""Bytes that the parser gets at once. It cannot be stopped at a request's end, so this many bytes of pipelined requests
may be taken apart before their turn. No limit: it decides what is done when, and refuses nothing."""
_READ_AHEAD = 64 * 1024
"""Bytes of pipelined requests, not yet taken apart, from which on a connection is not read. No limit either: the rest
waits in the kernel."""
_NO_LINGERING = struct.pack("ii", 1, 0)
"""``SO_LINGER``: closing drops what was not sent, with a reset."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on one connection.

    Attributes:
        head_bytes: largest request line and headers together, and largest trailers.
        head_seconds: longest time for them to come, from the connection or the request's first byte on.
        send_seconds: time in which a client must take ``least_bytes_s`` for each second of it, while an answer waits
            to be sent.
        least_bytes_s: bytes a second below which a client does not read, but holds a connection.
        discard_bytes: most bytes read and thrown away after an answer that did not wait for the whole request.
        discard_seconds: longest time for that.
        half_close_seconds: time after which a client that sends no more, and waits for its answer, is asked whether it
            is still there; 0: it is taken to have left.
        idle_close_seconds: time that a request has to come on a connection that waits when the server stops listening.
    """

    head_bytes: int = 64 * 1024
    head_seconds: float = 20.0
    send_seconds: float = 20.0
    least_bytes_s: int = 1024
    discard_bytes: int = 1 << 30
    discard_seconds: float = 60.0
    half_close_seconds: float = 0.25
    idle_close_seconds: float = 1.0


class _Timer:
    """One timer that can be started anew and stopped."""

    __slots__ = ("_handle",)

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float, call: Callable[[], None]) -> None:
        self.stop()
        self._handle = asyncio.get_running_loop().call_later(seconds, self._ring, call)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self, call: Callable[[], None]) -> None:
        self._handle = None
        call()


class _Transport:
    """The transport as uvicorn's cycles see it: writing is watched, and closing lets the client finish."""

    __slots__ = ("_http", "_least", "_raw", "_taken", "_watch", "_watched", "_written")

    def __init__(self, http: "BoundedHttp", raw: asyncio.Transport) -> None:
        self._http = http
        self._raw = raw
        self._written = 0  # bytes so far
        self._watch = _Timer()
        self._least = http.limits.least_bytes_s * http.limits.send_seconds
        self._watched = self._taken = 0  # bytes written, and of these taken, when sending was last looked at
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # for what the kernel still holds when the connection is closed
            milliseconds = max(1, round(2e3 * http.limits.send_seconds))  # later than ours: it ends without a word
            with contextlib.suppress(OSError):
                raw.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self._raw.write(data)
        if not self._watch.is_running:
            self._watch_sending()

    def close(self) -> None:
        self._http.finish()

    def is_closing(self) -> bool:
        return self._http.is_finishing or self._raw.is_closing()

    def lost(self) -> None:
        """The connection is gone."""
        self._watch.stop()

    def _watch_sending(self) -> None:
        """Look, as long as anything is on its way, whether the client takes it; and cut it off if it does not."""
        self._watched, self._taken = self._written, self._taken_by_client()
        self._watch.start(self._http.limits.send_seconds, self._look_at_sending)

    def _look_at_sending(self) -> None:
        taken = self._taken_by_client()
        if taken >= self._written:
            return
        if taken >= self._watched or taken - self._taken >= self._least:
            self._watch_sending()
            return
        log.info("a client does not read its answer, and is cut off")
        with contextlib.suppress(OSError):  # the kernel shall not go on trying with what it holds
            self._raw.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self._raw.abort()

    def _taken_by_client(self) -> int:
        """Bytes written so far, less those that wait here, and those in the kernel where that tells."""
        taken: int = self._written - self._raw.get_write_buffer_size()
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                told = fcntl.ioctl(self._raw.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
                taken -= struct.unpack("i", told)[0]
        return taken


class _HalfClosed:
    """Whether a client that has closed its sending side is still there to read its answer.

    One that only says that it sends no more (``nc -N``, the checks of some proxies), and one that has left, look the
    same, until bytes are sent: the latter's system answers them with a reset. HTTP/1.1 has bytes for that, an interim
    answer that every client skips. Over HTTP/1.0, which has none, a client is taken to have left.
    """

    __slots__ = ("_http", "_pause_s", "_timer", "has_begun")

    def __init__(self, http: "BoundedHttp") -> None:
        self._http = http
        self._timer = _Timer()
        self._pause_s = http.limits.half_close_seconds
        self.has_begun = False

    def begin(self) -> None:
        """The client sends no more."""
        if not self.has_begun:
            self.has_begun = True
            self._timer.start(self._pause_s, self._ask)

    def stop(self) -> None:
        """The connection is gone."""
        self._timer.stop()

    def _ask(self) -> None:
        http, raw = self._http, self._http.raw
        if raw.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raw.abort()
            return
        cycle = http.answering
        if cycle is not None and not cycle.response_started:
            if cycle.scope.get("http_version") == "1.0":
                raw.close()
                return
            http.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._timer.start(self._pause_s, self._ask)
        self._pause_s *= 2


class BoundedHttp(HttpToolsProtocol):
    """One connection on which every request is answered in its turn, and which nobody can hold by doing nothing.

    A request that breaks the protocol or a bound is answered (400, 408, 431, 501, 505) after those before it, and is
    the connection's last. Bodies have bounds of their own, see ``edge.Limits``.
    """

    limits = HttpLimits()
    drain: Drain | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for a request."""
        super().connection_made(transport)
        self.raw = transport
        self.transport: Any = _Transport(self, transport)
        self.is_finishing = False  # whether the last answer was given: what comes now is thrown away
        self._is_deaf = False  # whether the parser has stopped: after what cannot be read nothing can be
        self._in_head = True  # whether what comes next belongs to a request line, headers, or the time before them
        self._head = self._trailers = 0  # bytes of those, counted by whole pieces; and of trailers
        self._begun: object = None  # the scope of the last request whose head was complete
        self._is_upgrade = False
        self.answering: RequestResponseCycle | None = None  # the cycle whose turn it is; `cycle` is the newest
        self._read_ahead = bytearray()
        self._head_timer, self._discard_timer = _Timer(), _Timer()
        self._discarded, self._half_closed = 0, _HalfClosed(self)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request whose turn it is, not only the newest; those behind it never begin."""
        self._head_timer.stop()
        self._discard_timer.stop()
        self._half_closed.stop()
        self.transport.lost()
        if self.answering is not None and not self.answering.response_complete:
            self.answering.disconnected = True
            self.answering.message_event.set()
        self.pipeline.clear()
        self._read_ahead.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. Whether the connection stays open: no request broke off, and an answer is due."""
        # The rest of a body may wait here for its turn: whether that is whole shows when it is taken apart.
        is_whole = (self._in_head or self._is_deaf or self._read_ahead) and not self.is_finishing
        is_due = self._read_ahead or (self.answering is not None and not self.cycle.response_complete)
        if not (is_whole and is_due and self.limits.half_close_seconds):
            return False
        self._half_closed.begin()
        if not self._read_ahead:
            self.end_after_answer()
        return True

    def end_after_answer(self) -> None:
        """Say in the answer to the newest request that it is the connection's last."""
        if self._begun is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close what only waits, but not at once: a request on its way would be reset, and an unread answer lost."""
        if self.answering is not None and not self.cycle.response_complete:
            super().shutdown()
        elif self._in_head and not self._is_deaf and not self.is_finishing:
            self._head_timer.start(self.limits.idle_close_seconds, self.raw.close)
        else:
            self.finish()
            self._discard_timer.start(self.limits.idle_close_seconds, self.raw.close)

    def data_received(self, data: bytes) -> None:
        """Take requests apart, but for those whose turn is far."""
        self._unset_keepalive_if_required()
        if self._discard_timer.is_running:
            self._discarded += len(data)
            if self._discarded > self.limits.discard_bytes:
                self.raw.close()
                return
        if self._is_deaf:
            return
        if self.pipeline or self._read_ahead:
            self._read_ahead += data
            if len(self._read_ahead) > _READ_AHEAD:
                self.flow.pause_reading()
        elif len(data) <= _PIECE:
            self._parse(data)
        else:
            self._read_ahead += data
            self._parse_read_ahead()

    def _parse_read_ahead(self) -> None:
        while self._read_ahead and not self.pipeline and not self._is_deaf:
            piece = bytes(self._read_ahead[:_PIECE])
            del self._read_ahead[:_PIECE]
            self._parse(piece)

    def _parse(self, data: bytes) -> None:
        if not data or self._is_deaf:
            return
        if self._in_head:
            self._head += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade()
            self._parse(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.response if isinstance(cause, RefusedError) else bad_request(sentence_on(error)))
        else:
            if not self._head or not self._in_head:
                return
            if self._head > self.limits.head_bytes:
                self._refuse(too_large(self.limits.head_bytes))
            elif not self._head_timer.is_running and not self.is_finishing:
                self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header. Trailers, which come after a body in chunks, are counted and not looked at."""
        if self._in_head:
            super().on_header(name, value)
            return
        self._trailers += len(name) + len(value) + 4
        if self._trailers > self.limits.head_bytes:
            raise RefusedError(too_large(self.limits.head_bytes))

    def on_headers_complete(self) -> None:
        """Begin the request, if its head is good; the body comes next."""
        if self.is_finishing:
            raise RefusedError(bad_request("The connection is being closed."))  # nobody reads this
        check_head(self.url, self.headers, self.parser.get_http_version(), self.limits.head_bytes)
        if not self.url.startswith(b"/") and b"://" in self.url:
            self.url = resolved(self.url, self.headers)
        self._in_head = False
        self._head = self._trailers = 0
        self._begun = self.scope
        self._head_timer.stop()
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._in_head = True
                raise RefusedError(not_done(501, "This server is no proxy: it does not CONNECT to others."))
            self._is_upgrade = True
            return
        super().on_headers_complete()
        if self.drain is not None and self.drain.has_begun:
            self.end_after_answer()
        if not self.pipeline:
            self.answering = self.cycle

    def on_message_complete(self) -> None:
        """The request is here; the next head may come. uvicorn closes a connection that stays idle."""
        if self._is_upgrade:
            return
        self._in_head = True
        super().on_message_complete()
        if self.is_finishing:
            self.raw.close()
        elif self.cycle.response_complete:  # before its body was here
            self._discard_timer.stop()
            seconds = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _ignore_upgrade(self) -> None:
        """Have the head read again without the wish for another protocol, which hides the body from the parser."""
        head = without_upgrade(self.parser, self.url, self.headers)
        self._is_upgrade, self._in_head = False, True
        self.parser = httptools.HttpRequestParser(self)
        self._parse(head)

    def _refuse(self, response: Response) -> None:
        """Answer what comes next on this connection, in its turn, and read no request after it."""
        self._is_deaf = True
        self._read_ahead.clear()
        self._head_timer.stop()
        if self.raw.is_closing() or self.is_finishing:
            return
        log.info("refused a request: %s", response.status_code)
        if not self._in_head:  # it is the newest cycle's body that is bad
            self._drop(self.cycle)
            if self.cycle.response_started:
                self.finish()
                return
        response.raw_headers.extend(SECURITY_HEADERS)
        app: Any = response
        self.cycle = _last_cycle(self)
        if self.answering is None or self.answering.response_complete or self.answering.disconnected:
            self._begin(self.cycle, app)
        else:
            self.pipeline.appendleft((self.cycle, app))

    def _drop(self, cycle: RequestResponseCycle) -> None:
        """Let a request end as if its client had left."""
        cycle.disconnected = True
        cycle.message_event.set()
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.answering = cycle
        self._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request, or with what is left of this one's body."""
        following = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if following is not None:
            self.answering = following
        if self.cycle.response_complete and not self._in_head:
            self._discard()
        self._parse_read_ahead()
        if self._half_closed.has_begun and not self.eof_received():
            self.raw.close()

    def finish(self) -> None:
        """Close the connection; first let a client that is still sending finish: with data unread it is reset, and what
        its other end has not read is thrown away."""
        if self.transport.is_closing():
            return
        self.is_finishing = True
        self._head_timer.stop()
        if self._in_head and not self._is_deaf:
            self.raw.close()
            return
        if self.raw.can_write_eof():
            self.raw.write_eof()
        self.flow.resume_reading()
        self._discard()

    def _discard(self) -> None:
        if not self._discard_timer.is_running:
            self._discarded = 0
            self._discard_timer.start(self.limits.discard_seconds, self.raw.close)

    def _await_head(self) -> None:
        self._head_timer.start(self.limits.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._read_ahead:  # it may be here, and we not have read it
            self._await_head()
        elif self.scope is self._begun:  # nobody asked for anything more; a line break is no request
            self.transport.close()
        else:
            sentence = f"The headers did not come within {self.limits.head_seconds:g} seconds. Send the request again."
            self._refuse(problem(408, "request-timeout", "The request did not arrive in time", sentence))


def _last_cycle(http: BoundedHttp) -> RequestResponseCycle:
    """What answers in place of a request that cannot be read, as the connection's last."""
    method = "HEAD" if http.parser.get_method() == b"HEAD" else "GET"
    return RequestResponseCycle(
        scope={"type": "http", "method": method, "headers": []},  # type: ignore[typeddict-item]
        transport=http.transport,
        flow=http.flow,
        logger=http.logger,
        access_logger=http.access_logger,
        access_log=False,
        default_headers=http.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=False,
        on_response=http.on_response_complete,
    )


def bounded_http(limits: HttpLimits, drain: Drain | None = None) -> type[BoundedHttp]:
    """The protocol with these bounds, for uvicorn, which wants a class."""
    return type("BoundedHttp", (BoundedHttp,), {"limits": limits, "drain": drain})
