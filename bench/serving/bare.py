"""A bare Starlette app under uvicorn, what a server cannot be faster than: ``python -m bench.serving.bare``."""

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def live(_: Request) -> JSONResponse:
    """As long an answer as that of the server's no-op endpoint."""
    return JSONResponse({"status": "ok", "checks": {}})


if __name__ == "__main__":
    routes = [Route("/health/live", live), Route("/health/ready", live)]
    uvicorn.run(Starlette(routes=routes), port=0, access_log=False)
