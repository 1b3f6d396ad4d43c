"""The endpoints that Label Studio asks."""

import logging
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from labeling_ground.adapters.images import ToolImage, choose_finder, choose_model, concepts_in, max_body_bytes
from labeling_ground.adapters.label_studio.config import Config, parse_config
from labeling_ground.adapters.label_studio.pictures import Pictures
from labeling_ground.adapters.label_studio.regions import Region, marks_of, prompts_of, text_of, to_regions
from labeling_ground.api import responses
from labeling_ground.api.adapter import Adapter, Endpoint
from labeling_ground.api.errors import BadBody
from labeling_ground.api.requests import Caller, caller_of, pools_of, predictor_of, read_json
from labeling_ground.api.state import AppState
from labeling_ground.errors import LabelingGroundError, TooLarge
from labeling_ground.service.known_texts import OpenImage
from labeling_ground.service.sources import Link
from labeling_ground.supervisor import Background

log = logging.getLogger(__name__)

_PATH = "/label-studio"
_PATHS = (_PATH, f"{_PATH}/models/{{model}}")
"""Where backends are connected: the default model, or one that the address names."""
_LEAST_SCORE = 0.5
"""Of what is found by a phrase: Label Studio's page has no field for a threshold."""


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


def create(app_state: AppState) -> Adapter:
    """The adapter of one server."""
    settings, backend = app_state.settings, MLBackend(app_state)
    most_bytes = max_body_bytes(settings) + int(settings.label_studio_bytes)

    def at(path: str) -> tuple[str, ...]:
        return tuple(base + path for base in _PATHS)

    return Adapter(
        "label-studio",
        (
            Endpoint("GET", (*_PATHS, *at("/health")), backend.health),
            Endpoint("POST", at("/setup"), backend.setup),
            Endpoint("POST", at("/predict"), backend.predict, most_bytes),
            Endpoint("POST", at("/webhook"), backend.webhook, most_bytes),
            Endpoint("GET", at("/versions"), backend.versions),
        ),
        aclose=backend.aclose,
    )


