"""A bound that no policy can beat: what a cache that knows the future would have to compute all the same.

A linear program over the spans between two needs of one embedding, after FOO (Berger, Beckmann, Harchol-Balter,
"Practical Bounds on Optimal Caching with Variable Object Sizes", SIGMETRICS 2018, arXiv 1711.03709), weighted by cost.
A span may be kept in part, masks and logits take no room and are computed once, and the budget is held against at
sampled moments only. Each of these makes the bound lower, none higher, so it stays a bound.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_ground.simulate.prepared import Prepared
from labeling_ground.trace.events import What
from labeling_ground.types import Entry

_MOST_ENTRIES = 1_500_000
"""Non-zero numbers in the program. More moments make the bound tighter and the program slower."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds that must be computed in any case.

    Attributes:
        first: the first embedding of each image and the first time of each mask.
        again: embeddings computed again for want of room.
        moments: at so many moments the budget was held against.
    """

    first: float
    again: float
    moments: int

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.first + self.again


@dataclass(frozen=True, slots=True)
class _Spans:
    """From one need of an embedding, or of a trunk, to the next, where neither idle time nor a purge lies between."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    size: NDArray[np.float64]
    cost: NDArray[np.float64]


def bound(trace: Prepared, budget_bytes: int, *, idle_s: float | None, max_age_s: float | None = None) -> Bound:
    """The bound for one budget and one idle time."""
    first, again, spans = _spans(trace, idle_s, max_age_s)
    if not len(spans.start):
        return Bound(first, again, 0)
    moments = _moments(spans)
    low = np.searchsorted(moments, spans.start, side="right")
    high = np.searchsorted(moments, spans.end, side="left")
    covered = high - low
    crowded = covered > 0  # those between two moments take no room anywhere
    if not crowded.any():
        return Bound(first, again, len(moments))
    counts = covered[crowded]
    rows = _ranges(low[crowded], counts)
    columns = np.repeat(np.arange(len(counts)), counts)
    sizes = np.repeat(spans.size[crowded], counts)
    # Here: every command would wait for it, and an engine's image has no scipy.
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    held = csr_matrix((sizes, (rows, columns)), shape=(len(moments), len(counts)))
    peak = np.asarray(held.sum(axis=1)).ravel()
    tight = peak > budget_bytes
    if not tight.any():
        return Bound(first, again, len(moments))
    scale = float(budget_bytes)
    solved = linprog(
        -spans.cost[crowded],
        A_ub=held[tight] / scale,
        b_ub=np.ones(int(tight.sum())),
        bounds=(0.0, 1.0),
        method="highs",
    )
    if solved.status != 0:
        raise RuntimeError(f"The linear program was not solved: {solved.message}")
    # The solver stops within its tolerance of the optimum; the bound gives it that much.
    saved = min(float(spans.cost[crowded].sum()), -float(solved.fun) * (1 + 1e-7))
    return Bound(first, again + float(spans.cost[crowded].sum()) - saved, len(moments))


def _spans(trace: Prepared, idle_s: float | None, max_age_s: float | None) -> tuple[float, float, _Spans]:
    """What must be computed first, what must be computed again for another reason than room, and the spans left."""
    first = again = 0.0
    needed: dict[str, float] = {}  # embedding, or trunk → when it was needed last for sure
    wanted: dict[str, float] = {}  # the same, also where an embedding may have been kept that is made from the trunk
    used: dict[str, float] = {}  # the same → when it was used last, be it by a mask that was cached
    masks: set[str] = set()
    found: list[tuple[float, float, float, float]] = []

    def need(name: str, entry: Entry, now: float, before: float | None) -> bool:
        """Note that it is needed now, and was used last then; whether it is computed in any case."""
        nonlocal first, again
        last, latest = needed.get(name), wanted.get(name)
        needed[name] = wanted[name] = now
        if last is None or latest is None or before is None:
            first += entry.cost
        elif (idle_s is not None and now - before >= idle_s) or (max_age_s is not None and now - latest >= max_age_s):
            again += entry.cost
        else:
            found.append((last, now, float(entry.size), entry.cost))
            return False
        return True

    for step in trace.steps:
        if step.what is What.PURGED:
            for times in (needed, wanted):
                for name in [name for name in times if name.startswith(step.group)]:
                    del times[name]
            masks = {mask for mask in masks if not mask.startswith(step.group)}
            continue
        if step.what not in (What.ASKED, What.PREFETCHED):
            continue
        now, name = step.time, step.embedding
        before, trunk_before = used.get(name), used.get(step.trunk)
        used[name] = now
        if step.trunk:
            used[step.trunk] = now  # by whom keeps no embedding
        if step.is_derived:
            if step.key in masks:
                continue  # it may have been kept all the time: masks take no room here
            masks.add(step.key)
            first += step.entry.cost
        is_computed = need(name, step.embedded, now, before)
        if step.trunk and is_computed:
            need(step.trunk, step.backbone, now, trunk_before)
        elif step.trunk and step.trunk in wanted:
            wanted[step.trunk] = now
    columns = np.array(found, float).reshape(-1, 4).T
    return first, again, _Spans(*columns)


def _moments(spans: _Spans) -> NDArray[np.float64]:
    """Evenly spaced moments, as many as the program can take."""
    start, end = float(spans.start.min()), float(spans.end.max())
    total = float((spans.end - spans.start).sum())
    every = max(20.0, total / _MOST_ENTRIES)
    return np.arange(start + every / 2, end, every)


def _ranges(low: NDArray[np.intp], counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """``low[0], low[0] + 1, …`` for each, one after the other."""
    starts = np.repeat(low - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
    return starts + np.arange(int(counts.sum()))
