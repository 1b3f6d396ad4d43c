"""Flights across processes and machines: one of them computes, the others wait for what it puts into the shared tier.

Each process has its own flights (``service/once.py``), whose work goes through here: so of each process one waits,
whoever joined it. A lease per key (``cache/lease.py``) says whose turn it is.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from labeling_ground.cache.lease import Claim, Leases
from labeling_ground.cache.tier import Tier
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Kind, Outcome
from labeling_ground.urgency import Urgency, current_urgency

T = TypeVar("T")

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 0.5
"""Who waits looks again after 50 to 100 ms, whatever it hears; then half as much later each time, up to the longest."""
_COSTLY = frozenset({Kind.EMBEDDING, Kind.EVERYTHING, Kind.TRUNK, Kind.DETECTIONS})
"""What takes so long to compute that it is worth some patience with those who may have it."""
_LOOKS = 2
"""So often a value is looked for that is said to be kept; then it is computed."""


@dataclass(slots=True, eq=False)
class _Turn:
    """One ask's lease, from the first try to take it on."""

    key: str
    patience_s: float | None = None
    """The deadline for answers about it, where that is not the tier's."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    urgency: Urgency = field(default_factory=current_urgency)
    """Of the work: whoever waits for it elsewhere lifts it."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the lease is not needed, or not any more. One that is granted after that is released at once."""


class SharedFlights:
    """Lets one process compute what many are asked for at the same time.

    The lease is asked for while the look-up is under way, so it delays nothing; a tier that does not answer, or did not
    the last time, is not waited for: then this process computes alone. Who waits holds no place in any queue.

    Args:
        leases: the leases.
        tier: where the results are shared; its deadline and its breaker are for the leases too.
        kinds: what is worth a lease.
        lease_s: seconds for which a lease is taken; it is renewed every third of them. A process that dies holds the
            others up for so long.
        patience_s: deadline, in seconds, for answers about what is costly to compute, and for reading it when another
            process has made it; by default the tier's, as for everything else.
        most_wait_s: after so many seconds of waiting compute all the same.
    """

    def __init__(
        self,
        leases: Leases,
        tier: Tier,
        *,
        kinds: frozenset[Kind] = frozenset(Kind),
        lease_s: float = 3.0,
        patience_s: float | None = None,
        most_wait_s: float = 120.0,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self._leases = leases
        self._tier = tier
        self.kinds = kinds
        self._lease_s = lease_s
        self._patience_s = patience_s
        self._most_wait_s = most_wait_s
        self._answers = True
        """Whether the last answer came in time. If not, nobody waits for the next."""
        self._turns: set[_Turn] = set()
        self._behind: set[asyncio.Task[object]] = set()

    async def fly(
        self,
        kind: Kind,
        key: str,
        predict: Callable[[], Awaitable[T]],
        look_up: Callable[[Outcome, float | None], Awaitable[T | None]],
        missed: Callable[[], Awaitable[None]],
    ) -> T:
        """Predict, unless another process does or did meanwhile: then wait, and look up what it made.

        Whatever ends the prediction ends the lease: its result can be read by all before that; an error, or the last
        asker leaving, lets the next process try at once.

        Args:
            kind: of the value.
            key: whose flight.
            predict: makes the result and keeps it in the tiers.
            look_up: finds it there, and calls it what it is told: a hit, or joined after waiting for another process;
                within the deadline that it is told, where that is not the tier's.
            missed: waits until the look-up that runs beside it has missed.

        Raises:
            Exception: what ``predict`` raised. Errors are not shared between processes.
        """
        if kind not in self.kinds:
            return await predict()
        turn = _Turn(key, self._patience_s if kind in _COSTLY else None)
        self._turns.add(turn)
        try:
            found = await self._wait_for(turn, look_up, missed)
            made = await predict() if found is None else found
        except BaseException:
            turn.over.set()
            raise
        finally:
            self._turns.discard(turn)
        self._in_background(self._hand_over(turn))
        return made

    def part_with(self, match: Callable[[str], bool]) -> None:
        """Give up the leases that match: what is being computed will not be kept, for a purge came in between."""
        for turn in self._turns:
            if match(turn.key):
                turn.over.set()

    async def aclose(self) -> None:
        """Release what is held."""
        for turn in self._turns:
            turn.over.set()
        try:
            if self._behind:
                await asyncio.wait(set(self._behind), timeout=self._lease_s)
        finally:
            await self._leases.aclose()

    async def _wait_for(
        self,
        turn: _Turn,
        look_up: Callable[[Outcome, float | None], Awaitable[T | None]],
        missed: Callable[[], Awaitable[None]],
    ) -> T | None:
        """What another process made; ``None`` when it is our turn, be it without a lease where none is to be had."""
        if not self._answers:
            self._in_background(self._ask(turn))  # to learn whether there are answers again, and for the others
            return None
        deadline = asyncio.get_running_loop().time() + self._most_wait_s
        outcome, looks, pause = Outcome.HIT, 0, _FIRST_PAUSE_S
        news: asyncio.Event | None = None
        async with AsyncExitStack() as stack:
            while asyncio.get_running_loop().time() < deadline:
                if news is not None:
                    news.clear()
                match await self._ask(turn):
                    case Claim.TAKEN:
                        outcome = Outcome.JOINED
                        if news is None:
                            # What was released before we listened is seen by asking again.
                            news = await stack.enter_async_context(self._leases.listen(turn.key))
                            continue
                        await _set_within(news, pause * random.uniform(0.5, 1.0))  # noqa: S311 -- no secret
                        pause = min(1.5 * pause, _LONGEST_PAUSE_S)
                    case Claim.STORED if looks < _LOOKS:
                        looks += 1
                        await missed()  # a hit, which calls this off, or it was too early
                        found = await look_up(outcome, turn.patience_s)
                        if found is not None:
                            return found
                    case _:
                        return None
        log.warning("%s is being computed by another process for more than %g s", turn.key, self._most_wait_s)
        return None

    async def _ask(self, turn: _Turn) -> Claim | None:
        claim = await self._tier.calls.ask("lease", lambda: self._take(turn), turn.patience_s)
        self._answers = claim is not None
        return claim

    async def _take(self, turn: _Turn) -> Claim:
        claim = await self._leases.take(turn.key, turn.token, self._lease_s, turn.urgency.priority)
        if claim is Claim.GRANTED:  # even if nobody waited so long: the prediction may have begun without it
            self._in_background(self._tend(turn))
        return claim

    async def _tend(self, turn: _Turn) -> None:
        """Renew the lease until the work is over, then release it; take over the urgency of others that wait."""
        while not await _set_within(turn.over, self._lease_s / 3):
            renewed = await self._tier.calls.ask(
                "renew", lambda: self._leases.renew(turn.key, turn.token, self._lease_s)
            )
            if renewed is False:  # whoever has it now shall keep it
                log.warning("%s: the lease ended before the work; is this server too busy for it?", turn.key)
                return
            awaited = await self._tier.calls.ask("lease class", lambda: self._leases.awaited_as(turn.key))
            if awaited is not None:
                turn.urgency.raise_to(awaited)
        await self._tier.calls.ask("release", lambda: self._leases.release(turn.key, turn.token))

    async def _hand_over(self, turn: _Turn) -> None:
        """See to it that the others can read the result, and only then let go."""
        try:
            async with asyncio.timeout(self._lease_s):
                await self._tier.queue.flush(turn.key)
        except TimeoutError:
            log.debug("%s was not written in time", turn.key)
        finally:
            turn.over.set()

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._supervisor.watch("leases", task)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, for so many seconds at most. Whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
