"""Which model answers a request."""

from functools import partial

from fastapi import Request

from labeling_ground.api.requests import while_connected
from labeling_ground.api.state import request_log_of, state_of
from labeling_ground.service.model_pool import LoadedModel
from labeling_ground.service.predictor import Predictor


async def model_for(request: Request, model: str | None) -> LoadedModel:
    """The model that a request names, or the default one; loaded where it is not, and pinned until the request ends.

    To be called when the request's body, if it has one, has been read.

    Raises:
        UnknownModel: it is not served here.
        Overloaded, BackendFailed: see ``ModelPool.load``.
        ClientDisconnect: the client did not wait for it.
    """
    models, record = state_of(request).models, request_log_of(request)
    served = models.at_hand(model)
    if served is None:
        served = await while_connected(request, models.acquire(model or ""))
    record.served, record.at_end = served, partial(models.leave, served)
    return served


def predictor_of(request: Request) -> Predictor:
    """What answers this request: the model that ``model_for`` was told, else the default one."""
    served = request_log_of(request).served
    return (served or state_of(request).models.default).predictor