class MLBackend:
    """What one server answers Label Studio, by the path's last part."""

    def __init__(self, app_state: AppState) -> None:
        self._settings, self._models = app_state.settings, app_state.models
        self._pictures = Pictures(app_state.sources, app_state.settings)
        self._prefetches = Background(app_state.supervisor, "prefetch for Label Studio")

    async def health(self, request: Request) -> Response:
        """That there is a backend. A wrong key, or model, shall be seen where it is connected."""
        caller_of(request)
        self._versions(request)
        return responses.as_json({"status": "UP", "model_class": "LabelingGround"})

    async def setup(self, request: Request) -> Response:
        """The model's version, when a project connects the backend or opens a task."""
        caller = caller_of(request)
        body = await read_json(request, SetupRequest.model_validate_json)
        self._pictures.remember(caller.tenant, body.project or "", body.hostname, body.access_token)
        return responses.as_json({"model_version": self._versions(request)[0]})

    async def versions(self, request: Request) -> Response:
        """The versions of the models."""
        caller_of(request)
        return responses.as_json({"versions": self._versions(request)})

    async def webhook(self, _: Request) -> Response:
        """Nothing. Label Studio sends no key here; what people annotate is not for us, and is not read."""
        return responses.as_json({"status": "ignored"})

    async def predict(self, request: Request) -> Response:
        """Masks for what an annotator has marked on a task; nothing for tasks that were opened."""
        caller = caller_of(request)
        body = await read_json(request, PredictTasks.model_validate_json)
        regions = body.params.context.result if body.params.context is not None else None
        if regions is None:
            self._prefetches.start(self._fetch_ahead(caller, body, request.path_params.get("model")))
            return responses.as_json({"results": []})  # anything else would be kept as a prediction, shown to everybody
        text = text_of(regions)
        if text:
            found = await self._find(request, caller, body, regions[0], text)
        else:
            await choose_model(request, (body.model_version or "").partition("@")[0])
            found = await self._segment(request, caller, body, regions) if regions else []
        score = sum(each["score"] for each in found) / len(found) if found else 0
        version = str(predictor_of(request).backend.info.version)
        return responses.as_json({"results": [{"result": found, "score": score, "model_version": version}]})

    async def aclose(self) -> None:
        """Call off what is being prefetched, and close the connections."""
        await self._prefetches.aclose()
        await self._pictures.aclose()

    # --- within -------------------------------------------------------------------------------------------------

    async def _segment(
        self, request: Request, caller: Caller, body: PredictTasks, regions: list[Region]
    ) -> list[dict[str, Any]]:
        """Regions of the masks for what was marked."""
        marks = marks_of(regions)
        first, most = marks[0], self._settings.max_points
        config, image = self._opened(request, caller, body, first)
        if len(marks) > most:
            raise TooLarge(f"{len(marks)} marks in one prompt; this server takes {most}.")
        drawn: list[dict[str, Any]] = []
        for answer in await image.segment(partial(prompts_of, marks)):
            found = answer.prediction
            size, most_pixels = (found.height, found.width), self._settings.max_image_pixels
            draw = pools_of(request).drawing.run
            drawn += await draw(to_regions, found.masks[0], size, first, first.label, config, most_pixels)
        return drawn

    async def _find(
        self, request: Request, caller: Caller, body: PredictTasks, first: Region, text: str
    ) -> list[dict[str, Any]]:
        """Regions of all that the phrases in a text name."""
        config, image = self._opened(request, caller, body, first)
        wanted = concepts_in(text, self._settings)
        answers = await image.find(await choose_finder(request, None, wanted), wanted)
        most_pixels = self._settings.max_image_pixels

        def draw() -> list[dict[str, Any]]:
            return [
                region
                for found in (answer.found for answer in answers)
                for one in found.instances
                if one.mask.score >= _LEAST_SCORE
                for label in [config.label_for(first.to_name, found.concept.phrase)]
                for region in to_regions(one.mask, (found.height, found.width), first, label, config, most_pixels)
            ]

        return await pools_of(request).drawing.run(draw, background=True)

    def _opened(self, request: Request, caller: Caller, body: PredictTasks, first: Region) -> tuple[Config, ToolImage]:
        """The project's configuration, and the picture that a region is on.

        Raises:
            BadBody, BadInput: there is no task, no such picture, or nothing to draw a mask with.
        """
        if not body.tasks:
            raise BadBody("There is no task to predict for.")
        task, config = body.tasks[0], parse_config(body.label_config)
        config.outline_for(first.to_name, first.label)  # before anything is fetched
        value = config.address(first.to_name, task.data, first.item_index or 0)

        async def open_image() -> OpenImage:
            link = Link(predictor_of(request), caller.tenant, "", client=caller.client)
            found = await self._pictures.open(link, body.project or "", value, task.id)
            return OpenImage(found.image_id, found.width, found.height)

        return config, ToolImage(request, caller, None, open_image)

    async def _fetch_ahead(self, caller: Caller, body: PredictTasks, model: str | None) -> None:
        """Have the pictures of tasks that were opened encoded, while nobody waits."""
        try:
            served = await self._models.acquire(model)
        except LabelingGroundError as error:
            log.warning("no picture of a Label Studio task can be prefetched: %s", error)
            return
        try:
            link = Link(served.predictor, caller.tenant, "", client=caller.client)
            config = parse_config(body.label_config)
            for task in body.tasks[: self._settings.prefetch_per_client]:
                value = config.address(None, task.data)
                await self._pictures.prefetch(link, body.project or "", value, task.id)
        except LabelingGroundError as error:
            log.warning("the picture of a Label Studio task could not be prefetched: %s", error)
        finally:
            self._models.leave(served)

    def _versions(self, request: Request) -> list[str]:
        """Of the model that the address names, else of all, the default one first; its id where it is not loaded.

        Raises:
            UnknownModel: the address names one that is not served here.
        """
        model = request.path_params.get("model")
        name = None if model is None else self._models.name_of(model)
        statuses = [each for each in self._models.statuses() if name in (None, each.facts.name)]
        return [str(each.served.predictor.backend.info.version) if each.served else each.id for each in statuses]
