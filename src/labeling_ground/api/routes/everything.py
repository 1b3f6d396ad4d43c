"""``/v1/images/{id}/everything``: all masks of an image, as one answer or as a stream."""

import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

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
from labeling_ground.api.schemas.everything import EverythingLine, EverythingOut, EverythingRequest
from labeling_ground.api.state import AppState, RequestLog
from labeling_ground.codec.records import CachedMask, FoundMask
from labeling_ground.errors import TooLarge
from labeling_ground.service.everything import Begun, Everything, EverythingAnswer, Progress
from labeling_ground.types import EverythingOptions

router = APIRouter(prefix="/v1/images", tags=["images and masks"])

_OPTIONS = [field.name for field in dataclasses.fields(EverythingOptions)]


@router.post(
    "/{image_id}/everything",
    summary="All masks of an image",
    response_model=EverythingOut,
    responses={
        **whole_or_lines("All masks", EverythingLine),
        **problem_responses(400, 401, 404, 408, 413, 415, 422, 503, 507),
    },
    openapi_extra={"parameters": [MODEL, CLIENT_ID, PRIORITY], **json_body(EverythingRequest, required=False)},
)
async def segment_everything(request: Request, image_id: ImageId) -> Response:
    """Click on every point of a grid, keep the masks that are good and stable, and of those that say the same the best.

    The filters are those of Segment Anything's automatic mask generator, on one crop: the whole image. The result is
    cached like a mask: until it goes, the same options on the same image are not computed again. Asks for them at the
    same time share one computation, which ends early only when the last of them has left.

    It takes as long as all those clicks would. Send `Accept: application/x-ndjson` to see it grow, one JSON object a
    line:

    1. `start`: image, model, size, options, and how many `points` the grid has. It comes when the image is encoded and
       the grid's turn has come; what goes wrong before that is answered with a plain problem body and its status.
    2. `progress`, about once for each row of the grid: `masks` that are new, and in `standing` the ids of all that
       would be the answer so far. This is provisional: the last point may still bring a better mask. To draw what is
       there, keep the masks by id, and show those that stand.
    3. `end`: in `standing` the ids of the answer, best first, in `masks` those that were not sent yet or that changed,
       and `outcome`, `seconds` and `timing`. Or `problem`: a problem body's fields. A stream without one of these two
       was cut off on its way.

    Who joins late is sent at once what stands by then; a client that reads slowly is sent fewer lines with more in
    each. An answer from the cache is a `start` and an `end`. Clicks do not wait for grids: those are computed beside
    them, some at a time, and when too many wait the answer is 503 with `Retry-After`.
    """
    app_state, caller = state_of(request), caller_of(request)
    body = await read_json(request, EverythingRequest.model_validate_json, if_empty=EverythingRequest)
    path = (await model_for(request, model_named(request, body.model))).everything
    given = {name: getattr(body, name) for name in _OPTIONS if getattr(body, name) is not None}
    options = options_of(given, app_state, path)
    request_log_of(request).fields |= {"image": image_id[:12], "points": options.points_per_side**2}
    head = partial(_head, image_id, options)
    if wants_lines(request):
        steps = path.follow(caller.tenant, image_id, options, client=caller.client)
        return await as_lines(request, _lines(request, steps, head, body.format))
    answer = path.ask(caller.tenant, image_id, options, client=caller.client)
    return await while_connected(request, _whole(request, answer, head, body.format))


_Head = Callable[[Begun | EverythingAnswer], dict[str, Any]]


def _head(image_id: str, options: EverythingOptions, of: Begun | EverythingAnswer) -> dict[str, Any]:
    said = responses.origin(of.version, of.model_note)
    return {"image_id": image_id, **said, "options": dataclasses.asdict(options)}


async def _whole(request: Request, asking: Awaitable[EverythingAnswer], head: _Head, form: str) -> Response:
    answer = await asking
    found, size = answer.found, (answer.found.height, answer.found.width)
    about = {"width": found.width, "height": found.height, "points": found.points}
    fields = head(answer) | about | _origin(answer, request_log_of(request))
    masks = await responses.found(_listed(found.masks), size, form, pools_of(request).drawing)
    return Response(responses.with_masks(fields, masks), media_type="application/json")


async def _lines(
    request: Request,
    steps: AsyncGenerator[Begun | Progress | EverythingAnswer, None],
    head: _Head,
    form: str,
) -> AsyncGenerator[bytes, None]:
    drawing, size = pools_of(request).drawing, (0, 0)
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, Begun):
                size = (step.height, step.width)
                about = {"width": step.width, "height": step.height, "points": step.points}
                yield line("start", head(step) | about)
            elif isinstance(step, Progress):
                masks = await responses.found(_listed(step.masks), size, form, drawing)
                progress = {"done": step.done, "points": step.points, "standing": step.standing}
                yield responses.with_masks({"event": "progress"} | progress, masks) + b"\n"
            else:
                end = {"event": "end", "standing": [one.id for one in step.found.masks]}
                masks = await responses.found(_listed(step.news), size, form, drawing)
                yield responses.with_masks(end | _origin(step, request_log_of(request)), masks) + b"\n"


def _listed(masks: Sequence[FoundMask]) -> list[tuple[dict[str, Any], CachedMask]]:
    return [({"id": one.id, "stability": one.stability, "point": list(one.point)}, one.mask) for one in masks]


def options_of(given: Mapping[str, Any], app_state: AppState, everything: Everything) -> EverythingOptions:
    """The options that a client gave, those of the model for the others.

    Raises:
        TooLarge: the grid is finer than the operator allows.
    """
    options = dataclasses.replace(everything.usual, **given)
    most = app_state.settings.max_points_per_side
    if options.points_per_side > most:
        raise TooLarge(f"A grid of {options.points_per_side} points a side; this server takes {most}.")
    return options


def _origin(answer: EverythingAnswer, record: RequestLog) -> dict[str, Any]:
    record.note(answer.outcome, answer.timing)
    record.fields["masks"] = len(answer.found.masks)
    return {
        "outcome": answer.outcome,
        "seconds": round(answer.timing.total, 6),
        "timing": responses.timing(answer.timing),
    }
