"""What comes before a body is bounded too: by a real server, started as users start it."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("served")
    environment = os.environ | {
        "LABELING_GROUND_CACHE_DIR": str(folder / "cache"),
        "LABELING_GROUND_MAX_HEADER_BYTES": "16384",
        "LABELING_GROUND_RECEIVE_TIMEOUT_S": "4",
    }
    said = folder / "stderr"
    with said.open("wb") as stderr:
        command = [sys.executable, "-m", "labeling_ground", "serve", "--port", "0"]
        process = subprocess.Popen(command, env=environment, stderr=stderr)
    try:
        yield _port(process, said)
    finally:
        process.terminate()
        process.wait(60)


def _port(process: "subprocess.Popen[bytes]", said: Path) -> int:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", said.read_text())
        if found:
            return int(found.group(1))
        time.sleep(0.05)
    raise AssertionError(said.read_text())


def exchange(port: int, *pieces: bytes, timeout: float = 60.0) -> bytes:
    """Send, then read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has closed already; its answer may still be there to read
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        return received


def test_headers_without_end_are_refused_long_before_they_fill_the_memory(port: int) -> None:
    answer = exchange(port, b"GET /health/live HTTP/1.1\r\nHost: x\r\n", *(b"X-A: " + b"a" * 8000 + b"\r\n",) * 5)
    assert answer.startswith(b"HTTP/1.1 431 ")
    one_long = exchange(port, b"GET /health/live HTTP/1.1\r\nX-A: " + b"a" * 60_000)
    assert one_long.startswith(b"HTTP/1.1 431 ")


def test_headers_that_do_not_end_are_408_and_a_silent_connection_is_closed(port: int) -> None:
    assert exchange(port, b"GET /health/live HT").startswith(b"HTTP/1.1 408 ")
    assert exchange(port) == b""


def test_ordinary_requests_one_after_the_other_on_one_connection_are_not_counted_together(port: int) -> None:
    one = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 6000 + b"\r\n\r\n"
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
    body = b'{"points":[{"x":1,"y":1}],"box":null' + b" " * 50_000 + b"}"
    post = b"POST /v1/images/%s/masks HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (b"0" * 64, len(body))
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for request, status in ((one, b"200"), (post + body, b"404"), (one, b"200"), (one, b"200")):
            connection.sendall(request)
            head, length = b"", 0
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            head, _, rest = head.partition(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert found is not None
            length = int(found.group(1))
            while len(rest) < length:
                rest += connection.recv(65536)
            assert head.split()[1] == status
        connection.sendall(last)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
