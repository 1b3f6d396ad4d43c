"""X-AnyLabeling's remote server protocol. ``docs/tools/x-anylabeling.md`` says how to connect the tool.

Whatever goes wrong with a prediction is answered 200, with no shapes and ``replace: false``: the tool takes any other
answer to mean that all shapes of the picture that are not locked shall be deleted.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, FiniteFloat

from labeling_ground.adapters.images import (
    box_on,
    concepts_in,
    max_body_bytes,
    objects_of,
    point_on,
    read_with_image,
)
from labeling_ground.api import responses
from labeling_ground.api.adapter import Adapter, Endpoint, Failure
from labeling_ground.api.requests import caller_of, model_for, pools_of, state_of
from labeling_ground.api.routes.concepts import concepts_of
from labeling_ground.api.state import AppState
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.records import CachedMask
from labeling_ground.errors import BadPrompt
from labeling_ground.service.asks import PromptAsk
from labeling_ground.service.concepts import ConceptAnswer
from labeling_ground.service.known_texts import OpenImage
from labeling_ground.service.model_pool import ModelStatus

_WIDGETS: tuple[dict[str, Any], ...] = (
    {"name": "button_add_point", "value": None},
    {"name": "button_remove_point", "value": None},
    {"name": "button_add_rect", "value": None},
    {"name": "button_clear", "value": None},
    {"name": "button_finish_object", "value": None},
    {"name": "mask_fineness_slider", "value": 10},
    {"name": "mask_fineness_value_label", "value": None},
    {"name": "toggle_preserve_existing_annotations", "value": True},
)
"""What the tool's window shows for the model. The last keeps shapes also where nobody answers the tool at all."""
_TEXT_WIDGETS: tuple[dict[str, Any], ...] = (
    {"name": "edit_text", "value": None},
    {"name": "button_send", "value": None},
    {"name": "input_conf", "value": None},
    {"name": "edit_conf", "value": 0.5},
)
"""What it shows besides for a model that finds what a phrase names."""
_LABEL = "AUTOLABEL_OBJECT"
"""By this label the tool finds a shape that is not finished yet, to replace it after the next click."""
_NOTHING: Mapping[str, Any] = MappingProxyType({"shapes": [], "description": "", "replace": False})
"""Adds no shape, and deletes none. Its description would be written into the annotator's file."""


class Mark(BaseModel):
    """What a person marked: a point ``[x, y]`` or a rectangle ``[x1, y1, x2, y2]``, in pixels."""

    type: Literal["point", "rectangle"]
    data: list[FiniteFloat]
    label: int = 1


class Params(BaseModel):
    """What goes with an image: the marks, or what to find and the least score; and how finely masks are outlined."""

    marks: list[Mark] | None = None
    epsilon_factor: FiniteFloat = Field(0.0, ge=0, le=1)
    text_prompt: str | None = None
    conf_threshold: FiniteFloat = 0.5


class PredictRequest(BaseModel):
    """The body of ``POST /v1/predict``."""

    model: str | None = None
    image: str
    params: Params = Field(default_factory=Params)


def create(app_state: AppState) -> Adapter:
    """The adapter of one server."""
    predict_at = ("/x-anylabeling/v1/predict", "/v1/predict")  # the last: of the tool's default address
    return Adapter(
        "x-anylabeling",
        (
            Endpoint("GET", ("/x-anylabeling/v1/models",), models, failure=_failure),
            Endpoint("POST", predict_at, predict, max_body_bytes(app_state.settings), failure=_harmless),
        ),
        ("/v1/models",),
        partial(_models, app_state),
    )


def _models(app_state: AppState) -> dict[str, Any]:
    return {"success": True, "data": {each.id: _about(each) for each in app_state.models.statuses()}}


async def models(request: Request) -> Response:
    """``GET /v1/models`` below the adapter's own path: the models, as the tool lists them."""
    caller_of(request)  # a key is needed where there are some
    return responses.as_json(_models(state_of(request)))


