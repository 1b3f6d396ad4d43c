"""Many replays of one trace, side by side, and what each would cost."""

import gc
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from labeling_ground.errors import BadTrace
from labeling_ground.simulate.bound import bound
from labeling_ground.simulate.prepared import Prepared, prepare
from labeling_ground.simulate.replay import UNBOUNDED, Replay, Replayed, Setup
from labeling_ground.trace.files import read

_DAY = 86_400.0
_GIB = float(1 << 30)


@dataclass(frozen=True, slots=True)
class Prices:
    """What room and computing cost, in any one currency.

    Attributes:
        memory: of a GiB of the memory tier, for an hour.
        lower: of a GiB of the tier behind it, for an hour.
        encoder: of an hour of computing.
    """

    memory: float = 0.005
    lower: float = 0.0002
    encoder: float = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One replay and what it comes to.

    Attributes:
        replayed: the replay.
        ratio: seconds computed by seconds computed without a cache; 0 is best, 1 is no cache at all.
        room: money a day for the tiers' room: the budget, or the most that was held where there is no budget.
        computing: money a day for computing. Days that the trace has begun count whole, so a recording of the hours
            in which people work is a day's work.
        bound: the ratio that no policy can beat with this budget; ``None`` where it was not worked out.
    """

    replayed: Replayed
    ratio: float
    room: float
    computing: float
    bound: float | None = None

    @property
    def money(self) -> float:
        """Money a day."""
        return self.room + self.computing


def read_trace(paths: Sequence[Path]) -> Prepared:
    """Read traces as one, ready for replay.

    Raises:
        BadTrace: a file is no trace, or nothing was asked for in any.
    """
    trace = prepare(read(paths))
    if not trace.asks:
        raise BadTrace("Nothing was asked for in this trace: there is nothing to replay.")
    return trace


def peak_without_budget(trace: Prepared, idle_s: float | None) -> int:
    """Bytes that idle time alone, without a budget, lets the memory tier grow to."""
    return Replay(Setup("lru", UNBOUNDED, idle_s=idle_s)).run(trace).peak_bytes["memory"]


def replay_all(
    paths: Sequence[Path],
    setups: Sequence[Setup],
    prices: Prices,
    *,
    bounds: bool = True,
    jobs: int | None = None,
    on_row: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Replay every set-up, in parallel processes; the rows are in the set-ups' order.

    Args:
        paths: of the traces.
        setups: what is to be replayed.
        prices: of room and computing.
        bounds: whether to work out what no policy can beat.
        jobs: processes; as many as there are cores without it.
        on_row: told of each set-up that is done.

    Raises:
        BadTrace: as ``read_trace``.
    """
    # The bound knows no policy: it is worked out once for each budget and idle time.
    first = {_room(setup): setup for setup in reversed(setups)} if bounds else {}
    work = [(setup, first.get(_room(setup)) is setup) for setup in setups]
    count = min(jobs or os.cpu_count() or 1, len(setups))
    if count <= 1:
        trace = read_trace(paths)
        rows = []
        for setup, wanted in work:
            rows.append(_row(trace, setup, prices, with_bound=wanted))
            on_row()
    else:
        # Spawned: a fork of a process with threads in it may wait for a lock that nobody will release.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, context, initializer=_Worker.begin, initargs=(list(paths),)) as pool:
            futures = [pool.submit(_Worker.row, each, prices) for each in work]
            for future in as_completed(futures):
                future.result()
                on_row()
            rows = [future.result() for future in futures]
    known = {_room(row.replayed.setup): row.bound for row in rows if row.bound is not None}
    return [replace(row, bound=known.get(_room(row.replayed.setup))) for row in rows]


def cheapest(rows: Iterable[Row]) -> Row:
    """The row to recommend: the least money, and of those within half a per cent of it the smallest budget."""
    ordered = sorted(rows, key=lambda row: row.money)
    close = [row for row in ordered if row.money <= 1.005 * ordered[0].money]
    return min(close, key=lambda row: row.replayed.setup.memory_bytes + row.replayed.setup.lower_bytes)


class _Worker:
    """A process of its own, with the trace read once for all replays that it does."""

    trace: Prepared | None = None

    @classmethod
    def begin(cls, paths: Sequence[Path]) -> None:
        cls.trace = read_trace(paths)
        # The trace stays, and a replay leaves no garbage in cycles before its end: no use in looking for any meanwhile.
        gc.freeze()
        gc.disable()

    @classmethod
    def row(cls, work: tuple[Setup, bool], prices: Prices) -> Row:
        if cls.trace is None:
            raise AssertionError("the worker has no trace")
        row = _row(cls.trace, work[0], prices, with_bound=work[1])
        gc.collect()
        return row


def _row(trace: Prepared, setup: Setup, prices: Prices, *, with_bound: bool) -> Row:
    replayed = Replay(setup).run(trace)
    without = sum(trace.without_cache.values())
    days = max(1, math.ceil(trace.seconds / _DAY))
    memory = replayed.peak_bytes["memory"] if setup.memory_bytes >= UNBOUNDED else setup.memory_bytes
    room = 24 * (memory * prices.memory + setup.lower_bytes * prices.lower) / _GIB
    lowest = None
    if with_bound:
        budget, idle_s, max_age_s = _room(setup)
        lowest = bound(trace, budget, idle_s=idle_s, max_age_s=max_age_s).seconds / without
    computing = replayed.seconds_computed / 3600 * prices.encoder / days
    return Row(replayed, replayed.seconds_computed / without, room, computing, lowest)


def _room(setup: Setup) -> tuple[int, float | None, float | None]:
    return min(UNBOUNDED, setup.memory_bytes + setup.lower_bytes), setup.idle_s, setup.max_age_s
