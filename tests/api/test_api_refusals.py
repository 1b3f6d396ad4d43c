"""A refusal reaches the client as an answer, whatever the client is, and though it is still sending."""

import contextlib
import http.client
import json
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.api.conftest import LONG_S, soon
from tests.needs import needs, needs_program

if TYPE_CHECKING:
    from tests.api.conftest import RealServer, StartReal

LARGE = 40_000_000
"""Beyond what the system's buffers take."""
TIMES = 3

Ask = Callable[[str, Path, dict[str, str]], int]
"""POST a file with headers, and tell the status."""


def by_http_client(url: str, file: Path, headers: dict[str, str]) -> int:
    address = httpx.URL(url)
    connection = http.client.HTTPConnection(address.host, address.port or 80, timeout=LONG_S)
    with contextlib.closing(connection):
        connection.request("POST", address.path, file.read_bytes(), headers)
        answer = connection.getresponse()
        assert json.loads(answer.read())["status"] == answer.status
        return answer.status


def by_urllib(url: str, file: Path, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, file.read_bytes(), headers)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=LONG_S)
    with raised.value as answer:
        assert json.loads(answer.read())["status"] == answer.code
        return answer.code


def by_requests(url: str, file: Path, headers: dict[str, str]) -> int:
    answer = needs("requests").post(url, data=file.read_bytes(), headers=headers, timeout=LONG_S)
    assert answer.json()["status"] == answer.status_code
    status: int = answer.status_code
    return status


def by_a_form_of_requests(url: str, file: Path, headers: dict[str, str]) -> int:
    with file.open("rb") as opened:
        answer = needs("requests").post(url, files={"file": opened}, headers=headers, timeout=LONG_S)
    assert answer.json()["status"] == answer.status_code
    status: int = answer.status_code
    return status


def by_httpx(url: str, file: Path, headers: dict[str, str]) -> int:
    answer = httpx.post(url, content=file.read_bytes(), headers=headers, timeout=LONG_S)
    assert answer.json()["status"] == answer.status_code
    return answer.status_code


def by_chunks_of_httpx(url: str, file: Path, headers: dict[str, str]) -> int:
    def pieces() -> Iterator[bytes]:
        with file.open("rb") as opened:
            while piece := opened.read(65536):
                yield piece

    return httpx.post(url, content=pieces(), headers=headers, timeout=LONG_S).status_code


def _curl(url: str, headers: dict[str, str], *options: str) -> int:
    names = [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]
    options = ("--silent", "--show-error", "--write-out", "\n%{http_code}", *options)
    command = [needs_program("curl"), *names, *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LONG_S, check=False)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    assert json.loads(body)["status"] == int(status)
    return int(status)


def by_curl(url: str, file: Path, headers: dict[str, str]) -> int:
    return _curl(url, headers, "--data-binary", f"@{file}")


def by_curl_that_expects_nothing(url: str, file: Path, headers: dict[str, str]) -> int:
    return _curl(url, {"Expect": "", **headers}, "--data-binary", f"@{file}")


def by_a_form_of_curl(url: str, file: Path, headers: dict[str, str]) -> int:
    return _curl(url, headers, "--form", f"file=@{file}")


