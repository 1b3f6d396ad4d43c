"""``/docs`` and ``/redoc``: the API's documentation, from files of this server alone."""

import base64
from importlib import resources
from pathlib import PurePosixPath

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from labeling_ground.api.schemas.common import EXAMPLE_IMAGE
from labeling_ground.errors import NotFound

_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".png": "image/png"}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "worker-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Both pages' scripts write their own styles, show images of answers, and Redoc searches in a worker of its own."""
_EXAMPLE = "example.png"
_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_NOTHING = b"data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def install(app: FastAPI) -> None:
    """Serve both pages, their scripts, and the image of the examples as ``/docs/static/example.png``."""
    folder = resources.files("fastapi_offline") / "static"
    files = {file.name: file.read_bytes() for file in folder.iterdir() if PurePosixPath(file.name).suffix in _KINDS} | {
        _EXAMPLE: base64.b64decode(EXAMPLE_IMAGE)
    }
    # Redoc would have each reader's browser ask its maker's host for a logo.
    files["redoc.standalone.js"] = files["redoc.standalone.js"].replace(_LOGO, _NOTHING)
    web = resources.files("labeling_ground.web") / "static" / "shared"
    pages = {name: (web / f"{name}.html").read_text(encoding="utf-8") for name in ("docs", "redoc")}
    headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(pages["docs"], headers=headers)

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        return HTMLResponse(pages["redoc"], headers=headers)

    @app.get("/docs/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        content = files.get(name)
        if content is None:
            raise NotFound("There is no such file among those of the documentation pages.")
        kind = _KINDS[PurePosixPath(name).suffix]
        kept = {"Cache-Control": "max-age=86400"}
        if name == _EXAMPLE:
            kept["Content-Disposition"] = f"attachment; filename={name}"
        return Response(content, media_type=kind, headers=kept)
