"""What comes before a body is bounded too, and read as HTTP/1.1 has it: by a real server, started as users start it."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.needs import needs_program


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server writes."""
    return tmp_path_factory.mktemp("served") / "stderr"


@pytest.fixture(scope="module")
def port(said: Path) -> Iterator[int]:
    folder = said.parent
    environment = os.environ | {
        "LABELING_GROUND_CACHE_DIR": str(folder / "cache"),
        "LABELING_GROUND_MAX_HEADER_BYTES": "16384",
        "LABELING_GROUND_RECEIVE_TIMEOUT_S": "4",
    }
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
    answer = exchange(
        port, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n", *(b"X-A: " + b"a" * 8000 + b"\r\n",) * 5
    )
    assert answer.startswith(b"HTTP/1.1 431 ")
    one_long = exchange(port, b"GET /health/live HTTP/1.1\r\nX-A: " + b"a" * 60_000)
    assert one_long.startswith(b"HTTP/1.1 431 ")


def test_headers_that_do_not_end_are_408_and_a_silent_connection_is_closed(port: int) -> None:
    assert exchange(port, b"GET /health/live HT").startswith(b"HTTP/1.1 408 ")
    assert exchange(port) == b""


def test_ordinary_requests_one_after_the_other_on_one_connection_are_not_counted_together(port: int) -> None:
    one = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 6000 + b"\r\n\r\n"
    last = one.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close")
    body = b'{"points":[{"x":1,"y":1}],"box":null' + b" " * 50_000 + b"}"
    post = b"POST /v1/images/%s/masks HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (
        b"0" * 64,
        len(body),
    )
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


def answers(port: int, *pieces: bytes) -> list[int]:
    """The statuses of all answers on one connection, until the server closes."""
    received = exchange(port, *pieces)
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


GOOD = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://evil.example/health/live", b"localhost", 421),
        (b"http://evil.example:80/health/live", b"localhost", 421),
        (b"http://localhost@evil.example/health/live", b"localhost", 421),
        (b"HTTPS://evil.example", b"localhost", 421),
        (b"http://localhost/health/live", b"localhost", 200),
        (b"http://LOCALHOST:8000/health/live?a=b://c", b"localhost:8000", 200),
        (b"http://[::1]:8000/health/live", b"[::1]:8000", 200),
        (b"http://localhost/health/live", b"evil.example", 200),
        (b"http://localhost", b"localhost", 200),
        (b"/health/live?next=http://evil.example/", b"localhost", 200),
        (b"//evil.example/health/live", b"localhost", 404),
        (b"http:///health/live", b"localhost", 400),
    ],
)
def test_the_host_that_a_target_in_absolute_form_names_is_the_requests(
    port: int, target: bytes, host: bytes, status: int
) -> None:
    """RFC 9112, 3.2.2: the Host header says nothing then, so it must not be what is checked."""
    for version in (b"1.1", b"1.0"):
        request = b"GET %s HTTP/%s\r\nHost: %s\r\nConnection: close\r\n\r\n" % (target, version, host)
        assert answers(port, request) == [status], version


def headers_of(size: int) -> bytes:
    """A request of exactly that many bytes, which is answered 200 and closes the connection."""
    head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-A: "
    return head + b"a" * (size - len(head) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("before", [b"", GOOD, GOOD * 3], ids=["first", "second", "pipelined"])
def test_the_bound_on_headers_holds_when_they_come_in_one_piece(port: int, before: bytes) -> None:
    good = before.count(b"GET")
    assert answers(port, before + headers_of(16384)) == [200] * (good + 1)
    assert answers(port, before + headers_of(16384 + 64)) == [200] * good + [431]
    assert answers(port, before + headers_of(100_000)) == [200] * good + [431]
    many = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 5000 + b"\r\n"
    assert answers(port, before + many) == [200] * good + [431]
    target = b"GET /health/live?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert answers(port, before + target) == [200] * good + [431]


def test_trailers_are_bounded_and_are_no_headers(port: int) -> None:
    """They come after the body, so nobody may take them for what the client said before it."""
    path = b"/v1/images/" + b"0" * 64 + b"/masks"
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    assert answers(port, head + b"X-A: b\r\n" * 3 + b"\r\n" + LAST)[-1] == 200
    assert answers(port, head + b"X-A: b\r\n" * 50_000 + b"\r\n") == [431]


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01garbage\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"\x16\x03\x01 TLS"]
)
@pytest.mark.parametrize("good", [0, 1, 5])
def test_garbage_behind_good_requests_loses_none_of_their_answers(
    port: int, said: Path, good: int, garbage: bytes
) -> None:
    assert answers(port, GOOD * good + garbage * 20) == [200] * good + [400]
    assert answers(port, *[GOOD] * good, garbage) == [200] * good + [400]
    assert "Traceback" not in said.read_text()


def test_garbage_in_a_body_is_answered_in_place_of_its_request(port: int, said: Path) -> None:
    chunks = (
        b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nnonsense\r\n"
    )
    assert answers(port, chunks) == [400]
    assert answers(port, GOOD * 2 + chunks) == [200, 200, 400]
    assert "Traceback" not in said.read_text()


