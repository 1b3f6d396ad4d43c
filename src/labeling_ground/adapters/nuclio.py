"""A real Nuclio dashboard, to which calls of other functions than ours are passed on."""

import json
import logging
from typing import Any
from urllib.parse import quote

import aiohttp
from fastapi import Request
from fastapi.responses import Response

from labeling_ground.adapters.images import in_time
from labeling_ground.api.requests import while_connected
from labeling_ground.errors import BackendFailed

log = logging.getLogger(__name__)

_PASSED_ON = ("content-type", "user-agent", "accept")
"""Headers that are passed on, besides Nuclio's own. A key of ours is none of them."""


class Dashboard:
    """The dashboard that CVAT would ask if this server did not stand in for it.

    Args:
        url: its address, which may hold a user and a password.
        max_bytes: largest answer of a function.
        timeout_s: seconds that a call may take.
    """

    def __init__(self, url: str, max_bytes: int, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def functions(self, request: Request) -> dict[str, Any]:
        """Its functions by name; none, and a line in the log, where it does not answer: ours are to be listed then."""
        try:
            status, content, _ = await self._call(request, "/api/functions", b"")
            listed = json.loads(content) if status == 200 else None
        except (BackendFailed, ValueError) as error:
            log.warning("the functions of the Nuclio dashboard are not to be had: %s", error)
            return {}
        if not isinstance(listed, dict):
            log.warning("the functions of the Nuclio dashboard are not to be had: it answered %d", status)
            return {}
        return listed

    async def forward(self, request: Request, path: str) -> Response:
        """Its answer to a request that was sent here.

        Raises:
            BackendFailed: it does not answer, or with more than ``max_bytes``.
            Overloaded: it did not in time.
        """
        body = await request.body()
        status, content, media_type = await while_connected(request, in_time(request, self._call(request, path, body)))
        return Response(content, status, media_type=media_type)

    async def aclose(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()

    async def _call(self, request: Request, path: str, body: bytes) -> tuple[int, bytes, str]:
        headers = {
            name: value for name, value in request.headers.items() if name in _PASSED_ON or name.startswith("x-nuclio-")
        }
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s))
        content = bytearray()
        try:
            async with self._session.request(
                request.method, self._url + quote(path), data=body, headers=headers, allow_redirects=False
            ) as answer:
                async for piece in answer.content.iter_chunked(1 << 16):
                    content += piece
                    if len(content) > self._max_bytes:
                        raise BackendFailed(f"The Nuclio function's answer is larger than {self._max_bytes} bytes.")
                return answer.status, bytes(content), answer.headers.get("content-type", "application/json")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BackendFailed(
                f"The Nuclio dashboard does not answer: {str(error) or type(error).__name__}."
            ) from error
