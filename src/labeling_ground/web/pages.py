"""``/``, the page to label on, and ``/cache``, the operator's. Plain files, read when the app is made."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import FastAPI, Request
from fastapi.responses import Response

from labeling_ground.errors import NotFound

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the page may load and run: this server's own files and the annotator's photos, nothing else."""
_HEADERS = {
    "Cache-Control": "no-cache",  # ask each time: 304 costs little, and an old script beside a new page costs much
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}
_WORKER_HEADERS = {"Cross-Origin-Embedder-Policy": "require-corp"}
"""Without it a page that shares nothing with other origins may not start a worker."""
WASM_HEADERS = {
    "Content-Security-Policy": _POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'"),
    **_WORKER_HEADERS,
}
"""What a worker that computes with WebAssembly may do, and its scripts: a worker has its own policy, not its page's."""
_ISOLATED = {"Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Opener-Policy": "same-origin"}
"""A page that shares nothing with pages of other origins may have memory that its threads share."""
_WASM_WORKER = "decode/worker.js"


@dataclass(frozen=True, slots=True)
class _Asset:
    """A file as it is sent, plain and compressed."""

    kind: str
    plain: bytes
    packed: bytes
    tag: str
    more: Mapping[str, str] = field(default_factory=dict)

    def answer(self, request: Request, more: Mapping[str, str] | None = None) -> Response:
        packs = "gzip" in request.headers.get("accept-encoding", "")
        tag = f'"{self.tag}-gzip"' if packs else f'"{self.tag}"'
        headers = {**_HEADERS, **self.more, **(more or {}), "ETag": tag}
        if matches(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        if packs:
            headers["Content-Encoding"] = "gzip"
        return Response(self.packed if packs else self.plain, headers=headers, media_type=self.kind)


def install(app: FastAPI, *, runs_wasm: bool) -> None:
    """Serve the pages at ``/`` and ``/cache``, and their files under ``/web``.

    Args:
        app: where.
        runs_wasm: whether there is WebAssembly for the labeling page's worker to run.
    """
    assets = dict(_walk(resources.files("labeling_ground.web") / "static", ""))
    for name in assets:
        if name.endswith("/worker.js"):
            more = WASM_HEADERS if runs_wasm and name == _WASM_WORKER else _WORKER_HEADERS
            assets[name] = replace(assets[name], more=more)

    @app.get("/", include_in_schema=False)
    async def labeling_page(request: Request) -> Response:
        # On plain http from another machine browsers do not isolate, and write an error about the wish.
        return assets["labeling/index.html"].answer(
            request, _ISOLATED if runs_wasm and _is_trustworthy(request) else None
        )

    @app.get("/cache", include_in_schema=False)
    async def operators_page(request: Request) -> Response:
        return assets["operator/cache.html"].answer(request)

    @app.get("/web/{name:path}", include_in_schema=False)
    async def asset(request: Request, name: str) -> Response:
        found = assets.get(name)
        if found is None:
            raise NotFound("There is no such file among those of the pages.")
        return found.answer(request)


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, _Asset]]:
    found: list[tuple[str, _Asset]] = []
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            found += _walk(entry, name + "/")
        elif (kind := _KINDS.get(PurePosixPath(name).suffix)) is not None:
            plain = entry.read_bytes()
            tag = hashlib.sha256(plain).hexdigest()[:20]
            found.append((name, _Asset(kind, plain, gzip.compress(plain, mtime=0), tag)))
    return found


def _is_trustworthy(request: Request) -> bool:
    host = request.url.hostname or ""
    return request.url.scheme == "https" or host in ("localhost", "127.0.0.1", "::1")


def matches(asked: str, tag: str) -> bool:
    """Whether an ``If-None-Match`` header names this tag."""
    return tag in (one.strip().removeprefix("W/") for one in asked.split(","))
