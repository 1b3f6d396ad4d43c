"""``/v1/images/{id}/concepts``: all instances of what a phrase names, or of what is like exemplars."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from labeling_ground import key as keys
from labeling_ground.api import responses
from labeling_ground.api.errors import problem_responses
from labeling_ground.api.lines import as_lines, line, wants_lines, whole_or_lines
from labeling_ground.api.requests import (
    caller_of,
    model_for,
    model_named,
    pools_of,
    read_json,
    request_log_of,
    state_of,
    while_connected,
)
from labeling_ground.api.routes.images import ImageId
from labeling_ground.api.schemas.common import CLIENT_ID, MODEL, PRIORITY, json_body
from labeling_ground.api.schemas.concepts import ConceptsLine, ConceptsOut, ConceptsRequest
from labeling_ground.errors import BadPrompt, NotOffered, TooLarge
from labeling_ground.service.concepts import ConceptAnswer, Concepts
from labeling_ground.service.model_pool import LoadedModel, ModelPool
from labeling_ground.settings import Settings
from labeling_ground.types import Box, Concept, Exemplar

router = APIRouter(prefix="/v1/images", tags=["images and masks"])


@router.post(
    "/{image_id}/concepts",
    summary="All instances of a concept",
    response_model=ConceptsOut,
    responses={
        **whole_or_lines("All phrases", ConceptsLine),
        **problem_responses(400, 401, 404, 408, 413, 415, 422, 501, 503, 507),
    },
    openapi_extra={"parameters": [MODEL, CLIENT_ID, PRIORITY], **json_body(ConceptsRequest)},
)
async def find_concepts(request: Request, image_id: ImageId) -> Response:
    """Find all objects that a phrase names, or that are like those in exemplar boxes: a mask, a box and a score each.

    It takes a model that can (`text`, `exemplars` in its `capabilities` in `/v1/models`). What such a model computes of
    the image before it reads a phrase is cached: the next phrase on it costs a small part of the first, for everyone,
    and so does the first click. Answers are cached whole: another `score_threshold`, `max_instances` or `format` of the
    same phrase computes nothing. Phrases are the same if they differ in case and white space only.

    Refine an instance by clicks: `/masks` takes `{"prediction_id": …, "index": …}` as its `mask_input`.

    With `Accept: application/x-ndjson` phrases are answered as they are found, one JSON object a line: `start`, then a
    `concept` for each, in the order in which they are ready, then `end`; or `problem`, with a problem body's fields. A
    stream without one of these two was cut off on its way. What goes wrong before the first phrase is answered has a
    plain problem body and its status.
    """
    app_state, caller = state_of(request), caller_of(request)
    body = await read_json(request, ConceptsRequest.model_validate_json)
    check_limits(body.phrases or [body.text or ""], len(body.exemplars), app_state.settings)
    wanted = wanted_in(body)
    served = await model_for(request, model_named(request, body.model))
    finder = concepts_of(served, app_state.models, wanted)
    request_log_of(request).fields |= {"image": image_id[:12], "concepts": len(wanted)}
    written = _written(request, finder.find(caller.tenant, image_id, wanted, client=caller.client), body)
    if wants_lines(request):
        return await as_lines(request, _lines(image_id, written))
    return await while_connected(request, _whole(image_id, written))


_Written = tuple[int, ConceptAnswer, bytes]
"""A phrase's number in the request, what was found of it, and that as JSON."""


async def _written(
    request: Request, answers: AsyncGenerator[tuple[int, ConceptAnswer], None], body: ConceptsRequest
) -> AsyncGenerator[_Written, None]:
    record, drawing = request_log_of(request), pools_of(request).drawing
    async with aclosing(answers):
        async for number, answer in answers:
            record.note(answer.outcome, answer.timing)
            listed = _listed(answer, body.score_threshold, body.max_instances)
            instances = await responses.found(listed, (answer.found.height, answer.found.width), body.format, drawing)
            yield number, answer, responses.with_masks(_about(answer), instances, "instances")


async def _whole(image_id: str, written: AsyncGenerator[_Written, None]) -> Response:
    found = sorted([each async for each in written], key=lambda each: each[0])
    answers = [answer for _, answer, _ in found]
    fields = _head(image_id, answers[0]) | _summary(answers)
    content = responses.with_masks(fields, [each for *_, each in found], "concepts")
    return Response(content, media_type="application/json")


