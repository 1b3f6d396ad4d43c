"""The endpoints that Label Studio asks."""

import logging
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from labeling_ground.adapters.images import KnownTexts, OpenImage, choose_model, max_body_bytes, segment
from labeling_ground.adapters.label_studio.config import parse_config
from labeling_ground.adapters.label_studio.pictures import Pictures
from labeling_ground.adapters.label_studio.regions import Region, marks_of, prompts_of, to_regions
from labeling_ground.api import responses
from labeling_ground.api.adapter import Adapter, Endpoint
from labeling_ground.api.errors import BadBody
from labeling_ground.api.requests import Caller, caller_of, pools_of, predictor_of, read_json
from labeling_ground.api.state import AppState
from labeling_ground.errors import LabelingGroundError, TooLarge
from labeling_ground.service.sources import Link
from labeling_ground.supervisor import Background

log = logging.getLogger(__name__)

_PATH = "/label-studio"
_PATHS = (_PATH, f"{_PATH}/models/{{model}}")
"""Where backends are connected: the default model, or one that the address names."""


class Task(BaseModel):
    """A task: what is to be labeled."""

    id: int | str | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class TaskContext(BaseModel):
    """What the annotator has marked; nothing of it while a mark is being taken back."""

    result: list[Region] | None = None


class TaskParams(BaseModel):
    """What goes with a task."""

    context: TaskContext | None = None


class PredictTasks(BaseModel):
    """The body of ``POST /predict``."""

    tasks: list[Task]
    project: str | None = None
    label_config: str
    model_version: str | None = None
    params: TaskParams = Field(default_factory=TaskParams)


class SetupRequest(BaseModel):
    """The body of ``POST /setup``."""

    project: str | None = None
    hostname: str | None = None
    access_token: str | None = None


def create(app_state: AppState, _: KnownTexts) -> Adapter:
    """The adapter of one server."""
    settings, models = app_state.settings, app_state.models
    pictures = Pictures(app_state.sources, settings)
    prefetches = Background(app_state.supervisor, "prefetch for Label Studio")

    def versions_of(request: Request) -> list[str]:
        """Of the model that the address names, else of all, the default one first; its id where it is not loaded.

        Raises:
            UnknownModel: the address names one that is not served here.
        """
        model = request.path_params.get("model")
        name = None if model is None else models.name_of(model)
        statuses = [each for each in models.statuses() if name in (None, each.facts.name)]
        return [str(each.served.predictor.backend.info.version) if each.served else each.id for each in statuses]

    async def health(request: Request) -> Response:
        caller_of(request)  # a wrong key shall be seen where the backend is connected
        versions_of(request)  # and a model that is not served
        return responses.as_json({"status": "UP", "model_class": "LabelingGround"})

    async def setup(request: Request) -> Response:
        caller = caller_of(request)
        body = await read_json(request, SetupRequest.model_validate_json)
        pictures.remember(caller.tenant, body.project or "", body.hostname, body.access_token)
        return responses.as_json({"model_version": versions_of(request)[0]})

    async def versions(request: Request) -> Response:
        caller_of(request)
        return responses.as_json({"versions": versions_of(request)})

    async def webhook(_: Request) -> Response:
        # Label Studio sends no key here. What people annotate is not for us, and is not read.
        return responses.as_json({"status": "ignored"})

    async def predict(request: Request) -> Response:
        caller = caller_of(request)
        body = await read_json(request, PredictTasks.model_validate_json)
        regions = body.params.context.result if body.params.context is not None else None
        if regions is None:
            prefetches.start(fetch_ahead(caller, body, request.path_params.get("model")))
            return responses.as_json({"results": []})  # anything else would be kept as a prediction, shown to everybody
        served = await choose_model(request, (body.model_version or "").partition("@")[0])
        found = await predict_one(request, caller, body, regions) if regions else []
        score = sum(each["score"] for each in found) / len(found) if found else 0
        result = {"result": found, "score": score, "model_version": str(served.predictor.backend.info.version)}
        return responses.as_json({"results": [result]})

    async def predict_one(
        request: Request, caller: Caller, body: PredictTasks, regions: list[Region]
    ) -> list[dict[str, Any]]:
        if not body.tasks:
            raise BadBody("There is no task to predict for.")
        task, marks = body.tasks[0], marks_of(regions)
        marked = marks[0]
        config = parse_config(body.label_config)
        config.outline_for(marked.to_name, marked.label)  # before anything is fetched
        value = config.address(marked.to_name, task.data)
        if len(marks) > settings.max_points:
            raise TooLarge(f"{len(marks)} marks in one prompt; this server takes {settings.max_points}.")

        async def open_image() -> OpenImage:
            link = Link(predictor_of(request), caller.tenant, "", client=caller.client)
            found = await pictures.open(link, body.project or "", value, task.id)
            return OpenImage(found.image_id, found.width, found.height)

        _, answers = await segment(request, caller, None, open_image, partial(prompts_of, marks))
        drawn = []
        for answer in answers:
            draw = partial(to_regions, answer.prediction, marked, config, max_pixels=settings.max_image_pixels)
            drawn += await pools_of(request).drawing.run(draw)
        return drawn

    async def fetch_ahead(caller: Caller, body: PredictTasks, model: str | None) -> None:
        """Have the pictures of tasks that were opened encoded, while nobody waits."""
        try:
            served = await models.acquire(model)
        except LabelingGroundError as error:
            log.warning("no picture of a Label Studio task can be prefetched: %s", error)
            return
        try:
            link = Link(served.predictor, caller.tenant, "", client=caller.client)
            config = parse_config(body.label_config)
            for task in body.tasks[: settings.prefetch_per_client]:
                value = config.address(None, task.data)
                await pictures.prefetch(link, body.project or "", value, task.id)
        except LabelingGroundError as error:
            log.warning("the picture of a Label Studio task could not be prefetched: %s", error)
        finally:
            models.leave(served)

    async def aclose() -> None:
        await prefetches.aclose()
        await pictures.aclose()

    def at(path: str) -> tuple[str, ...]:
        return tuple(base + path for base in _PATHS)

    most_bytes = max_body_bytes(settings) + int(settings.label_studio_bytes)
    return Adapter(
        "label-studio",
        (
            Endpoint("GET", (*_PATHS, *at("/health")), health),
            Endpoint("POST", at("/setup"), setup),
            Endpoint("POST", at("/predict"), predict, most_bytes),
            Endpoint("POST", at("/webhook"), webhook, most_bytes),
            Endpoint("GET", at("/versions"), versions),
        ),
        aclose=aclose,
    )