def test_pipelined_requests_are_answered_in_their_order(port: int) -> None:
    """More of them than are taken apart at once, some with a body."""
    unknown = b"POST /v1/images/" + b"0" * 64 + b"/masks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\n"
    unknown += b'{"points": [{"x": 1, "y": 1}]}'
    assert answers(port, (GOOD + unknown) * 400 + LAST + GOOD) == [200, 404] * 400 + [200]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nhost: other\r\n", 400),
        (b"GET /health/live HTTP/1.0\r\nHost: localhost\r\nHost: other\r\n", 400),
        (b"GET /health/live HTTP/1.0\r\n", 200),
        (b"GET /health/live HTTP/2.0\r\nHost: localhost\r\n", 505),
        (b"CONNECT other:443 HTTP/1.1\r\nHost: localhost\r\n", 501),
        (b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        (
            b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            501,
        ),
        (b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n", 501),
        (b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n", 501),
        (b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, chunked\r\n", 400),
        (b"POST /v1/images HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n", 400),
        (b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 5\r\n", 400),
        (b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4, 4\r\n", 400),
        (b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: +4\r\n", 400),
        (b"POST /v1/images HTTP/1.1\r\nHost : localhost\r\nContent-Length: 4\r\n", 400),
    ],
)
def test_a_head_that_cannot_be_trusted_is_refused_and_ends_the_connection(port: int, head: bytes, status: int) -> None:
    """What follows it might be its body or another request: nobody reads it."""
    received = exchange(port, GOOD + head + b"\r\n" + GOOD)
    assert [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)] == [200, status]
    if status != 200:
        problem = json.loads(received.rpartition(b"\r\n\r\n")[2])
        assert (problem["status"], problem["type"].partition("problem:")[0]) == (status, "urn:labeling-ground:")
        assert problem["detail"].endswith(".")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0", b"h2c, websocket"])
def test_a_wish_for_another_protocol_is_ignored_and_the_body_read(port: int, protocol: bytes) -> None:
    body = b'{"points": [{"x": 1, "y": 1}]}'
    head = (
        b"POST /v1/images/%s/masks HTTP/1.1\r\nHost: localhost\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
        b"Connection: %s, HTTP2-Settings\r\nContent-Length: %d\r\n\r\n"
    )
    asks = [head % (b"0" * 64, protocol, wish, len(body)) for wish in (b"Upgrade", b"keep-alive, upgrade")]
    closing = head % (b"0" * 64, protocol, b"close, Upgrade", len(body))
    assert answers(port, asks[0] + body + asks[1] + body + GOOD + closing + body) == [404, 404, 200, 404]
    assert answers(port, asks[0], body[:7], body[7:], closing, body) == [404, 404], "and in pieces"
    plain = GOOD.replace(b"Host: localhost", b"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: " + protocol)
    assert answers(port, plain + LAST) == [200, 200]


def test_curl_that_wishes_for_http_2_gets_its_mask(port: int) -> None:
    with urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{port}/v1/images", picture()), timeout=240
    ) as answer:
        image_id = json.load(answer)["image_id"]
    url = f"http://127.0.0.1:{port}/v1/images/{image_id}/masks"
    command = [
        needs_program("curl"),
        "--silent",
        "--show-error",
        "--fail",
        "--http2",
        "--data",
        '{"box":[1,1,40,40]}',
        url,
    ]
    done = subprocess.run(command, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["image_id"] == image_id


def test_javas_client_as_it_is_gets_its_mask(port: int, tmp_path: Path) -> None:
    """``HttpClient`` wishes for HTTP/2 unless it is told not to; the second request goes over the same connection."""
    (tmp_path / "picture.png").write_bytes(picture())
    source = tmp_path / "Click.java"
    source.write_text("""
        import java.net.URI;
        import java.net.http.*;
        import java.net.http.HttpRequest.BodyPublisher;
        import java.net.http.HttpRequest.BodyPublishers;
        import java.nio.file.Path;
        public class Click {
            static final HttpClient client = HttpClient.newHttpClient();
            static String post(String url, BodyPublisher body) throws Exception {
                var request = HttpRequest.newBuilder(URI.create(url)).POST(body).build();
                var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
                if (answer.statusCode() != 200) throw new Exception(answer.statusCode() + " " + answer.body());
                return answer.body();
            }
            public static void main(String[] words) throws Exception {
                var sent = post(words[0] + "/v1/images", BodyPublishers.ofFile(Path.of(words[1])));
                var id = sent.replaceAll("(?s).*\\"image_id\\":\\\\s*\\"([0-9a-f]{64})\\".*", "$1");
                var ask = "{\\"box\\": [1, 1, 40, 40]}";
                System.out.println(post(words[0] + "/v1/images/" + id + "/masks", BodyPublishers.ofString(ask)));
            }
        }
    """)
    needs_program("javac")
    command = [needs_program("java"), str(source), f"http://127.0.0.1:{port}", str(tmp_path / "picture.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["masks"]


def picture() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(7).integers(0, 256, (48, 64, 3), np.uint8)
    Pillow.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def test_a_line_break_between_requests_is_no_request(port: int) -> None:
    """Some old clients send one after a body; the connection is closed when it stays idle, without a word."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(GOOD)
        received = connection.recv(65536)
        while not received.endswith(b"}"):
            received += connection.recv(65536)
        connection.sendall(b"\r\n")
        assert connection.recv(65536) == b""
