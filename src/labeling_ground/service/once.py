"""What is asked for is computed once: it is in memory, or in a flight, during its look-up, by one process of many.

``Once`` knows keys, entries and tiers, and nothing of models: what computes a value is handed in, and what counts is
told of every outcome.
"""

import asyncio
import contextlib
import contextvars
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from labeling_ground.cache.tiered import TieredStore
from labeling_ground.errors import BackendFailed, LabelingGroundError, Overloaded
from labeling_ground.service.asks import Timing
from labeling_ground.service.leases import SharedFlights
from labeling_ground.types import Entry, Kind, Outcome
from labeling_ground.urgency import Urgency, current_urgency, work_for

if TYPE_CHECKING:
    from labeling_ground.service.counters import Counters

T = TypeVar("T")
F = TypeVar("F")


@dataclass(slots=True)
class _Flight:
    urgency: Urgency
    """That of the most urgent asker."""
    task: asyncio.Task[Any] = field(init=False)
    askers: int = 0
    begun: bool = False
    """Whether the work has reached what cannot be stopped, and so is worth finishing though all askers left."""

    def begin(self) -> None:
        self.begun = True


class Flights(Generic[T]):
    """Computations under way, by key.

    The first asker leaving does not cancel the others; the last one leaving cancels the work, unless that has begun
    with what cannot be stopped: then it goes on, and who comes until it ends joins it. A failure reaches everyone who
    waited and is remembered by nobody. A flight is as urgent as the most urgent of its askers.

    Args:
        on_land: told the key of each flight that has ended.
    """

    def __init__(self, on_land: Callable[[str], None] | None = None) -> None:
        self.on_land = on_land
        self._flights: dict[str, _Flight] = {}
        self._parted: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    async def join(self, key: str, work: Callable[[Callable[[], None]], Coroutine[Any, Any, T]]) -> tuple[T, bool]:
        """Wait for the computation of ``key``, starting it with ``work`` if there is none.

        Args:
            key: what is computed.
            work: computes it. It is handed a function to call when it begins with what cannot be stopped.

        Returns:
            The result, and whether somebody else's computation was joined.

        Raises:
            Exception: whatever ``work`` raised.
        """
        while True:
            flight = self._find(key)
            joined = flight is not None
            urgency = current_urgency()
            if flight is None:
                flight = _Flight(Urgency(urgency.priority))
                context = contextvars.copy_context()
                context.run(work_for, flight.urgency)
                flight.task = asyncio.create_task(work(flight.begin), context=context)
                self._flights[key] = flight
                flight.task.add_done_callback(lambda task: self._land(key, task))
            is_more_urgent = urgency.priority < flight.urgency.priority
            try:
                return await self._wait(key, flight), joined
            except Overloaded:
                if not is_more_urgent:  # else others were turned away, who have less room
                    raise

    async def follow(self, key: str) -> T | None:
        """The result of the computation of ``key`` that is under way; ``None`` where there is none, or where it was
        turned away.

        Raises:
            Exception: whatever else ended it.
        """
        flight = self._find(key)
        if flight is not None:
            with contextlib.suppress(Overloaded):
                return await self._wait(key, flight)
        return None

    async def _wait(self, key: str, flight: _Flight) -> T:
        """Be one of a flight's askers until it has ended."""
        flight.urgency.follow(current_urgency())
        flight.askers += 1
        try:
            result: T = await asyncio.shield(flight.task)
            return result
        except asyncio.CancelledError:
            if flight.task.cancelled() and not _is_cancelling():
                # The work was cancelled under us (the server is stopping), not this asker.
                raise BackendFailed("The computation was called off. Try again.") from None
            raise
        finally:
            flight.askers -= 1
            if flight.askers == 0 and not flight.begun and not flight.task.done():
                # Out of the table first: an ask from now on must not join a flight that is being cancelled.
                self._land(key, flight.task)
                flight.task.cancel()

    def lift(self, key: str) -> None:
        """Make the computation of ``key``, if there is one, as urgent as what the running task works for."""
        flight = self._find(key)
        if flight is not None:
            flight.urgency.raise_to(current_urgency().priority)

    def part_with(self, match: Callable[[str], bool]) -> None:
        """Let flights that match end for their present askers; no other ask joins them, as a purge came between."""
        for key in [key for key in self._flights if match(key)]:
            task = self._flights.pop(key).task
            self._parted.add(task)
            task.add_done_callback(self._parted.discard)

    async def aclose(self) -> None:
        """Cancel all computations; their askers get an error."""
        tasks = {flight.task for flight in self._flights.values()} | self._parted
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def _find(self, key: str) -> _Flight | None:
        flight = self._flights.get(key)
        # One that has ended and is not off the table yet must not hand its failure to an asker who comes now.
        return None if flight is None or flight.task.done() else flight

    def _land(self, key: str, task: asyncio.Task[Any]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
        if task.done() and not task.cancelled():
            task.exception()  # seen: asyncio would log an error whose askers have all left
        if task.done() and self.on_land is not None:
            self.on_land(key)


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class HedgeOutcome(StrEnum):
    """What became of a queued prediction."""

    USED = "used"
    """It was computed, and it was the answer."""
    WITHDRAWN = "withdrawn"
    """A hit came first, and the model never saw it."""
    WASTED = "wasted"
    """A hit came after the model had begun."""


class StartGate:
    """Holds a prediction back. ``window_s`` of ``None`` means: until it is opened."""

    def __init__(self, window_s: float | None) -> None:
        self._open = asyncio.Event()
        self._deadline = None if window_s is None else asyncio.get_running_loop().time() + window_s
        self.begun = False
        """Whether the model has begun; set by the asker that passes the gate."""

    def open(self) -> None:
        """Let the prediction through now: the look-up missed."""
        self._open.set()

    async def missed(self) -> None:
        """Wait until the look-up has missed, however short the window is."""
        await self._open.wait()

    async def wait(self) -> None:
        """Wait for the gate to open."""
        if not self._open.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline):
                    await self._open.wait()


