"""The segmentation calls of Roboflow's ``inference-sdk``. ``docs/tools/roboflow.md`` says how to use it."""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, FiniteFloat, field_validator

from labeling_ground.adapters.images import (
    KnownTexts,
    OpenImage,
    box_on,
    choose_model,
    in_time,
    max_body_bytes,
    open_sent,
    point_on,
    read_with_image,
    segment_sent,
)
from labeling_ground.api import responses
from labeling_ground.api.adapter import Adapter, Endpoint, Problem
from labeling_ground.api.requests import while_connected
from labeling_ground.api.state import AppState, caller_of, pools_of
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.records import CachedPrediction
from labeling_ground.errors import BadInput, NotOffered
from labeling_ground.service.predictor import PromptAsk
from labeling_ground.types import Box as Corners


class SentPicture(BaseModel):
    """An image as the SDK sends it."""

    type: Literal["base64"]
    value: str


class Point(BaseModel):
    """A click, in pixels; ``positive`` on the object."""

    x: FiniteFloat
    y: FiniteFloat
    positive: bool = True


class Box(BaseModel):
    """A box by its centre and size, in pixels."""

    x: FiniteFloat
    y: FiniteFloat
    width: FiniteFloat
    height: FiniteFloat


class Prompt(BaseModel):
    """One object."""

    points: list[Point] | None = None
    box: Box | None = None


class EmbedRequest(BaseModel):
    """The body of ``embed_image``; its ``image_id`` is only answered, as it is no name for what an image holds."""

    api_key: str | None = None
    image: SentPicture
    image_id: str | None = None
    sam2_version_id: str | None = None


class SegmentRequest(BaseModel):
    """The body of ``segment_image`` and ``visual_segment``.

    The SDK always names a model version (``hiera_tiny``, unless it is told another). A model of that name answers where
    one is served here, else the default one, and the header ``X-Model-Version`` says which that is.
    """

    api_key: str | None = None
    image: SentPicture
    prompts: list[Prompt]
    multimask_output: bool = True
    format: Literal["json", "polygon", "rle", "binary"] = "json"
    sam2_version_id: str | None = None

    @field_validator("prompts", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        """The SDK sends ``{"prompts": […]}``; its server takes the list alone, and a single prompt, as well."""
        if isinstance(value, dict):
            return value.get("prompts", [value])
        return value


def create(app_state: AppState, texts: KnownTexts) -> Adapter:
    """The adapter of one server."""

    async def segment(request: Request) -> Response:
        started = time.perf_counter()
        body, sent = await read_with_image(request, SegmentRequest, lambda body: body.image.value)
        caller = caller_of(request, *_keys(request, body.api_key))
        if body.format == "binary":
            raise BadInput("The format 'binary' is not answered, as the SDK cannot read it. Use 'rle' or 'json'.")
        await choose_model(request, body.sam2_version_id)
        multimask = body.multimask_output
        _, found = await segment_sent(
            request, caller, sent, texts, lambda image: prompts_of(body.prompts, image, multimask=multimask)
        )
        predictions = [
            await pools_of(request).drawing.run(_prediction, answer.prediction, body.format) for answer in found
        ]
        answer = {"predictions": predictions, "time": time.perf_counter() - started}
        response = responses.as_json(answer)
        if found:
            response.headers["X-Model-Version"] = str(found[0].version)
        return response

    async def embed(request: Request) -> Response:
        started = time.perf_counter()
        body, sent = await read_with_image(request, EmbedRequest, lambda body: body.image.value)
        caller = caller_of(request, *_keys(request, body.api_key))
        await choose_model(request, body.sam2_version_id)
        image = await while_connected(request, in_time(request, open_sent(request, caller, sent, texts)))
        answer = {"image_id": body.image_id or image.image_id, "time": time.perf_counter() - started}
        return responses.as_json(answer)

    async def concept(_: Request) -> Response:
        raise NotOffered("No model that is served here takes text. Use sam3_visual_segment with points or a box.")

    at = partial(_endpoint, largest=max_body_bytes(app_state.settings))
    return Adapter(
        "roboflow",
        (
            at(segment, "/sam2/segment_image", "/sam3/visual_segment"),
            at(embed, "/sam2/embed_image", "/sam3/embed_image"),
            at(concept, "/sam3/concept_segment"),
        ),
    )


def prompts_of(sent: Sequence[Prompt], image: OpenImage, *, multimask: bool) -> list[PromptAsk]:
    """What the SDK's prompts ask for on an image."""
    return [
        PromptAsk(
            [point_on(image, point.x, point.y, int(point.positive)) for point in prompt.points or ()],
            None if prompt.box is None else _corners(prompt.box, image),
            multimask=multimask,
        )
        for prompt in sent
    ]


def _corners(box: Box, image: OpenImage) -> Corners:
    across, down = box.width / 2, box.height / 2
    return box_on(image, box.x - across, box.y - down, box.x + across, box.y + down)


def _prediction(prediction: CachedPrediction, form: str) -> dict[str, Any]:
    best, size = prediction.masks[0], (prediction.height, prediction.width)
    if form == "rle":
        return {"masks": {"size": size, "counts": best.counts}, "confidence": best.score, "format": "rle"}
    rings = mask_codec.to_centre_rings(mask_codec.from_rle(size, best.counts))
    return {"masks": rings, "confidence": best.score, "format": "polygon"}


def _keys(request: Request, in_body: str | None) -> tuple[str | None, ...]:
    return in_body, request.query_params.get("api_key")


def _endpoint(handle: Callable[[Request], Awaitable[Response]], *paths: str, largest: int) -> Endpoint:
    both = tuple(prefix + path for prefix in ("", "/roboflow") for path in paths)
    return Endpoint("POST", both, handle, largest, _failure)


def _failure(problem: Problem) -> tuple[int, dict[str, Any]]:
    return problem.status, {"message": problem.detail, "code": problem.type}
