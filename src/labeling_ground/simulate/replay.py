"""Replay a trace through the tiers, with the very code that serves: no twin of a policy or of a tier."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policies.port import Policy, Reason
from labeling_ground.cache.policies.ranked import RankedPolicy
from labeling_ground.cache.rules import LONGEST_CHAIN, is_worth_demoting
from labeling_ground.key import group_of, int8_of
from labeling_ground.simulate.policies import choose
from labeling_ground.simulate.prepared import COMPUTED, Prepared, Step
from labeling_ground.trace.events import What
from labeling_ground.types import Entry, Kind, Weight

UNBOUNDED = 1 << 62
"""A budget that nothing reaches."""
SWEEP_EVERY_S = 30.0
"""About as often as the server does."""
_LOWER_WATERMARKS = 0.9, 1.0
"""The defaults of ``DiskStore``."""
_ASKED, _PREFETCHED, _DONE, _PURGED = What.ASKED, What.PREFETCHED, What.DONE, What.PURGED


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
        lower_read_s: seconds that reading an embedding from below takes, by which a server decides what goes down.
        int8: whether embeddings of all models are kept in int8 before they go, where there is no tier behind memory.
    """

    policy: str
    memory_bytes: int
    lower_bytes: int = 0
    idle_s: float | None = 1800.0
    max_age_s: float | None = None
    done_weight: float = 0.1
    frequency_exponent: float = 0.0
    watermarks: tuple[float, float] = (1.0, 1.0)
    lower_read_s: float = 0.002
    int8: bool = False


@dataclass(slots=True)
class Replayed:
    """What one replay came to. Look-ups, hits and seconds are by kind."""

    setup: Setup
    lookups: Counter[Kind] = field(default_factory=Counter)
    hits: Counter[Kind] = field(default_factory=Counter)
    seconds: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(COMPUTED, 0.0))
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


