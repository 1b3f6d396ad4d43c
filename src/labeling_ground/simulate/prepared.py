"""A trace made ready for replay: what a policy needs of each event, looked up once for a whole grid of replays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.cache.rules import weighed_in_memory
from labeling_ground.key import LAYOUT
from labeling_ground.trace.events import KINDS, Events, What
from labeling_ground.types import Entry, Kind, Weight

_EMBEDDING = KINDS.index(Kind.EMBEDDING)
_MASK = KINDS.index(Kind.MASK)
_TRUNK = KINDS.index(Kind.TRUNK)
_DETECTIONS = KINDS.index(Kind.DETECTIONS)
_DERIVED = (Kind.MASK, Kind.EVERYTHING, Kind.DETECTIONS)


COMPUTED = (Kind.EMBEDDING, Kind.MASK, Kind.EVERYTHING, Kind.TRUNK, Kind.DETECTIONS)
"""What is replayed. What a phrase and exemplars come to is not: a few KB, made in no time."""
_NOTHING = Weight(Kind.IMAGE, b"", 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One event, as a replay takes it. Keys have the server's shape, so that stores group them as they do there.

    ``is_derived`` says that it is not an embedding, but something made from one, or from a trunk: ``embedding`` is what
    it is made from, and ``trunk`` what that is made from in turn, where it is an embedding that needs one. ``image`` is
    the key of the file that is kept with an embedding, ``file`` the file, and ``alone`` the same as memory weighs it
    where it is the only tier; ``logits`` and ``refined`` are what is kept with a mask, and ``parent`` is the step whose
    logits it was made from.
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
    trunk: str = ""
    backbone: Entry = _NOTHING


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
    needs = _Needs(events, asks)
    derived = {
        KINDS.index(kind): _Table(events[asks & (events["kind"] == KINDS.index(kind))], kind) for kind in _DERIVED
    }
    steps: list[Step] = []
    by_mask: dict[int, Step] = {}
    images: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {}
    without = dict.fromkeys(COMPUTED, 0.0)
    columns = ("time", "what", "kind", "key", "image", "embedding", "parent", "model", "tenant")
    for time, what, kind, key, image, embedding, parent, model, tenant in zip(
        *(events[name].tolist() for name in columns), strict=True
    ):
        group = f"{LAYOUT}/{tenant:x}/{image:x}/" if image else f"{LAYOUT}/{tenant:x}/" if tenant else ""
        if what == What.COMPUTED:
            continue
        if what not in (What.ASKED, What.PREFETCHED):
            steps.append(Step(time, What(what), group))
            continue
        if (group, embedding) not in images:
            images[group, embedding] = group, needs.of(group, embedding, model, time, from_trunk=kind == _DETECTIONS)
        # The group's text too is the one that the first step has: a trace is long, and a step is mostly text.
        group, fields = images[group, embedding]
        entry: Weight = fields["embedded"]
        without[entry.kind] += entry.cost
        without[Kind.TRUNK] += fields["backbone"].cost
        if kind not in derived:
            steps.append(Step(time, What(what), group, key=fields["embedding"], entry=entry, **fields))
            continue
        entry = derived[kind].entry(key, model, time)
        without[entry.kind] += entry.cost
        step = Step(
            time,
            What(what),
            group,
            is_derived=True,
            key=f"{group}{entry.kind.value}/{key:x}",
            entry=entry,
            logits=f"{group}logits/{key:x}" if kind == _MASK else "",
            refined=Weight(Kind.LOGITS, b"", entry.cost, time, derived[kind].beside(key, model)),
            parent=by_mask.get(parent) if parent else None,
            **fields,
        )
        by_mask.setdefault(key, step)
        steps.append(step)
    seconds = steps[-1].time - steps[0].time if steps else 0.0
    return Prepared(steps, seconds, without)


class _Needs:
    """What embeddings and trunks weigh and cost, and which embedding is made from which trunk."""

    def __init__(self, events: Events, asks: NDArray[np.bool_]) -> None:
        asked = events[asks & (events["kind"] == _EMBEDDING)]
        self._embeddings = _Table(asked, Kind.EMBEDDING)
        self._trunks = _Table(events[events["kind"] == _TRUNK], Kind.TRUNK)
        self._trunk_of = _known(asked["key"], asked["parent"])

    def of(self, group: str, needed: int, model: int, time: float, *, from_trunk: bool) -> dict[str, Any]:
        """The fields of a ``Step`` for what is made from an embedding, or from a trunk: what that needs."""
        table = self._trunks if from_trunk else self._embeddings
        entry = first = table.entry(needed, model, time)
        size = table.beside(needed, model)
        below = None if from_trunk else self._trunk_of.get(needed)
        above: dict[str, Any] = {"trunk": "", "backbone": _NOTHING}
        if below is not None:
            first = self._trunks.entry(int(below), model, time)
            size = size or self._trunks.beside(int(below), model)
            above = {"trunk": f"{group}trunk/{below:x}", "backbone": first}
        file = Weight(Kind.IMAGE, b"", first.cost, time, size)
        made = {"embedding": f"{group}{entry.kind}/{needed:x}", "embedded": entry}
        return {**made, "image": f"{group}image", "file": file, "alone": weighed_in_memory(file), **above}


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
