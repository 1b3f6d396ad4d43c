"""uvicorn's HTTP/1.1 with a bound on a request's head, which it has not: neither bytes nor seconds."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class BoundedHttp(HttpToolsProtocol):
    """Answers 431 to a head that is too large, 408 to one that does not end, and closes the connection.

    A body has its own bounds (``middleware.Limit``); what comes before it never reaches the app.
    """

    most_bytes = 64 * 1024
    """Largest request line and headers together."""
    most_seconds = 20.0
    """Longest time for them to come, from the connection or the request's first byte on."""

    _in_head = True
    _head = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for a request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, and let uvicorn read it."""
        if self._in_head:
            self._head += len(data)
            if self._timer is None:
                self._wait()
        super().data_received(data)
        if self._in_head and self._head > self.most_bytes:
            self._refuse(b"431 Request Header Fields Too Large", f"The headers exceed {self.most_bytes} bytes.")

    def on_headers_complete(self) -> None:
        """The head is here; the body comes next."""
        self._in_head, self._head = False, 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is here; the next head may come. uvicorn closes a connection that stays idle."""
        self._in_head = True
        super().on_message_complete()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.most_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self._head:
            self.transport.close()  # nobody ever asked for anything
        else:
            self._refuse(b"408 Request Timeout", f"The headers did not come within {self.most_seconds:g} seconds.")

    def _refuse(self, status: bytes, sentence: str) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        body = sentence.encode()
        self.transport.write(
            b"HTTP/1.1 "
            + status
            + b"\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\nconnection: close\r\n\r\n"
            + body
        )
        self.transport.close()


def bounded_http(*, most_bytes: int, most_seconds: float) -> type[BoundedHttp]:
    """The protocol with these bounds, for uvicorn, which wants a class."""
    bounds: dict[str, Any] = {"most_bytes": most_bytes, "most_seconds": most_seconds}
    return type("BoundedHttp", (BoundedHttp,), bounds)