async def hedged_look_up(
    look_up: Awaitable[F | None],
    predict: Callable[[StartGate], Awaitable[T]],
    *,
    window_s: float | None,
    count: Callable[[HedgeOutcome], None],
) -> F | T:
    """Answer with whichever comes first: what the look-up finds, or what the model predicts.

    Args:
        look_up: never raises; a store's failure is ``None``.
        predict: calls ``gate.wait()`` before it lets the model do anything, and sets ``gate.begun`` when it does.
        window_s: how long the gate stays shut while the look-up has not answered; ``None`` keeps it shut until then
            (mode ``first``).
        count: is told what became of the prediction. One that came without the model, as another process made it
            meanwhile, is withdrawn.

    Raises:
        Exception: what ``predict`` raised, unless the look-up finds the answer all the same.
    """
    gate = StartGate(window_s)
    looking: asyncio.Future[F | None] = asyncio.ensure_future(look_up)
    predicting: asyncio.Future[T] = asyncio.ensure_future(predict(gate))
    predicting.add_done_callback(_seen)
    both: set[asyncio.Future[Any]] = {looking, predicting}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        # An error that is none of ours is a bug: it is said, whatever the look-up would find.
        if not predicting.done() or isinstance(predicting.exception(), LabelingGroundError):
            found = await asyncio.shield(looking)
            if found is not None:
                count(HedgeOutcome.WASTED if gate.begun else HedgeOutcome.WITHDRAWN)
                return found
            gate.open()
        result = await predicting  # a look-up that lost is left to finish
        count(HedgeOutcome.USED if gate.begun else HedgeOutcome.WITHDRAWN)
        return result
    finally:
        predicting.cancel()


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at a task's error, so that asyncio does not log one that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True, slots=True)
class Made:
    """A value, and how it was come by."""

    entry: Entry
    outcome: Outcome
    timing: Timing = field(default_factory=Timing)
    companion_bytes: int = 0
    """Bytes of what was stored together with it: a mask's logits, an embedding's image file."""
    source_purge_count: int = sys.maxsize
    """How many purges there had been when the image came that the value was made of, where that may be long ago: a
    later purge means also what is made of this value."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at computing a value: when it may start, from when on it is finished in any case, where it is stored.

    Attributes:
        key: of the value.
        purge_count: how many purges there had been when the attempt was made.
        commit: to be called when the work begins with what cannot be stopped: then it goes on though all askers leave.
    """

    key: str
    purge_count: int
    commit: Callable[[], None]
    _gate: StartGate
    _store: TieredStore

    async def wait(self) -> None:
        """Wait until the work may start: the look-up has missed, or its window is over."""
        await self._gate.wait()

    def start(self) -> None:
        """Say that the work starts: from now on it is wasted where the look-up finds the value."""
        self._gate.begun = True

    def store(self, entry: Entry, *, key: str | None = None, source_purge_count: int = sys.maxsize) -> bool:
        """Put a result into the tiers, unless a purge since the attempt began means it. Whether that was done.

        Args:
            entry: the result.
            key: its key, where that is not the attempt's own, but comes with it.
            source_purge_count: how many purges there had been when what it was made of came, where that was earlier.
        """
        computed, purge_count = key in (None, self.key), min(self.purge_count, source_purge_count)
        return self._store.put(key or self.key, entry, purge_count, computed=computed)