class Replay:
    """One trace through one set-up.

    Each ask goes the way of ``service.predictor``: a mask that is not there wants its embedding, and that its trunk
    where it has one, as detections do; a refinement the logits of its parent. Computing takes no time here, so nothing
    is ever joined: who would have joined hits. A mask of an embedding in int8 has its key with the other one's here.
    """

    def __init__(self, setup: Setup) -> None:
        self._now = 0.0
        clock = partial(getattr, self, "_now")  # no function of Python's: it is read at every access
        policy = choose(setup.policy, done_weight=setup.done_weight, frequency_exponent=setup.frequency_exponent)
        self.memory = _store(setup.memory_bytes, setup, policy.make(), setup.watermarks, clock)
        self.lower: MemoryStore | None = None
        if setup.lower_bytes:
            # As the disk tier: what it can keep of the policy, and its low watermark.
            below = RankedPolicy(policy.ranking)
            self.lower = _store(setup.lower_bytes, setup, below, _LOWER_WATERMARKS, clock)
            self.memory.on_evict = self._demote
        elif setup.int8:
            self.memory.on_evict = self._round
        self._peek, self._insert = self.memory.peek, self.memory.insert
        self._read_s = setup.lower_read_s
        self._touch_every_s = (setup.idle_s or 1800.0) / 20
        self._touched: dict[str, float] = {}
        self._ages = setup.max_age_s is not None
        self._accesses = 0
        self.result = Replayed(setup)
        self._seconds, self._lookups, self._hits = self.result.seconds, self.result.lookups, self.result.hits

    def run(self, trace: Prepared) -> Replayed:
        """Replay all steps."""
        sweep_at = trace.steps[0].time + SWEEP_EVERY_S if trace.steps else 0.0
        for step in trace.steps:
            now = step.time
            while sweep_at <= now:
                self._now = sweep_at
                self._sweep()
                sweep_at += SWEEP_EVERY_S
            self._now = now
            what = step.what
            if what is _ASKED or what is _PREFETCHED:
                if step.is_derived:
                    self._mask(step)
                else:
                    self._image(step)
            elif what is _PURGED:
                self._purge(step.group)
            else:
                self._mark(step.group, what is _DONE)
        return self.finish()

    def finish(self) -> Replayed:
        """The figures so far."""
        result = self.result
        result.accesses = self._accesses
        tiers = {"memory": self.memory} if self.lower is None else {"memory": self.memory, "lower": self.lower}
        result.evictions = {name: store.evictions for name, store in tiers.items()}
        result.peak_bytes = {name: store.peak_bytes for name, store in tiers.items()}
        return result

    def _sweep(self) -> None:
        self.memory.expire()
        if self.lower is not None:
            self.lower.expire()

    def _image(self, step: Step) -> None:
        hit = self._embedding(step)
        if hit and step.trunk and self._peek(step.trunk) is not None:
            self._touch_lower(step.trunk)
        if hit and self._find(step.image) is None:  # the client has just sent the file
            self._keep(step.image, step.alone if self.lower is None else step.file)

    def _mask(self, step: Step) -> None:
        if step.parent is not None:
            self._logits(step.parent, 0)
        kind = step.entry.kind
        self._lookups[kind] += 1
        if self._find(step.key) is not None:
            self._hits[kind] += 1
            self._touch(step.image)
            self._touch(step.embedding)
        else:
            self._decode(step)

    def _logits(self, step: Step, depth: int) -> None:
        """See to it that the logits of an earlier prediction are there."""
        self._accesses += 1
        if self._peek(step.logits) is not None:
            return
        self._find(step.key)
        if step.parent is not None and depth < LONGEST_CHAIN:
            self._logits(step.parent, depth + 1)
        self._lookups[Kind.MASK] += 1
        self._decode(step)

    def _decode(self, step: Step) -> None:
        self._embedding(step)
        entry = step.entry
        self._seconds[entry.kind] += entry.cost
        self._keep(step.key, entry)
        if step.logits:
            self._keep(step.logits, step.refined)

    def _embedding(self, step: Step) -> bool:
        """What a mask, or detections, are made from: an embedding, or a trunk. Whether it was there."""
        if self._is_there(step.embedding, step.embedded.kind, step):
            return True
        if not step.trunk:
            self._encode(step.embedding, step.embedded, step)
            return False
        if not self._is_there(step.trunk, Kind.TRUNK, step):
            self._encode(step.trunk, step.backbone, step)
        self._seconds[Kind.EMBEDDING] += step.embedded.cost
        self._keep(step.embedding, step.embedded)
        return False

    def _is_there(self, key: str, kind: Kind, step: Step) -> bool:
        self._lookups[kind] += 1
        if self._find(key) is None and not (self.result.setup.int8 and self._is_in_int8(key, step)):
            return False
        self._hits[kind] += 1
        self._touch(step.image)
        return True

    def _is_in_int8(self, key: str, step: Step) -> bool:
        """Whether an embedding is there in int8, for those who take that: clicks, and who opens an image."""
        return (not step.is_derived or step.entry.kind is Kind.MASK) and self._peek(int8_of(key)) is not None

    def _encode(self, key: str, entry: Entry, step: Step) -> None:
        """Compute what is made from the image itself."""
        if self._find(step.image) is None:
            self._keep(step.image, step.alone if self.lower is None else step.file)
        self._seconds[entry.kind] += entry.cost
        self._keep(key, entry)

    def _find(self, key: str) -> Entry | None:
        self._accesses += 1
        entry = self._peek(key)
        if self.lower is None:
            return entry
        if entry is not None:
            self._touch_lower(key)
            return entry
        entry = self.lower.peek(key)
        if entry is not None and entry.kind is not Kind.IMAGE:
            self._insert(key, entry)
        return entry

    def _keep(self, key: str, entry: Entry) -> None:
        self._accesses += 1
        if self._ages:
            entry = replace(entry, created=self._now)
        kind = entry.kind
        if self.lower is None or kind is Kind.LOGITS:
            self._insert(key, entry)
            return
        self._touched[key] = self._now
        if kind is not Kind.IMAGE:
            self._insert(key, entry)
        self.lower.insert(key, entry)

    def _demote(self, key: str, entry: Entry, reason: str, used: float, done: bool) -> None:
        below = self.lower
        if (
            below is not None
            and reason == Reason.BUDGET
            and is_worth_demoting(entry, self._read_s)
            and key not in below
        ):
            below.insert(key, entry, used)

    def _round(self, key: str, entry: Entry, reason: str, used: float, done: bool) -> None:
        if reason == Reason.BUDGET and entry.kind is Kind.EMBEDDING and int8_of(key) not in self.memory:
            rounded = Weight(Kind.EMBEDDING_INT8, b"", entry.cost, entry.created, entry.size // 2)
            self._insert(int8_of(key), rounded, used)
            if done:
                self.memory.mark(group_of(key), done)

    def _touch(self, key: str) -> None:
        self._accesses += 1
        if self._peek(key) is None and self.lower is not None:
            self._touch_lower(key)

    def _touch_lower(self, key: str) -> None:
        if self.lower is not None and self._now - self._touched.get(key, -1e18) >= self._touch_every_s:
            self._touched[key] = self._now
            self.lower.peek(key)

    def _mark(self, group: str, done: bool) -> None:
        self.memory.mark(group, done)
        if self.lower is not None:
            self.lower.mark(group, done)

    def _purge(self, group: str) -> None:
        sum(self.memory.purge(f"{group}*"))
        if self.lower is not None:
            sum(self.lower.purge(f"{group}*"))


def _store(
    budget: int, setup: Setup, policy: Policy, watermarks: tuple[float, float], clock: Callable[[], float]
) -> MemoryStore:
    return MemoryStore(
        budget_bytes=budget,
        idle_s=setup.idle_s,
        max_age_s=setup.max_age_s,
        policy=policy,
        low_watermark=watermarks[0],
        high_watermark=watermarks[1],
        clock=clock,
        wall_clock=clock,
    )
