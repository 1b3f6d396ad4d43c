"""``/v1/cache/history``: what the server did in each minute of the last day."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from labeling_ground.api import responses
from labeling_ground.api.errors import problem_responses
from labeling_ground.api.requests import caller_of, state_of
from labeling_ground.api.schemas.cache import HistoryOut
from labeling_ground.api.state import AppState
from labeling_ground.api.workers import figures_of
from labeling_ground.service.history import SAMPLE
from labeling_ground.settings.machine import resident_bytes
from labeling_ground.types import Outcome, Priority

router = APIRouter()


@router.get(
    "/v1/cache/history",
    tags=["cache"],
    summary="What the server did in each minute of the last day",
    response_model=HistoryOut,
    responses=problem_responses(401, 422),
)
async def get_cache_history(
    request: Request,
    since: Annotated[
        float, Query(ge=0, allow_inf_nan=False, description="Only what came after this moment, in seconds since 1970.")
    ] = 0.0,
) -> Response:
    """Columns of equal length, one number for each step. A restart keeps them where the server has a disk tier."""
    app_state = state_of(request)
    caller_of(request)
    found, peers = app_state.history.since(since), app_state.peers
    if peers is not None and peers.number != 0:
        found = (await peers.ask("history", since)).get(0, found)
    columns = {name: [round(value, 4) for value in found[name].tolist()] for name in SAMPLE.names or ()}
    columns["at"] = found["at"].tolist()  # in full: it is what a client asks on from
    return responses.as_json({"every_seconds": app_state.history.every_s, "columns": columns})


async def note_history(app_state: AppState) -> None:
    """Write down from time to time what the server, all its workers together, has done."""
    if app_state.peers is not None and app_state.peers.number != 0:  # of several workers the first writes for all
        return
    app_state.history.open()
    while True:
        await _note(app_state)
        await asyncio.sleep(app_state.history.every_s)


async def _note(app_state: AppState) -> None:
    figures = await figures_of(app_state)
    counted = figures.counted
    asked = counted.by("outcome", "asked")
    waited = counted.by("class", "queue_waited_seconds")
    answered = counted.by("status", "requests")
    refused = sum(answered.get(status, 0.0) for status in ("429", "503"))
    app_state.history.note(
        {
            **{outcome.value: asked[outcome] for outcome in Outcome},
            **{priority.label: waited[priority.label] for priority in Priority},
            "refused": refused,
            "errors": sum(number for status, number in answered.items() if status[0] == "5" and status != "503"),
            "busy": counted.sum("queue_busy_seconds"),
            "saved": counted.sum("seconds_saved"),
            "computed": counted.sum("seconds_computed"),
            "memory_bytes": next((tier.stats.bytes for tier in figures.state.tiers if tier.stats.tier == "memory"), 0),
            "resident_bytes": sum(worker.memory_bytes for worker in figures.workers) or resident_bytes(),
        }
    )