def by_node(url: str, file: Path, headers: dict[str, str]) -> int:
    script = """
        const [url, file, headers] = process.argv.slice(1);
        const body = require("node:fs").readFileSync(file);
        fetch(url, {method: "POST", body, headers: JSON.parse(headers)}).then(async (answer) => {
            const problem = await answer.json();
            console.log(problem.status);
        }).catch((error) => { console.error(error, error.cause); process.exit(1); });
    """
    command = [needs_program("node"), "-e", script, url, str(file), json.dumps(headers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LONG_S, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def by_java(url: str, file: Path, headers: dict[str, str]) -> int:
    """``HttpClient`` as it is: it wishes for HTTP/2 in its first request on a connection."""
    source = file.parent / "Post.java"
    source.write_text("""
        import java.net.URI;
        import java.net.http.*;
        import java.nio.file.Path;
        public class Post {
            public static void main(String[] words) throws Exception {
                var asked = HttpRequest.newBuilder(URI.create(words[0]));
                for (int at = 2; at < words.length; at += 2) asked.header(words[at], words[at + 1]);
                var request = asked.POST(HttpRequest.BodyPublishers.ofFile(Path.of(words[1]))).build();
                var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
                System.out.println(answer.statusCode());
            }
        }
    """)
    needs_program("javac")
    words = [word for pair in headers.items() for word in pair]
    command = [needs_program("java"), str(source), url, str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * LONG_S, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


CLIENTS = [
    by_http_client,
    by_urllib,
    by_requests,
    by_a_form_of_requests,
    by_httpx,
    by_chunks_of_httpx,
    by_curl,
    by_curl_that_expects_nothing,
    by_a_form_of_curl,
    by_node,
    by_java,
]
every_client = pytest.mark.parametrize("ask", CLIENTS, ids=lambda ask: ask.__name__)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(LARGE))
    return file


@every_client
def test_413_reaches_the_client(start_real: "StartReal", tmp_path: Path, large: Path, ask: Ask) -> None:
    """An image beyond the limit, and JSON of 3 MB beyond that of other bodies."""
    small = tmp_path / "small.bin"
    small.write_bytes(b"[" + bytes(3_000_000))
    with start_real() as server:
        for _ in range(TIMES):
            assert ask(f"{server.url}/v1/images", large, {}) == 413
            # A browser's form is refused by its type already.
            assert ask(f"{server.url}/v1/images/{'0' * 64}/masks", small, {}) in (413, 415)


@every_client
def test_401_reaches_the_client(start_real: "StartReal", large: Path, ask: Ask) -> None:
    with start_real(api_keys=("a-secret-of-some-length",), max_image_bytes=2 * LARGE) as server:
        for _ in range(TIMES):
            assert ask(f"{server.url}/v1/images", large, {}) == 401


@every_client
def test_415_reaches_the_client(start_real: "StartReal", large: Path, ask: Ask) -> None:
    with start_real(max_image_bytes=2 * LARGE) as server:
        for _ in range(TIMES):
            assert ask(f"{server.url}/v1/images", large, {"Content-Encoding": "gzip"}) == 415


@every_client
def test_431_reaches_the_client(start_real: "StartReal", large: Path, ask: Ask) -> None:
    with start_real(max_image_bytes=2 * LARGE, max_header_bytes=2048) as server:
        for _ in range(TIMES):
            assert ask(f"{server.url}/v1/images", large, {"X-Long": "a" * 4000}) == 431


@every_client
def test_503_reaches_the_client(
    start_real: "StartReal", make_image: "Callable[..., bytes]", large: Path, ask: Ask
) -> None:
    """The one place is taken by an image that is being encoded."""
    with start_real(max_image_bytes=2 * LARGE, max_requests=1) as server, busy(server, make_image()):
        for _ in range(TIMES):
            assert ask(f"{server.url}/v1/images", large, {}) == 503


@contextlib.contextmanager
def busy(server: "RealServer", image: bytes) -> Iterator[None]:
    server.backend.encode_may_go_on.clear()
    answers: list[httpx.Response] = []
    sending = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{server.url}/v1/images", content=image, timeout=4 * LONG_S))
    )
    sending.start()
    try:
        soon(lambda: server.backend.encodes == 1)
        yield
    finally:
        server.backend.encode_may_go_on.set()
        sending.join()
    assert answers[0].status_code == 200


def test_408_reaches_a_client_that_sends_on(start_real: "StartReal") -> None:
    """It was silent for too long, and then sends all the rest, before it reads."""
    with (
        start_real(receive_timeout_s=0.3, max_image_bytes=2 * LARGE) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection,
    ):
        connection.sendall(b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\nx" % LARGE)
        assert connection.recv(1, socket.MSG_PEEK) == b"H"
        connection.sendall(bytes(LARGE - 1))
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def test_what_is_thrown_away_is_bounded_in_bytes(start_real: "StartReal") -> None:
    with (
        start_real(discard_bytes=1_000_000) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection,
    ):
        connection.sendall(b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\nx" % 10**12)
        assert connection.recv(12) == b"HTTP/1.1 413"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_without_end(connection)


def send_without_end(connection: socket.socket) -> None:
    for _ in range(1000):
        connection.sendall(bytes(1_000_000))


@pytest.mark.parametrize("length", [10**12, 1000])
def test_what_is_thrown_away_is_bounded_in_seconds(start_real: "StartReal", length: int) -> None:
    """A drip behind a request that was answered, though it is a small one after which the connection could go on."""
    with (
        start_real(discard_timeout_s=1) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection,
    ):
        head = b"POST /nothing/here HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length
        connection.sendall(head)
        assert connection.recv(12) in (b"HTTP/1.1 404", b"HTTP/1.1 413")

        def is_closed() -> bool:
            try:
                connection.sendall(b"x")
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        soon(is_closed)


def test_a_small_body_that_nobody_wanted_leaves_the_connection_usable(start_real: "StartReal") -> None:
    """An answer before the body, then the body, then the next request; afterwards the connection is idle as any is."""
    with (
        start_real() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection,
    ):
        connection.sendall(b"POST /nothing/here HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert b"HTTP/1.1 404 " in read_until(connection, b"}")
        connection.sendall(bytes(1000))
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP/1.1 200 " in read_until(connection, b"}}")


def test_a_client_that_waits_for_100_continue_is_refused_without_its_body(start_real: "StartReal") -> None:
    """And the connection closes: whether the body comes after all nobody could know."""
    head = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with start_real(api_keys=("a-secret-of-some-length",)) as server:
        for length in (1000, LARGE):
            with socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection:
                connection.sendall(head % length)
                received = read_all(connection)
                assert received.startswith(b"HTTP/1.1 4"), "no 100 Continue before it"
                assert b"connection: close" in received.lower()


def test_a_client_that_waits_for_100_continue_is_told_so(start_real: "StartReal") -> None:
    with (
        start_real() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection,
    ):
        connection.sendall(
            b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"some")
        assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")


def test_refusals_reach_a_browser(start_real: "StartReal", large: Path) -> None:
    """By ``fetch``, and by a form that is sent as a page is left."""
    playwright = needs("playwright.sync_api")
    program = needs_program("chromium")
    fetch = """async (size) => {
        const answer = await fetch("/v1/images", {method: "POST", body: new Uint8Array(size)});
        return [answer.status, (await answer.json()).status];
    }"""
    form = """() => {
        document.body.innerHTML = `<form method="post" enctype="multipart/form-data" action="/v1/images">
            <input type="file" name="file"><button>send</button></form>`;
    }"""
    with (
        start_real() as server,
        playwright.sync_playwright() as started,
        contextlib.closing(started.chromium.launch(executable_path=program, args=["--no-sandbox"])) as browser,
    ):
        page: Any = browser.new_page()
        page.set_default_timeout(4e3 * LONG_S)
        page.goto(f"{server.url}/health/live")
        for _ in range(TIMES):
            assert page.evaluate(fetch, LARGE) == [413, 413]
            page.evaluate(form)
            page.set_input_files("input", large)
            with page.expect_navigation() as navigation:
                page.click("button")
            assert navigation.value.status == 413
            page.go_back()
