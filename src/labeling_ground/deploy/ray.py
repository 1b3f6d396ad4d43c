"""Encoder and decoder as deployments of Ray Serve: ``deploy/ray/serve.yaml`` names ``app``.

A replica answers over HTTP what ``labeling-ground engine`` answers; a server in front asks it like any other engine.
"""

from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from labeling_ground.api.errors import problem, response_for
from labeling_ground.errors import BackendFailed, LabelingGroundError
from labeling_ground.inference.auto import Halves
from labeling_ground.inference.remote import wire
from labeling_ground.settings import read_settings
from labeling_ground.wiring import build_endpoints


class EngineReplica:
    """One replica of one half of a model, set up by ``LABELING_GROUND_…`` variables like ``labeling-ground engine``.

    Args:
        role: ``encoder`` or ``decoder``.
    """

    def __init__(self, role: str) -> None:
        settings = read_settings()
        self._most_bytes = int(settings.max_engine_bytes)
        half = wire.EngineRole(role)
        halves = Halves(encoder=half is wire.EngineRole.ENCODER, decoder=half is wire.EngineRole.DECODER)
        [self._endpoint], _ = build_endpoints(settings, halves)

    async def __call__(self, request: Request) -> Response:
        """The answer to ``POST …/predictions/{name}``; anything else is 404, and an ask that is too large 413."""
        if request.method != "POST" or not request.url.path.endswith(f"/predictions/{self._endpoint.name}"):
            served = f"POST /predictions/{self._endpoint.name}"
            return problem(404, "unknown-model", "The model is not served here", f"This engine answers {served}.")
        body = await request.body()
        if len(body) > self._most_bytes:
            words = f"An ask has at most {self._most_bytes} bytes (max_engine_bytes)."
            return problem(413, "too-large", "The ask is too large", words)
        try:
            reply = await self._endpoint.answer(body)
        except LabelingGroundError as error:
            return response_for(error)
        return Response(reply.body, reply.status, dict(reply.headers), media_type=reply.media_type)

    def check_health(self) -> None:
        """What Ray Serve calls from time to time.

        Raises:
            BackendFailed: the replica does not say any more which model it has; Ray Serve starts another one.
        """
        if self._endpoint.handler.answer(wire.write_ask(wire.Describe())).status != 200:
            raise BackendFailed("The engine does not say which model it serves.")


def app(args: dict[str, Any]) -> Any:
    """The Ray Serve application of one half of a model: one deployment, called as its ``role``.

    Args:
        args: of the application in ``serve.yaml``: ``role`` is ``encoder`` or ``decoder``.

    Raises:
        ValueError: the role is neither.
    """
    role = wire.EngineRole(args["role"]).value
    return serve.deployment(EngineReplica, name=role).bind(role)
