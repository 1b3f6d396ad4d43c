"""``/api/sam``: the session style, for simple clients and the existing labeling page."""

from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from labeling_ground import key as keys
from labeling_ground.api import responses
from labeling_ground.api.errors import BadBody, problem_responses
from labeling_ground.api.requests import (
    caller_of,
    image_of_base64,
    model_for,
    model_named,
    pools_of,
    read_json,
    request_log_of,
    state_of,
    while_connected,
)
from labeling_ground.api.routes.images import stretch_from
from labeling_ground.api.schemas.common import json_body
from labeling_ground.api.schemas.session import (
    SessionClick,
    SessionDone,
    SessionImage,
    SessionImageOut,
    SessionMaskOut,
    SessionOnly,
    SessionRect,
)
from labeling_ground.errors import BadPrompt, TooLarge
from labeling_ground.service.asks import MaskAnswer
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.session_masks import SessionMask, SessionMasks, client_of
from labeling_ground.service.session_state import Snapshot
from labeling_ground.types import Box, Point

router = APIRouter(prefix="/api/sam", tags=["sessions"])


def _body(model: type[BaseModel]) -> dict[str, Any]:
    query = {"name": "model", "in": "query", "schema": {"type": "string"}, "description": "As `model` in the body."}
    return {**json_body(model), "parameters": [query]}


_PROBLEMS = problem_responses(400, 401, 404, 408, 413, 415, 422, 503, 507)


@router.post(
    "/image",
    summary="Open an image in a session",
    response_model=SessionImageOut,
    responses=_PROBLEMS,
    openapi_extra=_body(SessionImage),
)
async def open_session_image(request: Request) -> Response:
    """The session starts over with this image. An image that anybody sent before is not encoded again."""
    app_state, caller = state_of(request), caller_of(request)
    turn = app_state.sessions.turn()  # before the body is read: what came later shall stay, however long either takes
    body = await read_json(request, SessionImage.model_validate_json)
    most_bytes = app_state.settings.max_image_bytes
    reading = pools_of(request).requests.run(image_of_base64, body.image, most_bytes, "The field 'image'")
    file, digest = await reading
    image_id = keys.stretched(digest, stretch_from(body.stretch))
    record = request_log_of(request)
    record.fields |= {"image": image_id[:12], "session": body.session_id}
    predictor, model = await _model_for(request, caller.tenant, body)
    answer = await while_connected(
        request, predictor.open_image(caller.tenant, file, image_id, client=client_of(body.session_id))
    )
    record.note(answer.outcome, answer.timing)
    await app_state.sessions.open(caller.tenant, body.session_id, image_id, answer.width, answer.height, turn, model)
    return responses.as_json(
        {
            "message": "Images received successfully",
            "image_id": image_id,
            "width": answer.width,
            "height": answer.height,
            "outcome": answer.outcome,
            **responses.origin(answer.version, answer.model_note, answer.note),
        }
    )


@router.post(
    "/click",
    summary="Add a click",
    response_model=SessionMaskOut,
    responses=_PROBLEMS,
    openapi_extra=_body(SessionClick),
)
async def add_session_click(request: Request) -> Response:
    """Clicks of a session add up; the answer is the mask for all of them.

    A click that fails does not count. One whose answer the client did not wait for does: pages call a request off
    when the next click comes.
    """
    app_state, caller = state_of(request), caller_of(request)
    body = await read_json(request, SessionClick.model_validate_json)
    points = _points(body, app_state.settings.max_points)
    predictor = await _predictor_for(request, caller.tenant, body)
    clicked = _masks_for(request, body.session_id).click(predictor, caller.tenant, body.session_id, points)
    return await _answer(request, body.session_id, await clicked)


@router.post(
    "/rect",
    summary="Draw a box",
    response_model=SessionMaskOut,
    responses=_PROBLEMS,
    openapi_extra=_body(SessionRect),
)
async def draw_session_box(request: Request) -> Response:
    """The box replaces the clicks so far; later clicks refine it. It may be drawn from any corner."""
    caller = caller_of(request)
    body = await read_json(request, SessionRect.model_validate_json)
    box = Box(body.startX, body.startY, body.endX, body.endY)
    predictor = await _predictor_for(request, caller.tenant, body)
    drawn = await _masks_for(request, body.session_id).rect(predictor, caller.tenant, body.session_id, box)
    return await _answer(request, body.session_id, drawn)


