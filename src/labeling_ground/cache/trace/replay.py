"""Replay a trace through the tiers, with the very code that serves: no twin of a policy or of a tier."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from labeling_ground.cache.choose import choose_policy, choose_ranking
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policy.port import Policy, Reason
from labeling_ground.cache.policy.ranked import RankedPolicy
from labeling_ground.cache.tiered import DEMOTED
from labeling_ground.cache.trace.events import What
from labeling_ground.cache.trace.prepared import Prepared, Step
from labeling_ground.types import Entry, Kind

UNBOUNDED = 1 << 62
"""A budget that nothing reaches."""
_COMPUTED = (Kind.EMBEDDING, Kind.MASK, Kind.EVERYTHING)
SWEEP_EVERY_S = 30.0
"""About as often as the server does."""
_LOWER_WATERMARKS = 0.9, 1.0
"""The defaults of ``DiskStore``."""
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
        frequency_exponent: how much uses count under ``gdsf``.
        watermarks: low and high, of the memory tier.
    """

    policy: str
    memory_bytes: int
    lower_bytes: int = 0
    idle_s: float | None = 1800.0
    max_age_s: float | None = None
    done_weight: float = 0.1
    frequency_exponent: float = 0.0
    watermarks: tuple[float, float] = (1.0, 1.0)


@dataclass(slots=True)
class Replayed:
    """What one replay came to. Look-ups, hits and seconds are by kind."""

    setup: Setup
    lookups: Counter[Kind] = field(default_factory=Counter)
    hits: Counter[Kind] = field(default_factory=Counter)
    seconds: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(_COMPUTED, 0.0))
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
    """A store, and its name in the figures."""

    def __init__(
        self,
        name: str,
        budget: int,
        setup: Setup,
        policy: Policy,
        watermarks: tuple[float, float],
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.store = MemoryStore(
            budget_bytes=budget,
            idle_s=setup.idle_s,
            max_age_s=setup.max_age_s,
            policy=policy,
            low_watermark=watermarks[0],
            high_watermark=watermarks[1],
            clock=clock,
        )
        self.peek = self.store.peek
        self.insert = self.store.insert


class Replay:
    """One trace through one set-up.

    Each ask goes the way of ``service.segmenter``: a mask that is not there wants its embedding, a refinement the
    logits of its parent. Computing takes no time here, so nothing is ever joined: who would have joined hits.
    """

    def __init__(self, setup: Setup) -> None:
        self._now = 0.0
        clock = partial(getattr, self, "_now")  # no function of Python's: it is read at every access
        name, weight = setup.policy, setup.done_weight
        policy = choose_policy(name, done_weight=weight, frequency_exponent=setup.frequency_exponent)
        self.memory = _Tier("memory", setup.memory_bytes, setup, policy, setup.watermarks, clock)
        self.lower = None
        if setup.lower_bytes:
            # As the disk tier: what it can keep of the policy, and its low watermark.
            below = RankedPolicy(choose_ranking(name, done_weight=weight))
            self.lower = _Tier("lower", setup.lower_bytes, setup, below, _LOWER_WATERMARKS, clock)
            self.memory.store.on_evict = self._demote
        self._slide_every = (setup.idle_s or 1800.0) / 20
        self._slid: dict[str, float] = {}
        self._ages = setup.max_age_s is not None
        self.result = Replayed(setup)

    def run(self, trace: Prepared) -> Replayed:
        """Replay all steps."""
        sweep_at = trace.steps[0].time + SWEEP_EVERY_S if trace.steps else 0.0
        for step in trace.steps:
            while sweep_at <= step.time:
                self._now = sweep_at
                self._sweep()
                sweep_at += SWEEP_EVERY_S
            self._now = step.time
            if step.what in (What.ASKED, What.PREFETCHED):
                if step.is_derived:
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
        result.peak_bytes = {tier.name: tier.store.peak_bytes for tier in tiers}
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
        self.result.lookups[step.entry.kind] += 1
        if self._find(step.key) is not None:
            self.result.hits[step.entry.kind] += 1
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
        self.result.seconds[step.entry.kind] += step.entry.cost
        self._keep(step.key, step.entry)
        if step.logits:
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
            entry = replace(entry, created=self._now)
        if entry.kind is Kind.LOGITS or self.lower is None:
            self.memory.insert(key, entry)
            return
        self._slid[key] = self._now
        if entry.kind is not Kind.IMAGE:
            self.memory.insert(key, entry)
        self.lower.insert(key, entry)

    def _demote(self, key: str, entry: Entry, reason: str) -> None:
        if self.lower is not None and reason == Reason.BUDGET and entry.kind in DEMOTED and key not in self.lower.store:
            self.lower.insert(key, entry)

    def _slide(self, key: str) -> None:
        self.result.accesses += 1
        if self.memory.peek(key) is None and self.lower is not None:
            self._slide_lower(key)

    def _slide_lower(self, key: str) -> None:
        if self.lower is not None and self._now - self._slid.get(key, -1e18) >= self._slide_every:
            self._slid[key] = self._now
            self.lower.peek(key)

    def _mark(self, group: str, done: bool) -> None:
        self.memory.store.mark(group, done)
        if self.lower is not None:
            self.lower.store.mark(group, done)

    def _purge(self, group: str) -> None:
        for tier in (self.memory, self.lower):
            if tier is not None:
                tier.store.purge(f"{group}*")
