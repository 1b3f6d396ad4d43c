"""What is done to a request's path and method before anything else reads them. Plain ASGI."""

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class SubPath:
    """Serves below a path, such as ``/label``, whether the proxy in front of the server cuts that off or not.

    Args:
        app: what is served there.
        root_path: the path, with a slash at its beginning and none at its end.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self._root = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with the rest of its path."""
        if scope["type"] == "http":
            path = scope["path"]
            if path == self._root:  # the page's relative addresses would lead beside it
                await RedirectResponse(f"{self._root}/", 308)(scope, receive, send)
                return
            if path.startswith(f"{self._root}/"):
                scope["path"] = path.removeprefix(self._root)
            scope["root_path"] = self._root
        await self.app(scope, receive, send)


class HeadAsGet:
    """Answers ``HEAD`` with the status and headers of ``GET``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; of the answer to a ``HEAD``, leave the body out."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
            elif not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b""})

        asked = {**scope, "method": "GET"}  # a copy: the server around us must not wait for a body
        try:
            await self.app(asked, receive, send_without_body)
        finally:
            if "route" in asked:
                scope["route"] = asked["route"]  # by which the request is counted
