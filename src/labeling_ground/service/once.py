"""Whatever is asked for is computed once: at hand, or in a flight, beside its look-up, by one process of many.

``Once`` knows keys, entries and tiers, and nothing of models: what computes a value is handed in, and what counts is
told of every outcome.
"""

import contextlib
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from labeling_ground.cache.tiered import TieredStore
from labeling_ground.service.asks import Timing
from labeling_ground.service.flights import Flights
from labeling_ground.service.hedge import HedgeOutcome, StartGate, hedged_look_up
from labeling_ground.service.leases import SharedFlights
from labeling_ground.types import Entry, Kind, Outcome


@dataclass(frozen=True, slots=True)
class Made:
    """A value, and how it was come by."""

    entry: Entry
    outcome: Outcome
    timing: Timing = field(default_factory=Timing)
    bytes_beside: int = 0
    """Bytes of what was stored together with it: a mask's logits, an embedding's image file."""
    since: int = sys.maxsize
    """How many purges there had been when the image came that it was made of, where that may be long ago: a later one
    means also what is made of this."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at computing a value: when it may start, from when on it is finished in any case, where it is stored.

    Attributes:
        key: of the value.
        purged: how many purges there had been when the attempt was made.
        commit: to be called when the work begins with what cannot be stopped: then it goes on though all askers leave.
    """

    key: str
    purged: int
    commit: Callable[[], None]
    _gate: StartGate
    _store: TieredStore

    async def wait(self) -> None:
        """Wait until the work may start: the look-up has missed, or its window is over."""
        await self._gate.wait()

    def start(self) -> None:
        """Say that the work starts: from now on it is wasted where the look-up finds the value."""
        self._gate.begun = True

    def store(self, entry: Entry, *, key: str | None = None, since: int = sys.maxsize) -> None:
        """Put a result into the tiers, unless a purge since the attempt began means it.

        Args:
            entry: the result.
            key: its key, where that is not the attempt's own.
            since: how many purges there had been when what it was made of came, where that was earlier.
        """
        self._store.keep(key or self.key, entry, min(self.purged, since))


Make = Callable[[Attempt], Awaitable[Made]]
"""Computes a value, and stores it."""


class Observer(Protocol):
    """What counts: told of everything that ``Once`` does."""

    def outcome(self, kind: Kind, outcome: Outcome, cost: float) -> None:
        """A value was found, joined or computed; computing it takes ``cost`` seconds."""

    def failure(self, kind: Kind) -> None:
        """An ask ended in an error."""

    def hedge(self, kind: Kind, outcome: HedgeOutcome) -> None:
        """This became of a computation that was queued beside its look-up."""


class Once:
    """Gets values by key: at hand in memory, else joined, looked up, or computed; each computed by one asker of many.

    Args:
        store: the tiers.
        observer: is told of every outcome.
        shared: what makes flights common to all processes that share a tier; without it they are this process's own.
        mode: ``parallel`` starts a computation at most a window after its look-up, ``first`` only after a miss.
    """

    def __init__(
        self, store: TieredStore, observer: Observer, *, shared: SharedFlights | None = None, mode: str = "parallel"
    ) -> None:
        self.flights: Flights[Made] = Flights()
        self.shared = shared
        self._store = store
        self._observer = observer
        self._is_parallel = mode == "parallel"
        store.purges.on_purge.append(self._part_with)

    def at_hand(self, kind: Kind, key: str) -> Made | None:
        """The value of a key, counted, if that needs no waiting."""
        entry = self._store.peek(key)
        if entry is None:
            return None
        self._observer.outcome(kind, Outcome.HIT, entry.cost)
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
            make: computes and stores it, when it is neither at hand nor being computed.
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
            self._observer.failure(kind)
            raise
        if joined and made.outcome is not Outcome.HIT:
            made = Made(made.entry, Outcome.JOINED, since=made.since)
        self._observer.outcome(kind, made.outcome, made.entry.cost)
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
            self._observer.hedge(kind, HedgeOutcome.USED)
            return made
        purged = self._store.purges.count

        async def look_up(outcome: Outcome = Outcome.HIT, deadline_s: float | None = None) -> Made | None:
            entry = await self._store.look_up(key, deadline_s=deadline_s)
            return None if entry is None else Made(entry, outcome)

        async def attempt(gate: StartGate) -> Made:
            return await make(Attempt(key, purged, commit, gate, self._store))

        async def in_turn(gate: StartGate) -> Made:
            if self.shared is None or not self.shared.covers(kind):
                return await attempt(gate)
            patience_s = self.shared.patience_s(kind)
            return await self.shared.fly(key, gate, attempt, partial(look_up, deadline_s=patience_s), patience_s)

        window = window_s() if self._is_parallel else None
        count = partial(self._observer.hedge, kind)
        made = await hedged_look_up(look_up(), in_turn, window_s=window, count=count)
        if made.outcome is Outcome.JOINED and made_elsewhere is not None:
            made_elsewhere(made, purged)
        return made

    async def aclose(self) -> None:
        """Call off every computation; purges are not listened to any more."""
        with contextlib.suppress(ValueError):  # it is closed already
            self._store.purges.on_purge.remove(self._part_with)
        await self.flights.aclose()

    def _part_with(self, match: Callable[[str], bool]) -> None:
        """A purge, here or by another process: what flies will not be stored, so who asks from now on starts anew."""
        self.flights.part_with(match)
        if self.shared is not None:
            self.shared.part_with(match)
