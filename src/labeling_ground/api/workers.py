"""What a server says of itself when it is several worker processes: whichever is asked answers for all of them."""

import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from labeling_ground.api.state import AppState
from labeling_ground.errors import BackendFailed, StoreFailed
from labeling_ground.metrics import Figures
from labeling_ground.peers import Answer, Peers
from labeling_ground.service.counters import StateSnapshot, take_snapshot
from labeling_ground.service.model_pool import ModelFacts
from labeling_ground.service.sums import add_up, go_on
from labeling_ground.settings.machine import resident_bytes

Listed = list[dict[str, Any]]
"""Models, each as ``ModelOut`` says it."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process, as ``/v1/cache`` tells it.

    Attributes:
        worker: its number, from 0.
        restarts: how often it was started anew because it had died.
        uptime_seconds: since it was started for the last time.
        memory_bytes: resident memory.
        cpu_seconds: of computing since then.
    """

    worker: int
    restarts: int
    uptime_seconds: float
    memory_bytes: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class ServerSnapshot:
    """The figures of a server: of one worker, or of all.

    Attributes:
        counted: what was counted since the start.
        state: what is held and under way.
        workers: the processes; none where there is only one.
        sessions: of each session that is kept here, a checksum of its name.
    """

    counted: Figures
    state: StateSnapshot
    workers: tuple[Worker, ...] = ()
    sessions: frozenset[int] = frozenset()


async def figures_of(app_state: AppState) -> ServerSnapshot:
    """What all workers of this server have counted, those that died included."""
    own = await _own_figures(app_state)
    peers = app_state.peers
    if peers is None:
        return own
    each = [own, *(await peers.ask("figures")).values()]
    sessions = frozenset[int]().union(*(one.sessions for one in each))
    return ServerSnapshot(
        Figures(family for one in each for family in one.counted.collect()),
        replace(add_up([one.state for one in each]), sessions=len(sessions)),
        tuple(sorted((worker for one in each for worker in one.workers), key=lambda worker: worker.worker)),
    )


async def health_of_all(app_state: AppState, own: Mapping[str, Any]) -> dict[str, Any]:
    """How the server is, given how the worker that was asked is.

    It is starting until all have started, then well if all are, and degraded while one is not or is started anew.
    """
    peers = app_state.peers
    if peers is None or own["status"] == "draining":  # then all were told to stop
        return dict(own)
    each = {peers.number: _told(own, peers), **await peers.ask("health")}
    states = {}
    for number in range(peers.count):
        state = each[number]["status"] if number in each else "starting"
        states[number] = "restarting" if state == "starting" and peers.has_started(number) else state
    status = own["status"]
    if "starting" in states.values():
        status = "starting"
    elif {"ok", "degraded"} & {*states.values()}:
        status = "ok" if set(states.values()) == {"ok"} else "degraded"
    checks: dict[str, str] = {}
    for health in each.values():
        for name, found in health["checks"].items():
            if checks.get(name, "ok") == "ok":
                checks[name] = found
    return {"status": status, "checks": checks | {f"worker {number}": state for number, state in states.items()}}


def _told(health: Mapping[str, Any], peers: Peers) -> Mapping[str, Any]:
    """The same; that this worker is ready for the first time is noted."""
    if health["status"] != "starting":
        peers.note_start()
    return health


async def change_settings_of_all(app_state: AppState, changes: Mapping[str, Any]) -> None:
    """Change settings of the cache in this worker, and when that went well in all others.

    Raises:
        BadSettings: they cannot be changed so; nothing was.
        StoreFailed: not all did it; trying again is safe.
    """
    await app_state.runtime_settings.change(**changes)
    peers = app_state.peers
    if peers is None:
        return
    peers.share(app_state.runtime_settings.changed)
    if len(await peers.ask("change settings", changes)) < peers.count - 1:
        raise StoreFailed("Not all worker processes have changed their settings: one is being restarted. Try again.")


async def take_over_settings(app_state: AppState) -> None:
    """Put the settings into effect that were changed at other workers before this one was started.

    Raises:
        StoreFailed: a tier did not do it; trying again is safe.
        OSError: what the workers share cannot be read.
    """
    # Read, not asked for: all others may have been killed too. And read anew with each try: these may be newer.
    if app_state.peers is not None and (changes := app_state.peers.shared):
        await app_state.runtime_settings.change(**changes)