Make = Callable[[Attempt], Awaitable[Made]]
"""Computes a value, and stores it."""


class Once:
    """Gets values by key: from memory, else joined, looked up, or computed; each computed by one asker of many.

    Args:
        store: the tiers.
        counters: are told of every outcome.
        shared: what makes flights common to all processes that share a tier; without it they are this process's own.
        mode: ``parallel`` starts a computation at most a window after its look-up, ``first`` only after a miss.
    """

    def __init__(
        self, store: TieredStore, counters: "Counters", *, shared: SharedFlights | None = None, mode: str = "parallel"
    ) -> None:
        self.flights: Flights[Made] = Flights()
        self.shared = shared
        self._store = store
        self._counters = counters
        self._is_parallel = mode == "parallel"
        store.purges.on_purge.append(self._part_with)

    def at_hand(self, kind: Kind, key: str) -> Made | None:
        """The value of a key, counted, if that needs no waiting."""
        entry = self._store.peek(key)
        if entry is None:
            return None
        self._counters.outcome(kind, Outcome.HIT, entry.cost)
        return Made(entry, Outcome.HIT)

    async def get(
        self,
        kind: Kind,
        key: str,
        make: Make,
        *,
        window_s: Callable[[], float | None] = lambda: None,
        hedged: bool = True,
        made_elsewhere: Callable[[Made, int], None] | None = None,
    ) -> Made:
        """The value of a key; counted.

        Args:
            kind: what it is, for the counters.
            key: its key.
            make: computes and stores it, when it is neither in memory nor being computed.
            window_s: tells the seconds for which the computation waits for the look-up at most; ``None``: until it has
                answered.
            hedged: whether the lower tiers may have it at all, and so are asked.
            made_elsewhere: told of a value that another process has computed meanwhile, and how many purges there had
                been when the flight set off.

        Raises:
            Exception: what ``make`` raised.
        """
        found = self.at_hand(kind, key)
        if found is not None:
            return found
        if hedged:
            work = partial(self._compute, kind, key, make, window_s, made_elsewhere)
        else:
            work = partial(self._attempt, key, make)
        try:
            made, joined = await self.flights.join(key, work)
        except Exception:
            self._counters.failure(kind)
            raise
        if joined and made.outcome is not Outcome.HIT:
            made = Made(made.entry, Outcome.JOINED, source_purge_count=made.source_purge_count)
        self._counters.outcome(kind, made.outcome, made.entry.cost)
        return made

    async def _attempt(self, key: str, make: Make, commit: Callable[[], None]) -> Made:
        """Compute at once: there is nowhere to look."""
        return await make(Attempt(key, self._store.purges.count, commit, StartGate(0.0), self._store))

    async def _compute(
        self,
        kind: Kind,
        key: str,
        make: Make,
        window_s: Callable[[], float | None],
        made_elsewhere: Callable[[Made, int], None] | None,
        commit: Callable[[], None],
    ) -> Made:
        """Look up in the lower tiers and compute side by side, in turn with the other processes."""
        if not self._store.lower:
            made = await self._attempt(key, make, commit)
            self._counters.hedge(kind, HedgeOutcome.USED)
            return made
        purge_count = self._store.purges.count

        async def look_up(outcome: Outcome = Outcome.HIT, deadline_s: float | None = None) -> Made | None:
            entry = await self._store.look_up(key, deadline_s=deadline_s)
            return None if entry is None else Made(entry, outcome)

        def in_turn(gate: StartGate) -> Awaitable[Made]:
            attempt = Attempt(key, purge_count, commit, gate, self._store)
            if self.shared is None:
                return make(attempt)
            return self.shared.fly(kind, key, partial(make, attempt), look_up, gate.missed)

        window = window_s() if self._is_parallel else None
        count = partial(self._counters.hedge, kind)
        made = await hedged_look_up(look_up(), in_turn, window_s=window, count=count)
        if made.outcome is Outcome.JOINED and made_elsewhere is not None:
            made_elsewhere(made, purge_count)
        return made

    async def aclose(self) -> None:
        """Call off every computation; purges are not listened to any more."""
        with contextlib.suppress(ValueError):  # it is closed already
            self._store.purges.on_purge.remove(self._part_with)
        await self.flights.aclose()

    def _part_with(self, match: Callable[[str], bool]) -> None:
        """Handle a purge, also of another process: what is computed now is not stored, so later asks start anew."""
        self.flights.part_with(match)
        if self.shared is not None:
            self.shared.part_with(match)
