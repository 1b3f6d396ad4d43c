"""Listening and running, for the commands that serve."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from labeling_ground.api.protocol import BoundedHttp, HttpLimits, bounded_http
from labeling_ground.draining import Drain
from labeling_ground.errors import BadSettings
from labeling_ground.inference.memory import exempt_from_collections
from labeling_ground.settings import Settings

if sys.platform != "win32":
    import resource


_THREADS_S = 5.0
"""Seconds that threads have to end when all is answered, written and closed."""
_HOST_HINT = (
    "Choose another with --host or LABELING_GROUND_HOST: 127.0.0.1 is this machine only, 0.0.0.0 all that it has."
)


def listen(host: str, port: int, *, hint: str) -> socket.socket:
    """A listening socket.

    Args:
        host: an address of this machine, or a name of one.
        port: 0 takes a free one.
        hint: how to choose another port, for the error's sentence.

    Raises:
        BadSettings: it cannot be had; the sentence says whether the host or the port is at fault.
    """
    host = host.removeprefix("[").removesuffix("]")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:  # the latter: it cannot even be a name
        why = error.strerror if isinstance(error, OSError) else "that is no host name"
        raise BadSettings(f"Cannot listen on the host {host}: {why}. {_HOST_HINT}") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise BadSettings(f"Cannot listen on {host}: no interface of this machine has it. {_HOST_HINT}") from None
        raise BadSettings(f"Cannot listen on {host} port {port}: {error.strerror}. {hint}") from None
    listener.setblocking(False)
    return listener


def configuration(app: Any, settings: Settings, drain: Drain | None = None) -> uvicorn.Config:
    """How uvicorn serves an app of ours. Once ``drain`` has begun, every answer is the last one of its connection."""
    limits = HttpLimits(
        head_bytes=int(settings.max_header_bytes),
        head_seconds=settings.receive_timeout_s,
        send_seconds=settings.send_timeout_s,
        discard_bytes=int(settings.discard_bytes),
        discard_seconds=settings.discard_timeout_s,
        least_bytes_s=int(settings.min_bytes_per_s),
        half_close_seconds=settings.half_close_s,
        idle_close_seconds=settings.shutdown_idle_s,
    )
    return uvicorn.Config(
        app,
        http=bounded_http(limits, drain),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
        timeout_keep_alive=settings.keep_alive_s,
    )


def allow_many_files() -> None:
    """Have as many connections and open files as the system grants: the usual soft limit, 1024, is soon reached."""
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # some systems grant less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class DrainingServer(uvicorn.Server):
    """A server that ends in steps: not ready at once; after a delay no new connections; then what runs is answered.

    Args:
        config: see ``configuration``.
        drain: begins with the signal.
        delay_s: seconds between the signal and the end of new connections, for load balancers to notice it.
        beat: called ten times a second, as long as the event loop runs.
        ended: called when all is answered and closed.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        delay_s: float,
        beat: Callable[[], None] | None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._ended = ended
        self._drain = drain
        self._delay_s = delay_s
        self._beat = beat

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn: open what the app needs, then listen."""
        await super().startup(sockets)
        exempt_from_collections()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn's ``run``."""
        await super().serve(sockets)
        self._ended()

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if self._beat is not None:
            self._beat()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called with the signal; a second SIGINT ends the server without waiting for anything."""
        self._drain.begin()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called soon after the signal."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedHttp):
                connection.end_after_answer()
        until = time.monotonic() + self._delay_s
        while time.monotonic() < until and not self.force_exit:  # noqa: ASYNC110 -- a signal's handler sets it
            await asyncio.sleep(min(0.05, self._delay_s))
        await self._stop_listening(sockets or [])
        await super().shutdown(sockets)

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Take in the connections that the kernel has accepted, and no more: a listener that is closed resets them."""
        loop = asyncio.get_running_loop()
        for listener in sockets:
            with contextlib.suppress(NotImplementedError):  # on Windows
                loop.remove_reader(listener)
        await asyncio.sleep(0)  # those that asyncio took a moment ago are not yet in its list
        waiting = [connection for listener in sockets for connection in _accepted(listener)]
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()  # at once: uvloop's servers leave it open for the moment
        http = partial(
            cast("Any", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        for connection in waiting:
            await loop.connect_accepted_socket(http, connection)


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    with contextlib.suppress(OSError):  # none is left; or the system grants no more open files
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


def run(
    app: Any, settings: Settings, *listeners: socket.socket, drain: Drain, beat: Callable[[], None] | None = None
) -> None:
    """Serve until told to stop; what is in flight is answered first. The process is to end after it.

    Args:
        app: what is served.
        settings: of the server.
        *listeners: where it listens.
        drain: what the app looks at.
        beat: called ten times a second while the app is served.
    """
    allow_many_files()
    # uvicorn shuts down gracefully at these signals and then raises them again for the handlers of before. That is
    # us, and we have nothing to add: the process ends with exit code 0, without a traceback.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    configured = configuration(app, settings, drain)
    server = DrainingServer(configured, drain, settings.drain_delay_s, beat, _end_soon)
    server.run(sockets=list(listeners))


def _end_soon() -> None:
    """End the process also where a thread does not end, in which an engine's call or a model's load hangs: the event
    loop and Python wait for threads, however long that takes."""
    last = threading.Timer(_THREADS_S, os._exit, (0,))
    last.daemon = True
    last.start()