async def models_of_all(app_state: AppState, own: Listed) -> Listed:
    """The models that are served, given as this worker lists them: each as a worker says that has it loaded, and with
    whatever fails at one of them."""
    each = [own] if app_state.peers is None else [own, *(await app_state.peers.ask("models")).values()]
    found = []
    for model in zip(*each, strict=True):
        failing = {half: why for one in model for half, why in one.get("failing", {}).items()}
        loaded = next((one for one in model if one["loaded"]), model[0])
        found.append(loaded | ({"failing": failing} if failing else {}))
    return found


async def have_others(app_state: AppState, verb: str, model: str) -> None:
    """Have the other workers ``load`` or ``unload`` a model, after this one did.

    Raises:
        BackendFailed, Overloaded: not all did it; trying again is safe.
    """
    peers, seconds = app_state.peers, app_state.settings.load_deadline_s
    if peers is not None and len(await peers.ask(f"{verb} model", model, answer_s=seconds)) < peers.count - 1:
        raise BackendFailed(f"Not all worker processes have {verb}ed the model: one is being restarted. Try again.")


async def answer_peers(
    app_state: AppState,
    peers: Peers,
    health: Callable[[], Mapping[str, Any]],
    list_models: Callable[[], Awaitable[Listed]],
) -> None:
    """Answer the other workers from now on, and take over what they know of models.

    Args:
        app_state: this worker's parts.
        peers: the others.
        health: says how this worker is.
        list_models: lists the models as this worker has them.
    """
    pool = app_state.models

    async def tell_health() -> Mapping[str, Any]:
        return _told(health(), peers)

    async def change(changes: Mapping[str, Any]) -> None:
        await app_state.runtime_settings.change(**changes)
        peers.share(app_state.runtime_settings.changed)

    async def figures() -> ServerSnapshot:
        return await _own_figures(app_state)

    async def history(since: float) -> NDArray[Any]:
        return app_state.history.since(since)

    async def load(model: str) -> None:
        pool.leave(await pool.acquire(model))

    async def facts() -> list[ModelFacts]:
        return [status.facts for status in pool.statuses()]

    async def learn(facts: Iterable[ModelFacts]) -> None:
        for one in facts:
            pool.learn(one)

    async def tell(facts: ModelFacts) -> None:
        await peers.ask("learn facts", [facts])

    answers: dict[str, Answer] = {
        "history": history,
        "health": tell_health,
        "change settings": change,
        "figures": figures,
        "models": list_models,
        "load model": load,
        "unload model": pool.unload,
        "facts": facts,
        "learn facts": learn,
    }
    await peers.open(answers)
    for known in (await peers.ask("facts")).values():
        await learn(known)
    pool.on_load = tell


async def _own_figures(app_state: AppState) -> ServerSnapshot:
    """This worker's, on top of its predecessor's; a successor starts from no less than what was told."""
    peers = app_state.peers
    loaded = [served.predictor for served in app_state.models.loaded.values()]
    state = await take_snapshot(
        store=app_state.predictor.store,
        backends=[predictor.backend for predictor in loaded],
        queues=[
            *(queue for predictor in loaded for queue in predictor.queues),
            app_state.models.default.everything.jobs,
        ],
        flights={predictor.counters.model: len(predictor.flights) for predictor in loaded},
        sessions=len(app_state.sessions),
    )
    counted = app_state.metrics.figures()  # after what it is asked for: a queue's counters are there when it is
    if peers is None:
        return ServerSnapshot(counted, state)
    past: ServerSnapshot | None = peers.past
    if past is not None:
        counted = Figures([*counted.collect(), *past.counted.collect()])
        state = go_on(state, past.state)
    worker = Worker(
        peers.number,
        past.workers[0].restarts + 1 if past is not None else 0,
        round(time.monotonic() - app_state.started, 3),
        resident_bytes(),
        round(time.process_time(), 3),
    )
    names = frozenset(zlib.crc32(repr(name).encode()) for name, _ in app_state.sessions.table.items())
    figures = ServerSnapshot(counted, state, (worker,), names)
    peers.note(figures)
    return figures
