"""A trace made ready for replay: what a policy needs of each event, looked up once for a whole grid of replays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_ground.cache.rules import weighed_in_memory
from labeling_ground.key import LAYOUT
from labeling_ground.trace.events import KINDS, Events, What
from labeling_ground.types import Entry, Kind, Weight

_EMBEDDING = KINDS.index(Kind.EMBEDDING)
_MASK = KINDS.index(Kind.MASK)
_EVERYTHING = KINDS.index(Kind.EVERYTHING)


_NOTHING = Weight(Kind.IMAGE, b"", 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One event, as a replay takes it. Keys have the server's shape, so that stores group them as they do there.

    ``is_derived`` says that it is not an embedding, but something made from one. ``image`` is the key of the file that
    is kept with an embedding, ``file`` the file, and ``alone`` the same as memory weighs it where it is the only tier;
    ``logits`` and ``refined`` are what is kept with a mask, and ``parent`` is the step whose logits it was made from.
    """

    time: float
    what: What
    group: str
    is_derived: bool = False
    key: str = ""
    entry: Entry = _NOTHING
    embedding: str = ""
    embedded: Entry = _NOTHING
    image: str = ""
    file: Entry = _NOTHING
    alone: Entry = _NOTHING
    logits: str = ""
    refined: Entry = _NOTHING
    parent: "Step | None" = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trace, ready for replay.

    Attributes:
        steps: in the order of time.
        seconds: from the first to the last event.
        without_cache: seconds of computing, by kind, if nothing were ever kept.
    """

    steps: Sequence[Step]
    seconds: float
    without_cache: dict[Kind, float]

    @property
    def asks(self) -> int:
        """How many of the steps ask for something."""
        return sum(step.what in (What.ASKED, What.PREFETCHED) for step in self.steps)


def prepare(events: Events) -> Prepared:
    """Make a trace ready for replay.

    What a recorded hit could not know (what the embedding weighs that a cached mask did not need, or the logits that
    were not made) is taken from the same key elsewhere in the trace, or else is the model's average.
    """
    asks = (events["what"] == What.ASKED) | (events["what"] == What.PREFETCHED)
    embeddings = _Table(events[asks & (events["kind"] == _EMBEDDING)], Kind.EMBEDDING)
    derived = {
        number: _Table(events[asks & (events["kind"] == number)], kind)
        for number, kind in ((_MASK, Kind.MASK), (_EVERYTHING, Kind.EVERYTHING))
    }
    steps: list[Step] = []
    by_mask: dict[int, Step] = {}
    images: dict[tuple[str, int], tuple[str, str, Weight, str, Weight, Entry]] = {}
    without = {Kind.EMBEDDING: 0.0, Kind.MASK: 0.0, Kind.EVERYTHING: 0.0}
    columns = ("time", "what", "kind", "key", "image", "embedding", "parent", "model", "tenant")
    for time, what, kind, key, image, embedding, parent, model, tenant in zip(
        *(events[name].tolist() for name in columns), strict=True
    ):
        group = f"{LAYOUT}/{tenant:x}/{image:x}/" if image else f"{LAYOUT}/{tenant:x}/" if tenant else ""
        if what not in (What.ASKED, What.PREFETCHED):
            steps.append(Step(time, What(what), group))
            continue
        known = images.get((group, embedding))
        if known is None:
            needed = embeddings.entry(embedding, model, time)
            file = Weight(Kind.IMAGE, b"", needed.cost, time, embeddings.beside(embedding, model))
            # The group's text too is the one that the first step has: a trace is long, and a step is mostly text.
            known = images[group, embedding] = (
                group,
                f"{group}embedding/{embedding:x}",
                needed,
                f"{group}image",
                file,
                weighed_in_memory(file),
            )
        group, embedded, needed, image_key, file, alone = known
        without[Kind.EMBEDDING] += needed.cost
        if kind not in derived:
            steps.append(
                Step(time, What(what), group, False, embedded, needed, embedded, needed, image_key, file, alone)
            )
            continue
        found = derived[kind].entry(key, model, time)
        without[found.kind] += found.cost
        step = Step(
            time,
            What(what),
            group,
            True,
            f"{group}{found.kind.value}/{key:x}",
            found,
            embedded,
            needed,
            image_key,
            file,
            alone,
            f"{group}logits/{key:x}" if kind == _MASK else "",
            Weight(Kind.LOGITS, b"", found.cost, time, derived[kind].beside(key, model)),
            by_mask.get(parent) if parent else None,
        )
        by_mask.setdefault(key, step)
        steps.append(step)
    seconds = steps[-1].time - steps[0].time if steps else 0.0
    return Prepared(steps, seconds, without)


class _Table:
    """What is known of the keys of one kind: size, cost, and the size of what is kept beside."""

    def __init__(self, events: Events, kind: Kind) -> None:
        self._kind = kind
        self._sizes = _known(events["key"], events["bytes"])
        self._costs = _known(events["key"], events["cost"])
        self._beside = _known(events["key"], events["beside"])
        self._typical_size = _typical(events["model"], events["bytes"])
        self._typical_cost = _typical(events["model"], events["cost"])
        self._typical_beside = _typical(events["model"], events["beside"])
        self._made: dict[int, Weight] = {}

    def entry(self, key: int, model: int, time: float) -> Weight:
        made = self._made.get(key)
        if made is None:
            size = self._sizes.get(key) or self._typical_size.get(model, 0.0)
            cost = self._costs.get(key) or self._typical_cost.get(model, 0.0)
            made = self._made[key] = Weight(self._kind, b"", float(cost), time, int(size))
        return made

    def beside(self, key: int, model: int) -> int:
        return int(self._beside.get(key) or self._typical_beside.get(model, 0.0))


def _known(keys: NDArray[np.uint64], values: NDArray[np.floating | np.integer]) -> dict[int, float]:
    """The last value above 0 of each key: a cost that was measured again is the better one."""
    above = values > 0
    return dict(zip(keys[above].tolist(), values[above].tolist(), strict=True))


def _typical(models: NDArray[np.uint32], values: NDArray[np.floating | np.integer]) -> dict[int, float]:
    """The mean of each model's values above 0."""
    above = values > 0
    if not above.any():
        return {}
    found, which = np.unique(models[above], return_inverse=True)
    sums = np.bincount(which, values[above].astype(float))
    return dict(zip(found.tolist(), (sums / np.bincount(which)).tolist(), strict=True))
