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
    KnownTexts,
    OpenImage,
    box_on,
    find_sent,
    max_body_bytes,
    objects_of,
    point_on,
    read_with_image,
    segment_sent,
)
from labeling_ground.api import responses
from labeling_ground.api.adapter import Adapter, Endpoint, Failure
from labeling_ground.api.requests import caller_of, model_for, pools_of
from labeling_ground.api.routes.concepts import check_limits, concepts_of
from labeling_ground.api.state import AppState
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.records import CachedMask
from labeling_ground.errors import BadPrompt
from labeling_ground.key import canonical_concept
from labeling_ground.service.concepts import ConceptAnswer
from labeling_ground.service.model_pool import ModelStatus
from labeling_ground.service.predictor import PromptAsk
from labeling_ground.types import Concept

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
    epsilon_factor: FiniteFloat = Field(0.0, ge=0)
    text_prompt: str | None = None
    conf_threshold: FiniteFloat = 0.5


class PredictRequest(BaseModel):
    """The body of ``POST /v1/predict``."""

    model: str | None = None
    image: str
    params: Params = Field(default_factory=Params)


def create(app_state: AppState, texts: KnownTexts) -> Adapter:
    """The adapter of one server."""

    def models_fields() -> dict[str, Any]:
        return {"success": True, "data": {each.id: _about(each) for each in app_state.models.statuses()}}

    async def models(request: Request) -> Response:
        caller_of(request)  # a key is needed where there are some
        return responses.as_json(models_fields())

    async def predict(request: Request) -> Response:
        caller = caller_of(request)
        body, sent = await read_with_image(request, PredictRequest, lambda body: body.image)
        shapes: list[dict[str, Any]] = []
        if body.params.text_prompt:
            wanted = _concepts_in(body.params.text_prompt, app_state)
            finder = concepts_of(await model_for(request, body.model), app_state.models, wanted)
            answers = await find_sent(request, caller, sent, texts, finder, wanted)
            return _answer(await pools_of(request).drawing.run(_shapes_found, answers, body.params, background=True))
        await model_for(request, body.model)
        marks = body.params.marks or []
        if marks:
            _, found = await segment_sent(request, caller, sent, texts, lambda image: prompts_of(marks, image))
            for answer in found:
                cached = answer.prediction
                draw = partial(_shapes_of, cached.masks[0], (cached.height, cached.width), body.params.epsilon_factor)
                shapes += await pools_of(request).drawing.run(draw)
        return _answer(shapes)

    predict_at = ("/x-anylabeling/v1/predict", "/v1/predict")  # the last: of the tool's default address
    return Adapter(
        "x-anylabeling",
        (
            Endpoint("GET", ("/x-anylabeling/v1/models",), models, failure=_failure),
            Endpoint("POST", predict_at, predict, max_body_bytes(app_state.settings), failure=_harmless),
        ),
        ("/v1/models",),
        models_fields,
    )


def _about(status: ModelStatus) -> dict[str, Any]:
    takes_text = "text" in status.facts.capabilities
    return {
        "display_name": f"Labeling Ground ({status.id})",
        "widgets": _WIDGETS + _TEXT_WIDGETS if takes_text else _WIDGETS,
        "params": {},
        "batch_processing_mode": "text_prompt" if takes_text else None,
    }


def _answer(shapes: Sequence[dict[str, Any]]) -> Response:
    return responses.as_json({"success": True, "data": {**_NOTHING, "shapes": shapes}})


def _concepts_in(text: str, app_state: AppState) -> list[Concept]:
    """The phrases of a text prompt, which commas part, or full stops where there is no comma; each counts once.

    Raises:
        BadPrompt: there is none.
        TooLarge: there are too many.
    """
    phrases = [part for part in text.split("," if "," in text else ".") if part.strip()]
    check_limits(phrases, 0, app_state.settings)
    return list(dict.fromkeys(canonical_concept(phrase) for phrase in phrases or [text]))


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
