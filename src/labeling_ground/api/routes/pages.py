"""``/``: the page to label on. Plain files of this package, read once when the app is made."""

import gzip
import hashlib
from dataclasses import dataclass
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
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    """A file as it is sent, plain and compressed."""

    kind: str
    plain: bytes
    packed: bytes
    tag: str

    def answer(self, request: Request) -> Response:
        packs = "gzip" in request.headers.get("accept-encoding", "")
        tag = f'"{self.tag}-gzip"' if packs else f'"{self.tag}"'
        headers = {**_HEADERS, "ETag": tag}
        if _matches(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        if packs:
            headers["Content-Encoding"] = "gzip"
        return Response(self.packed if packs else self.plain, headers=headers, media_type=self.kind)


def install(app: FastAPI) -> None:
    """Serve the page at ``/`` and its files under ``/web``."""
    assets = dict(_walk(resources.files("labeling_ground.api") / "web", ""))
    page = assets["index.html"]

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def labeling_page(request: Request) -> Response:
        return page.answer(request)

    @app.head("/web/{name:path}", include_in_schema=False)
    @app.get("/web/{name:path}", include_in_schema=False)
    async def asset(request: Request, name: str) -> Response:
        found = assets.get(name)
        if found is None:
            raise NotFound("There is no such file among those of the labeling page.")
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


def _matches(asked: str, tag: str) -> bool:
    return tag in (one.strip().removeprefix("W/") for one in asked.split(","))
