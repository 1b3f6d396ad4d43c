"""Replay a trace through the tiers, with the very code that serves: no twin of a policy or of a tier."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from labeling_ground.cache.choose import choose_ranking
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policy.ranked import RankedPolicy
from labeling_ground.cache.trace.events import What
from labeling_ground.cache.trace.prepared import Prepared, Step
from labeling_ground.types import Entry, Kind

UNBOUNDED = 1 << 62
"""A budget that nothing reaches."""
_SWEEP_EVERY_S = 30.0
"""About as often as the server does."""
_LONGEST_CHAIN = 16
"""As in ``service.segmenter``: so many predictions, each the mask input of the next, are computed again."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What one replay is to try.

    Attributes:
        policy: short name or ``module:attribute``, as in the settings.
        memory_bytes: budget of the memory tier.
        lower_bytes: budget of a tier behind it, disk or Redis; 0 for none.
        idle_s: seconds without use after which an entry goes.
        max_age_s: seconds after which it goes, used or not.
        done_weight: weight of an image's entries under the done hint.
    """

    policy: str
    memory_bytes: int
    lower_bytes: int = 0
    idle_s: float | None = 1800.0
    max_age_s: float | None = None
    done_weight: float = 0.1


@dataclass(slots=True)
class Replayed:
    """What one replay came to. Look-ups, hits and seconds are by kind."""

    setup: Setup
    lookups: Counter[Kind] = field(default_factory=Counter)
    hits: Counter[Kind] = field(default_factory=Counter)
    seconds: dict[Kind, float] = field(default_factory=lambda: {Kind.EMBEDDING: 0.0, Kind.MASK: 0.0})
    """Seconds computed."""
    evictions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Tier → reason → entries."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """Tier → the most bytes it held."""
    accesses: int = 0
    """Times that a key was looked for or written."""

    @property
    def seconds_computed(self) -> float:
        """Of all kinds."""
        return sum(self.seconds.values())


class _Tier:
    """A store with a note of the most it held."""

    def __init__(self, name: str, budget: int, setup: Setup, clock: "_Clock") -> None:
        self.name = name
        self.store = MemoryStore(
            budget_bytes=budget,
            idle_s=setup.idle_s,
            max_age_s=setup.max_age_s,
            policy=RankedPolicy(choose_ranking(setup.policy, done_weight=setup.done_weight)),
            clock=clock,
        )
        self.peek = self.store.peek
        self.peak = 0

    def insert(self, key: str, entry: Entry) -> None:
        self.store.insert(key, entry)
        self.peak = max(self.peak, self.store.bytes)


class _Clock:
    """The time of the event being replayed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Replay:
    """One trace through one set-up.

    Each ask goes the way of ``service.segmenter``: a mask that is not there wants its embedding, a refinement the
    logits of its parent. Computing takes no time here, so nothing is ever joined: who would have joined hits.
    """

    def __init__(self, setup: Setup) -> None:
        self._clock = _Clock()
        self.memory = _Tier("memory", setup.memory_bytes, setup, self._clock)
        self.lower = _Tier("lower", setup.lower_bytes, setup, self._clock) if setup.lower_bytes else None
        self._slide_every = (setup.idle_s or 1800.0) / 20
        self._slid: dict[str, float] = {}
        self._ages = setup.max_age_s is not None
        self.result = Replayed(setup)

    def run(self, trace: Prepared) -> Replayed:
        """Replay all steps."""
        swept = 0.0
        for step in trace.steps:
            self._clock.now = step.time
            if step.time - swept >= _SWEEP_EVERY_S:
                swept = step.time
                self._sweep()
            if step.what in (What.ASKED, What.PREFETCHED):
                if step.is_mask:
                    self._mask(step)
                else:
                    self._image(step)
            elif step.what is What.PURGED:
                self._purge(step.group)
            else:
                self._mark(step.group, step.what is What.DONE)
        return self.finish()

    def finish(self) -> Replayed:
        """The figures so far."""
        result = self.result
        tiers = [tier for tier in (self.memory, self.lower) if tier is not None]
        result.evictions = {tier.name: tier.store.evictions for tier in tiers}
        result.peak_bytes = {tier.name: tier.peak for tier in tiers}
        return result

    def _sweep(self) -> None:
        self.memory.store.expire()
        if self.lower is not None:
            self.lower.store.expire()

    def _image(self, step: Step) -> None:
        hit = self._embedding(step)
        if hit and self._find(step.image) is None:  # the client has just sent the file
            self._keep(step.image, step.file)

    def _mask(self, step: Step) -> None:
        if step.parent is not None:
            self._logits(step.parent, 0)
        self.result.lookups[Kind.MASK] += 1
        if self._find(step.key) is not None:
            self.result.hits[Kind.MASK] += 1
            self._slide(step.image)
            self._slide(step.embedding)
        else:
            self._decode(step)

    def _logits(self, step: Step, depth: int) -> None:
        """See to it that the logits of an earlier prediction are there."""
        self.result.accesses += 1
        if self.memory.peek(step.logits) is not None:
            return
        self._find(step.key)
        if step.parent is not None and depth < _LONGEST_CHAIN:
            self._logits(step.parent, depth + 1)
        self.result.lookups[Kind.MASK] += 1
        self._decode(step)

    def _decode(self, step: Step) -> None:
        self._embedding(step)
        self.result.seconds[Kind.MASK] += step.entry.cost
        self._keep(step.key, step.entry)
        self._keep(step.logits, step.refined)

    def _embedding(self, step: Step) -> bool:
        result = self.result
        result.lookups[Kind.EMBEDDING] += 1
        if self._find(step.embedding) is not None:
            result.hits[Kind.EMBEDDING] += 1
            self._slide(step.image)
            return True
        if self._find(step.image) is None:
            self._keep(step.image, step.file)
        result.seconds[Kind.EMBEDDING] += step.embedded.cost
        self._keep(step.embedding, step.embedded)
        return False

    def _find(self, key: str) -> Entry | None:
        self.result.accesses += 1
        entry = self.memory.peek(key)
        if entry is not None:
            if self.lower is not None:
                self._slide_lower(key)
            return entry
        if self.lower is None:
            return None
        entry = self.lower.peek(key)
        if entry is not None and entry.kind is not Kind.IMAGE:
            self.memory.insert(key, entry)
        return entry

    def _keep(self, key: str, entry: Entry) -> None:
        self.result.accesses += 1
        if self._ages:
            entry = replace(entry, created=self._clock.now)
        if entry.kind is Kind.LOGITS or self.lower is None:
            self.memory.insert(key, entry)
            return
        self._slid[key] = self._clock.now
        if entry.kind is not Kind.IMAGE:
            self.memory.insert(key, entry)
        self.lower.insert(key, entry)

    def _slide(self, key: str) -> None:
        if self.memory.peek(key) is None and self.lower is not None:
            self._slide_lower(key)

    def _slide_lower(self, key: str) -> None:
        if self.lower is not None and self._clock.now - self._slid.get(key, -1e18) >= self._slide_every:
            self._slid[key] = self._clock.now
            self.lower.peek(key)

    def _mark(self, group: str, done: bool) -> None:
        self.memory.store.mark(group, done)
        if self.lower is not None:
            self.lower.store.mark(group, done)

    def _purge(self, group: str) -> None:
        for tier in (self.memory, self.lower):
            if tier is not None:
                tier.store.purge(f"{group}*")
