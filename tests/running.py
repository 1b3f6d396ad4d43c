"""``labeling-ground`` in a process of its own, and apps in threads, ready when they are handed out."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import httpx
import uvicorn
from starlette.types import ASGIApp

STARTS_WITHIN_S = 240.0


@contextlib.contextmanager
def command(*words: str, ready: str, **settings: object) -> Iterator["subprocess.Popen[bytes]"]:
    """``labeling-ground`` with these words and no settings but these, once this address answers 200."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LABELING_GROUND_")}
    environment |= {f"LABELING_GROUND_{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.Popen([sys.executable, "-m", "labeling_ground", *words], env=environment)
    try:
        until = time.monotonic() + STARTS_WITHIN_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(ready, timeout=30).status_code == 200:
                    break
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)


@contextlib.contextmanager
def in_thread(app: ASGIApp, sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Serve an app on these sockets from a thread."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": list(sockets)})
    thread.start()
    try:
        until = time.monotonic() + STARTS_WITHIN_S
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < until
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(STARTS_WITHIN_S)
        assert not thread.is_alive()
