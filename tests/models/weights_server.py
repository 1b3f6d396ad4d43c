"""A host of model files on this machine, which misbehaves when told to; and a pull as a process of its own."""

import contextlib
import hashlib
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from labeling_ground.models.catalogue import Artifact, Catalogue, CatalogueModel, Role, Tensor
from labeling_ground.models.download import PullStep, RetryPolicy
from labeling_ground.models.pull import pull
from labeling_ground.models.store import ModelStore

LONG_S = 120.0
"""So long is waited for what certainly happens: a busy machine may stand still for seconds."""


@dataclass(frozen=True)
class Answer:
    """How to answer one request. Sizes in bytes, of what this answer sends; times in seconds.

    Attributes:
        stall_after: send no more than so much, ever.
        hold_after: send the rest when the server's ``go_on`` is set.
    """

    status: int = 200
    ranges: bool = True
    cut_after: int | None = None
    stall_after: int | None = None
    hold_after: int | None = None
    stall_before_headers: bool = False
    body: bytes | None = None
    claim_length: int | None = None
    no_length: bool = False
    offset_error: int = 0
    etag: str | None = '"one"'
    pause_per_chunk: float = 0.0
    endless: bool = False
    headers: dict[str, str] = field(default_factory=dict)


GOOD = Answer()


class WeightsServer:
    """Serves ``files`` by path. ``script`` is used up, one answer a request; after that comes ``default``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: list[Answer] = []
        self.default = GOOD
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()
        self.go_on = threading.Event()
        self.longest_gap = 0.0
        """Seconds between two chunks of an answer: more than it was told to pause where this machine stood still."""
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with outer._lock:
                    outer.seen.append((self.path, dict(self.headers.items())))
                    answer = outer.script.pop(0) if outer.script else outer.default
                with contextlib.suppress(OSError):
                    _give(self, answer, outer)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.seen]

    def close(self) -> None:
        self.closing.set()
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _give(request: BaseHTTPRequestHandler, answer: Answer, server: WeightsServer) -> None:
    content = server.files.get(request.path.split("?")[0])
    if content is None and request.path.startswith("http"):
        content = next(iter(server.files.values()))  # asked as a proxy
    if answer.stall_before_headers:
        server.closing.wait(LONG_S)
        return
    status, start = answer.status, 0
    if content is None and status == 200:
        status = 404
    headers = {"Content-Type": "application/octet-stream", **answer.headers}
    body = (content or b"") if answer.body is None else answer.body
    if status != 200:
        body = b"" if answer.body is None else answer.body
    else:
        if answer.etag:
            headers["ETag"] = answer.etag
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        same = request.headers.get("If-Range") in (None, answer.etag)
        if match and answer.ranges and same:
            start = int(match[1])
            if start >= len(body):
                status, headers["Content-Range"], body = 416, f"bytes */{len(body)}", b""
            else:
                status = 206
                start += answer.offset_error
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                body = body[start:]
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    if not answer.no_length and not answer.endless:
        request.send_header("Content-Length", str(len(body) if answer.claim_length is None else answer.claim_length))
    request.end_headers()
    _send(request, body, answer, server)


def _send(request: BaseHTTPRequestHandler, body: bytes, answer: Answer, server: WeightsServer) -> None:
    while answer.endless and not server.closing.is_set():
        request.wfile.write(b"\0" * 65536)
    stops = [stop for stop in (answer.cut_after, answer.stall_after) if stop is not None]
    body = body[: min(stops)] if stops else body
    before = time.monotonic()
    for at in range(0, len(body), 16384):
        now = time.monotonic()
        server.longest_gap, before = max(server.longest_gap, now - before), now
        if answer.hold_after is not None and at >= answer.hold_after:
            server.go_on.wait(LONG_S)
        request.wfile.write(body[at : at + 16384])
        if answer.pause_per_chunk:
            server.closing.wait(answer.pause_per_chunk)
    if answer.stall_after is not None:
        server.closing.wait(LONG_S)


def bytes_of(seed: int, size: int) -> bytes:
    """Bytes that do not repeat, so that a piece in the wrong place is found out."""
    block = hashlib.shake_256(seed.to_bytes(4, "big"))
    return block.digest(size)


def artifact_of(role: Role, url: str, content: bytes, **other: Any) -> Artifact:
    given: dict[str, Any] = {
        "role": role,
        "format": role.written_as,
        "made_by": "us",
        "url": url,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "about_bytes": len(content),
        "precision": "fp32",
        "io": None if role is Role.CHECKPOINT else "official",
    }
    return Artifact(**{**given, **other})


def model_of(*artifacts: Artifact, name: str = "tiny-sam") -> CatalogueModel:
    return CatalogueModel(
        name=name,
        title="Tiny SAM",
        family="sam",
        licence="Apache-2.0",
        source="https://example.invalid/tiny-sam",
        input_size=1024,
        parameters=1,
        embedding=(Tensor("image_embeddings", (1, 256, 64, 64)),),
        artifacts=artifacts,
    )


def catalogue_of(*models: CatalogueModel) -> Catalogue:
    return Catalogue(models, {})


@contextlib.contextmanager
def weights_server() -> Iterator[WeightsServer]:
    server = WeightsServer()
    try:
        yield server
    finally:
        server.close()


def wait_until(holds: Callable[[], bool], limit_s: float = LONG_S) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def _main(url: str, sha256: str, size: str, folder: str) -> None:
    artifact = Artifact(
        Role.CHECKPOINT, Role.CHECKPOINT.written_as, "us", url, sha256, int(size), int(size), "fp32", None
    )
    model = model_of(artifact)

    def report(step: PullStep) -> None:
        sys.stdout.write(f"{step.state}\n")
        sys.stdout.flush()

    pull(
        model,
        ModelStore(Path(folder), catalogue_of(model)),
        progress=report,
        retries=RetryPolicy(LONG_S, backoff_s=0.1),
    )


if __name__ == "__main__":
    # Whoever is started in the background by a shell without job control ignores it from the start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _main(*sys.argv[1:])