@router.post(
    "/undo",
    summary="Take the last click back",
    response_model=SessionMaskOut,
    responses=_PROBLEMS,
    openapi_extra=_body(SessionOnly),
)
async def undo_session_click(request: Request) -> Response:
    """The mask for what is left: usually a hit. With nothing left the mask is empty."""
    caller = caller_of(request)
    body = await read_json(request, SessionOnly.model_validate_json)
    predictor = await _predictor_for(request, caller.tenant, body)
    left = await _masks_for(request, body.session_id).undo(predictor, caller.tenant, body.session_id)
    return await _answer(request, body.session_id, left)


@router.post(
    "/finish_click",
    summary="Finish an object",
    response_model=SessionDone,
    responses=_PROBLEMS,
    openapi_extra=_body(SessionOnly),
)
async def finish_session_object(request: Request) -> Response:
    """Forget the clicks and the box, keep the image for the next object."""
    app_state, caller = state_of(request), caller_of(request)
    body = await read_json(request, SessionOnly.model_validate_json)
    if named := model_named(request, body.model):
        await app_state.sessions.use(caller.tenant, body.session_id, app_state.models.name_of(named))
    await app_state.sessions.finish(caller.tenant, body.session_id)
    return responses.as_json({"message": "Finish successfully", "points": []})


async def _model_for(request: Request, tenant: str, body: SessionOnly) -> tuple[Predictor, str]:
    """What answers a session, loaded where it is not: the model that the request names, else the one that was named
    before, else the default one. And what the settings call it (a factory's model has no id before it is loaded), empty
    where none was ever named."""
    model = model_named(request, body.model) or await state_of(request).sessions.model(tenant, body.session_id)
    served = await model_for(request, model or None)
    return served.predictor, model and served.facts.name


async def _predictor_for(request: Request, tenant: str, body: SessionOnly) -> Predictor:
    """The same of a session that is open, which remembers what the request names."""
    predictor, model = await _model_for(request, tenant, body)
    if model_named(request, body.model):
        await state_of(request).sessions.use(tenant, body.session_id, model)
    return predictor


def _masks_for(request: Request, session_id: str) -> SessionMasks:
    """What answers the request's clicks while its client is there to hear of them."""

    async def attend(snapshot: Snapshot, prediction: Coroutine[Any, Any, MaskAnswer]) -> MaskAnswer | None:
        _log(request, session_id, snapshot)
        try:
            return await while_connected(request, prediction)
        except ClientDisconnect:
            return None

    app_state = state_of(request)
    return SessionMasks(app_state.sessions, refine=app_state.settings.session_refine, attend=attend)


async def _answer(request: Request, session_id: str, found: SessionMask) -> Response:
    snapshot, answer = found.snapshot, found.answer
    _log(request, session_id, snapshot)
    if found.has_left:
        raise ClientDisconnect
    state: dict[str, Any] = {"points": [{"x": p.x, "y": p.y, "label": p.label} for p in snapshot.clicks]}
    about = {"message": "Images processed successfully", "image_id": snapshot.image_id}
    if snapshot.box is not None:
        state["box"] = [snapshot.box.x0, snapshot.box.y0, snapshot.box.x1, snapshot.box.y1]
    if answer is None:
        empty = await pools_of(request).drawing.run(responses.empty_png, snapshot.height, snapshot.width)
        return responses.as_json(
            {**about, **state, **responses.origin(found.version, found.model_note), "masks": empty}
        )
    request_log_of(request).note(answer.outcome, answer.timing)
    state |= {"outcome": answer.outcome} | responses.of_embedding(answer.is_int8)
    about["prediction_id"] = answer.prediction_id
    return responses.as_object(responses.fields(state), responses.session_mask(answer, about))


def _log(request: Request, session_id: str, snapshot: Snapshot) -> None:
    about = {"image": snapshot.image_id[:12], "session": session_id, "points": len(snapshot.clicks)}
    request_log_of(request).fields |= about


def _points(body: SessionClick, most: int) -> list[Point]:
    if len(body.points) > 2 * most:
        raise TooLarge(f"More than {most} points, which is what a session holds.")
    flat = [number for part in body.points for number in (part if isinstance(part, list) else [part])]
    if len(flat) % 2:
        raise BadBody("'points' is [x, y], or a list of such pairs.")
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    labels = body.labels if body.labels is not None else [1] * len(pairs)
    if len(labels) != len(pairs):
        raise BadBody(f"{len(pairs)} points but {len(labels)} labels: give one label for each point.")
    if any(label not in (0, 1) for label in labels):
        raise BadPrompt("A point's label is 1 (on the object) or 0 (off the object).")
    return [Point(x, y, label) for (x, y), label in zip(pairs, labels, strict=True)]


DIRECT = (add_session_click, draw_session_box, undo_session_click, finish_session_object)
