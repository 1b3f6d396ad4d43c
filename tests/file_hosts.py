"""Web servers on this machine that images are fetched from: they count what they are asked, and keep what was sent."""

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FileHost:
    """A running one: its port, and the requests that it was sent."""

    port: int
    requests: list[web.BaseRequest] = field(default_factory=list)

    def url(self, path: str = "/a.png", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def source(self) -> str:
        """What the setting names it by."""
        return f"private:127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def file_host(answer: Handler, *, address: str = "127.0.0.1") -> AsyncIterator[FileHost]:
    """A host that answers every request with what ``answer`` says."""
    listener = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    host = FileHost(listener.getsockname()[1])

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        host.requests.append(request)
        await request.read()
        return await answer(request)  # type: ignore[arg-type]

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=1)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    try:
        yield host
    finally:
        await runner.cleanup()


def gives(file: bytes, **headers: str) -> Handler:
    """Answers with a file; with 304 where the request's ``If-None-Match`` is the ``ETag`` among the headers."""

    async def answer(request: web.Request) -> web.Response:
        for asked, said in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last_Modified")):
            if said in headers and request.headers.get(asked) == headers[said]:
                return web.Response(status=304)
        return web.Response(body=file, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def redirects(to: str, status: int = 302) -> Handler:
    """Answers with a redirect."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": to})

    return answer
