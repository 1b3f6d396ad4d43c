"""Our own engine server: one half of a model, or both, behind TorchServe's paths and nothing else.

It answers the protocol of ``docs/decisions/0006-remote-engines.md``: asks on one port, workers and queue on another.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from labeling_ground.api.edge import Edge
from labeling_ground.api.errors import problem, response_for
from labeling_ground.api.limits import Limits
from labeling_ground.api.requests import while_connected
from labeling_ground.api.web_security import ANY, OriginCheck
from labeling_ground.draining import Drain
from labeling_ground.errors import LabelingGroundError
from labeling_ground.inference.backend import BatchSizes
from labeling_ground.inference.remote import concept_wire, envelope
from labeling_ground.inference.remote.handler import InferenceHandler, Reply
from labeling_ground.service.queues import FairQueue
from labeling_ground.urgency import Urgency


class ModelEndpoint:
    """One half of a model: so many requests at a time, so many waiting by their class, each in a thread.

    Requests of one class that wait are answered together where the engine gains by it.

    Args:
        name: what it is called in paths.
        handler: what answers.
        workers: requests, or batches of them, that are answered at the same time.
        queue: requests of a class that may wait; one more is answered 503.
        detector: the queue of what finds concepts, where the model does: a click does not wait behind that.
    """

    def __init__(
        self,
        name: str,
        handler: InferenceHandler,
        *,
        workers: int,
        queue: int,
        detector: FairQueue | None = None,
    ) -> None:
        self.name = name
        self.handler = handler
        role = handler.description.role.value
        self.queue = FairQueue(role, workers, queue, batch=self._batch)
        self.detector = detector
        self._threads = ThreadPoolExecutor(workers + (detector.slots if detector else 0), f"engine-{role}")

    async def answer(self, body: bytes) -> Reply:
        """Answer a request. One that is cancelled while it waits is never begun.

        Raises:
            Overloaded: the queue is full.
        """
        head = envelope.read_head(body)
        if head.ask == "describe":
            return self.handler.answer(body)  # at once: whoever asks wants to know whether there is anybody
        queue = self.detector if self.detector and head.ask in concept_wire.ASKS else self.queue
        async with queue.slot(size=head.asks, urgency=Urgency(head.priority)) as place, queue.timed():
            [reply] = (await place.call(partial(place.compute, self._answer, [body]))).value
            return reply

    async def _answer(self, bodies: Sequence[bytes]) -> list[Reply]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.handler.answer_all, bodies)

    def _batch(self) -> BatchSizes:
        together = self.handler.description.together
        return BatchSizes(together, together)

    def status(self) -> dict[str, Any]:
        """What TorchServe's management tells of a model, as far as anybody reads it."""
        description, queue = self.handler.description, self.queue
        return {
            "modelName": self.name,
            "modelVersion": str(description.version),
            "minWorkers": queue.slots,
            "maxWorkers": queue.slots,
            "batchSize": description.together,
            "loadedAtStartup": True,
            "workers": [{"id": str(number), "status": "READY"} for number in range(queue.slots)],
            "jobQueueStatus": {"remainingCapacity": queue.capacity - queue.waiting, "pendingRequests": queue.waiting},
        }

    @property
    def most_requests(self) -> int:
        """Requests that are answered, or may wait."""
        return sum(queue.slots + queue.capacity for queue in (self.queue, self.detector) if queue is not None)

    def close(self) -> None:
        """Give the threads back."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def create_engine_app(
    endpoints: Sequence[ModelEndpoint],
    *,
    management_port: int,
    most_bytes: int,
    most_held: int,
    silence_s: float,
    least_bytes_s: int = 1024,
    drain: Drain | None = None,
) -> ASGIApp:
    """The app of one engine server, for two listeners.

    Args:
        endpoints: what is served.
        management_port: the port whose listener tells about workers and takes no asks.
        most_bytes: largest ask.
        most_held: bytes of asks that may be read at the same time.
        silence_s: longest wait for the next piece of an ask.
        least_bytes_s: slowest pace of one, in bytes a second.
        drain: once it has begun, new asks are sent to another engine; those that run or wait here are answered.
    """
    routes = _Routes(endpoints, drain or Drain())
    asks = Starlette(
        routes=[Route("/ping", routes.ping), Route("/predictions/{name}", routes.predict, methods=["POST"])],
        lifespan=routes.lifespan,
    )
    limits = Limits(
        most_requests=sum(endpoint.most_requests for endpoint in endpoints) + 64,
        most_bytes=most_bytes,
        most_held=most_held,
        silence_s=silence_s,
        least_bytes_s=least_bytes_s,
        takes_no_place=lambda path: not path.startswith("/predictions/"),
    )
    figures = Starlette(routes=[Route("/ping", routes.ping), Route("/models/{name}", routes.status)])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        is_management = scope["type"] == "http" and server is not None and server[1] == management_port
        await (figures if is_management else asks)(scope, receive, send)

    # Servers reach it under many names; a web site's page has nothing to do here.
    return Edge(app, limits=limits, origins=OriginCheck(hosts=[ANY], origins=[]))


class _Routes:
    def __init__(self, endpoints: Sequence[ModelEndpoint], drain: Drain) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._drain = drain

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        with contextlib.ExitStack() as closing:
            for endpoint in self._endpoints.values():
                closing.callback(endpoint.close)
            yield

    async def ping(self, _: Request) -> Response:
        return _draining() if self._drain.has_begun else JSONResponse({"status": "Healthy"})

    async def predict(self, request: Request) -> Response:
        endpoint = self._endpoints.get(request.path_params["name"])
        if endpoint is None:
            return _unknown(self._endpoints)
        try:
            body = await request.body()
            if self._drain.has_begun:
                return _draining()
            reply = await while_connected(request, endpoint.answer(body))
        except ClientDisconnect:
            return Response(status_code=499)
        except LabelingGroundError as error:
            return response_for(error)
        return Response(reply.body, reply.status, dict(reply.headers), media_type=reply.media_type)

    async def status(self, request: Request) -> Response:
        endpoint = self._endpoints.get(request.path_params["name"])
        return _unknown(self._endpoints) if endpoint is None else JSONResponse([endpoint.status()])


def _draining() -> Response:
    """What the proxy reads as «ask another engine», which is no failure of this one."""
    sentence = "This engine is shutting down. Ask another one, or this one again when it is back."
    return problem(503, "draining", "Shutting down", sentence, {"Retry-After": "1"}, draining="true")


def _unknown(by_name: Mapping[str, ModelEndpoint]) -> Response:
    served = ", ".join(sorted(by_name))
    return problem(404, "unknown-model", "The model is not served here", f"This engine serves {served}.")
