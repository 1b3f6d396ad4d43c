"""``/v1/cache/history``: what the server did in each minute of the last day."""

import asyncio
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from prometheus_client import Metric

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
    operation_id="get_cache_history",
    tags=["cache"],
    summary="What the server did in each minute of the last day",
    response_model=HistoryOut,
    responses=problem_responses(401, 422),
)
async def history(
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
    now = figures.counters
    of_class = dict.fromkeys(Priority, 0.0)
    busy_s = 0.0
    for queue in now.queues.values():
        for priority, (_, counted) in queue.classes.items():
            of_class[priority] += counted.waited_s
            busy_s += counted.busy_s
    refused, errors = _refusals_and_errors(figures.requests)
    asked = now.total.asked
    app_state.history.note(
        {
            **{outcome.value: asked[outcome] for outcome in Outcome},
            **{priority.label: seconds for priority, seconds in of_class.items()},
            "refused": refused,
            "errors": errors,
            "busy": busy_s,
            "saved": now.total.seconds_saved,
            "computed": now.total.seconds_computed,
            "memory_bytes": next((tier.stats.bytes for tier in now.tiers if tier.stats.tier == "memory"), 0),
            "resident_bytes": sum(worker.memory_bytes for worker in figures.workers) or resident_bytes(),
        }
    )


def _refusals_and_errors(families: Iterable[Metric]) -> tuple[float, float]:
    """Requests that were refused for now (429, 503), and those that failed (any other 5xx), since the start."""
    statuses = [
        (sample.labels["status"], sample.value)
        for family in families
        for sample in family.samples
        if sample.name == "labeling_ground_requests_total"
    ]
    refused = sum(value for status, value in statuses if status in ("429", "503"))
    errors = sum(value for status, value in statuses if status.startswith("5") and status != "503")
    return refused, errors