async def predict(request: Request) -> Response:
    """``POST /v1/predict``: outlines of what was marked, or of all that a phrase names."""
    body, image = await read_with_image(request, PredictRequest, lambda body: body.image)
    params, app_state, drawing = body.params, state_of(request), pools_of(request).drawing
    shapes: list[dict[str, Any]] = []
    if params.text_prompt:
        wanted = concepts_in(params.text_prompt, app_state.settings)
        finder = concepts_of(await model_for(request, body.model), app_state.models, wanted)
        shapes = await drawing.run(_shapes_found, await image.find(finder, wanted), params, background=True)
    else:
        await model_for(request, body.model)
        marks = params.marks or []
        answers = await image.segment(lambda opened: prompts_of(marks, opened)) if marks else []
        for answer in answers:
            cached = answer.prediction
            size = (cached.height, cached.width)
            shapes += await drawing.run(_shapes_of, cached.masks[0], size, params.epsilon_factor)
    return responses.as_json({"success": True, "data": {**_NOTHING, "shapes": shapes}})


def _about(status: ModelStatus) -> dict[str, Any]:
    takes_text = "text" in status.facts.capabilities
    return {
        "display_name": f"Labeling Ground ({status.id})",
        "widgets": _WIDGETS + _TEXT_WIDGETS if takes_text else _WIDGETS,
        "params": {},
        "batch_processing_mode": "text_prompt" if takes_text else None,
    }


def _shapes_found(answers: Sequence[ConceptAnswer], params: Params) -> list[dict[str, Any]]:
    """The outlines of all instances that score enough, under their phrase as the label. Blocking."""
    return [
        shape
        for answer in answers
        for one in answer.found.instances
        if one.mask.score >= params.conf_threshold
        for shape in _shapes_of(
            one.mask,
            (answer.found.height, answer.found.width),
            params.epsilon_factor,
            answer.found.concept.phrase or _LABEL,
        )
    ]


def prompts_of(marks: Sequence[Mark], image: OpenImage) -> list[PromptAsk]:
    """The prompts that the marks stand for; see ``objects_of``.

    Raises:
        BadPrompt: a mark has another number of coordinates than its type, or a label that makes no sense.
    """
    points, boxes = [], []
    for mark in marks:
        if len(mark.data) != (2 if mark.type == "point" else 4):
            raise BadPrompt(f"A mark of the type {mark.type} has {len(mark.data)} coordinates.")
        if mark.type == "point":
            x, y = mark.data
            points.append(point_on(image, x, y, mark.label))
        elif mark.label == 1:
            x0, y0, x1, y1 = mark.data
            boxes.append(box_on(image, x0, y0, x1, y1))
        else:
            raise BadPrompt("A rectangle off the object means nothing to the model: use points to take away.")
    return objects_of(points, boxes)


def _shapes_of(
    best: CachedMask, size: tuple[int, int], epsilon_share: float, label: str = _LABEL
) -> list[dict[str, Any]]:
    pixels = mask_codec.from_rle(size, best.counts)
    rings = mask_codec.to_centre_rings(pixels, epsilon_share=epsilon_share)
    return [
        {
            "label": label,
            "shape_type": "polygon",
            "points": [*ring, ring[0]],  # the tool draws a ring open whose first point is not repeated
            "score": best.score,
            "attributes": {},
            "description": None,
            "difficult": False,
            "direction": 0,
            "flags": None,
            "group_id": None,
            "kie_linking": [],
        }
        for ring in rings
    ]


def _failure(failure: Failure) -> tuple[int, dict[str, Any]]:
    error = {"code": failure.type, "message": failure.detail}
    return failure.status, {"success": False, "error": error, "data": {}}


def _harmless(failure: Failure) -> tuple[int, dict[str, Any]]:
    return 200, {**_failure(failure)[1], "data": dict(_NOTHING)}