async def _lines(image_id: str, written: AsyncGenerator[_Written, None]) -> AsyncGenerator[bytes, None]:
    answers: list[ConceptAnswer] = []
    async with aclosing(written):
        async for number, answer, each in written:
            if not answers:
                yield line("start", _head(image_id, answer))
            answers.append(answer)
            yield b'{"event":"concept","number":%d,' % number + each[1:] + b"\n"
    yield line("end", _summary(answers))


def _head(image_id: str, answer: ConceptAnswer) -> dict[str, Any]:
    size = {"width": answer.found.width, "height": answer.found.height}
    return {"image_id": image_id, **responses.origin(answer.version, answer.model_note), **size}


def _summary(answers: Sequence[ConceptAnswer]) -> dict[str, Any]:
    return {
        "outcome": responses.dearest([answer.outcome for answer in answers]),
        "seconds": round(max(answer.timing.total for answer in answers), 6),
        "timing": responses.merged_timing([answer.timing for answer in answers]),
    }


def check_limits(phrases: Sequence[str], exemplars: int, settings: Settings) -> None:
    """Refuse more, or longer, phrases, or more exemplars, than the operator allows.

    Raises:
        TooLarge: there are.
    """
    if len(phrases) > settings.max_concepts:
        raise TooLarge(f"{len(phrases)} phrases in one request; this server takes {settings.max_concepts}.")
    longest = max(map(len, phrases), default=0)
    if longest > settings.max_phrase_length:
        raise TooLarge(
            f"A phrase of {longest} characters; this server takes {settings.max_phrase_length}. Say in a few words "
            "what to find."
        )
    if exemplars > settings.max_exemplars:
        raise TooLarge(f"{exemplars} exemplars; this server takes {settings.max_exemplars}.")


def wanted_in(body: ConceptsRequest) -> list[Concept]:
    """The concepts of a request in canonical form, in the order of its phrases.

    Raises:
        BadPrompt: one makes no sense.
    """
    exemplars = [Exemplar(Box(*one.box), one.positive) for one in body.exemplars]
    phrases: Sequence[str | None] = body.phrases or [body.text]
    return [keys.canonical_concept(phrase, exemplars) for phrase in phrases]


def capabilities_for(wanted: Sequence[Concept]) -> set[str]:
    """What a model must take that these concepts are found by."""
    needed = {"text" for concept in wanted if concept.phrase is not None}
    return needed | {"exemplars" for concept in wanted if concept.exemplars}


def concepts_of(served: LoadedModel, models: ModelPool, wanted: Sequence[Concept]) -> Concepts:
    """What answers these concepts by a model.

    Raises:
        BadPrompt: this model does not take them; another one of this server does.
        NotOffered: none does.
    """
    needed = capabilities_for(wanted)
    finder = served.predictor.concepts
    if finder is not None and needed <= {*served.predictor.backend.info.capabilities}:
        return finder
    said = f"The model {served.model} takes no {' and '.join(sorted(needed, reverse=True))}"
    others = [status.id for status in models.statuses() if needed <= {*status.facts.capabilities}]
    if others:
        raise BadPrompt(f'{said}. Name one in "model" that does: {", ".join(others)}.')
    raise NotOffered(f"{said}, and no other model of this server does. It takes one like SAM 3 (docs/concepts.md).")


def _about(answer: ConceptAnswer) -> dict[str, Any]:
    return {
        "phrase": answer.found.concept.phrase,
        "prediction_id": answer.detections_id,
        "outcome": answer.outcome,
        "found": len(answer.found.instances),
        "timing": responses.timing(answer.timing),
    }


def _listed(answer: ConceptAnswer, threshold: float, most: int | None) -> responses.Listed:
    """Those of the instances that were asked for. They are sorted, so these are the first."""
    shown = [one for one in answer.found.instances if one.mask.score >= threshold][:most]
    return [
        ({"index": index, "box": [one.box.x0, one.box.y0, one.box.x1, one.box.y1]}, one.mask)
        for index, one in enumerate(shown)
    ]
