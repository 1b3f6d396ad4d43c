"""What the memory tier's budget costs: computing that a larger one would have spared, watched while the server works.

Two views, both bounded. *Regret* is what was computed again after the budget had evicted it. *Ghosts* are shadows of
the memory tier with larger budgets, run by the same policy code, which hold no values; they see what happens to a
sample of the images, as in Waldspurger et al., "Efficient MRC Construction with SHARDS", FAST 2015, with the sample
made smaller whenever there are too many entries in it.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from labeling_ground import key as keys
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policy.port import Policy, Reason
from labeling_ground.cache.recent_purges import RecentPurges
from labeling_ground.types import Entry, Kind, Weight

LARGER_BY = (0.25, 0.5, 1.0)
"""By what share the ghosts' budgets are larger than the memory tier's."""

_RECORD_BYTES = 1200
"""What an entry of a ghost takes, measured: its keys, its part of dicts, and what heaps still hold of dead ones."""
_LEAST_RECORDS = 256
"""So many entries the ghosts may have together, however small the budget: half a MiB."""
_DIGEST_BYTES = 200
"""What a remembered eviction takes."""
_REGRET_PART = 0.2
"""The part of the share that remembers evictions."""
_MOST_RECORDS = 60_000
"""So many at the most, however large: more would tell nothing new, and thinning them out would hold others up."""
_THINNER = 0.8
"""What the sample is made smaller by, whenever it has grown too large."""
_HEX = 8
"""Digits of an image id that decide whether it is in the sample."""
_REMEMBERED_PURGES = 1_000


@dataclass
class Regret:
    """What was computed again after the budget had evicted it, by kind. Logits count as masks."""

    entries: Counter[Kind] = field(default_factory=Counter)
    seconds: dict[Kind, float] = field(default_factory=dict)

    def add(self, kind: Kind, seconds: float) -> None:
        """Count one."""
        self.entries[kind] += 1
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds


@dataclass
class Ghost:
    """A shadow of the memory tier.

    Attributes:
        larger_by: share by which its budget is larger.
        store: keys without values, of the sampled images only.
        hits: so many times it had what the memory tier had not, and what had to be computed therefore; an estimate.
        seconds_saved: what it would have spared, less what only the smaller one spared (a larger budget can evict
            another entry at times); an estimate.
    """

    larger_by: float
    store: MemoryStore
    hits: float = 0.0
    seconds_saved: float = 0.0


class Watch:
    """Follows what happens to the memory tier. For one thread, the event loop's; nothing here waits.

    Args:
        make: makes an empty memory tier like the watched one, with a given budget.
        budget_bytes: the watched one's.
        idle_s: the watched one's.
        share: of the budget, for all that stands here.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        make: Callable[[int], MemoryStore],
        *,
        budget_bytes: int,
        idle_s: float | None,
        share: float = 0.01,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.regret = Regret()
        self.sampled = 1.0
        """The share of all images that the ghosts see."""
        self.ghosts = tuple(Ghost(larger_by, make(int(budget_bytes * (1 + larger_by)))) for larger_by in LARGER_BY)
        self._clock = clock
        self._idle_s = idle_s
        self._share = share
        self._below = "g"  # above all hex digits: every image is in the sample
        # Evictions by digest, with the last use before, in two generations: the older one is forgotten when the younger
        # is full.
        self._young: dict[int, float] = {}
        self._old: dict[int, float] = {}
        # Of the sampled images: when what memory holds was computed, and when it was used.
        self._held: dict[str, tuple[float, float]] = {}
        self._purges = RecentPurges(_REMEMBERED_PURGES)
        self._decoded = ""  # key of the logits that come with the last mask: one computation, which counts once
        self._set_budget(budget_bytes)

    def evicted(self, key: str, reason: str, used: float) -> None:
        """An entry left the memory tier, which had been used last at a time."""
        self._held.pop(key, None)
        if reason == Reason.BUDGET:
            self._young[hash(key)] = used
            if len(self._young) >= self._most_digests // 2:
                self._old, self._young = self._young, {}

    def used(self, key: str, entry: Entry, *, in_memory: bool) -> None:
        """An entry was found: in memory, or below, from where it comes up."""
        if not self._in_sample(key):
            return
        self._held[key] = entry.created, self._clock()
        without = [ghost for ghost in self.ghosts if ghost.store.peek(key) is None]
        if in_memory and entry.kind is not Kind.IMAGE:
            for ghost in without:
                ghost.seconds_saved -= entry.cost / self.sampled
        self._insert(without, key, entry)

    def kept(self, key: str, entry: Entry, *, held: bool) -> None:
        """An entry was computed and comes into memory; ``held``: it was there already, and something else was missing.

        A mask comes before its logits.
        """
        self._rue(key, entry, held)
        if not self._in_sample(key):
            return
        self._held[key] = entry.created, self._clock()
        without = [ghost for ghost in self.ghosts if ghost.store.peek(key) is None]
        if not (entry.kind is Kind.IMAGE or held or (entry.kind is Kind.LOGITS and self._decoded == key)):
            for ghost in self.ghosts:
                if ghost not in without:
                    ghost.hits += 1 / self.sampled
                    ghost.seconds_saved += entry.cost / self.sampled
        self._insert(without, key, entry)

    def marked(self, group: str, done: bool) -> None:
        """The done hint of an image changed."""
        if self._in_sample(group):
            for ghost in self.ghosts:
                ghost.store.mark(group, done)

    def purged(self, pattern: str) -> None:
        """Keys were purged: that they are gone is no regret."""
        self._purges.note(pattern, self._clock())
        for ghost in self.ghosts:
            ghost.store.purge(pattern)

    def spread(self, memory: MemoryStore) -> list[tuple[float, float]]:
        """Seconds since creation and since last use, of the sampled entries that the memory tier holds."""
        now = self._clock()
        self._held = {key: times for key, times in self._held.items() if key in memory}  # the others were refused
        return [(now - created, now - used) for created, used in self._held.values()]

    def sweep(self) -> None:
        """Let go what has expired."""
        for ghost in self.ghosts:
            ghost.store.expire()

    async def reconfigure(
        self,
        *,
        budget_bytes: int | None = None,
        idle_s: float | None = None,
        policy: Callable[[], Policy] | None = None,
    ) -> None:
        """The memory tier's settings changed, as far as they are given."""
        if idle_s is not None:
            self._idle_s = idle_s
        for ghost in self.ghosts:
            ghost.store.reconfigure(idle_s=... if idle_s is None else idle_s)
            if policy is not None:
                await ghost.store.adopt(policy())
        if budget_bytes is not None:
            self._set_budget(budget_bytes)
            self._thin_out()

    def _set_budget(self, budget: int) -> None:
        self._budget = budget
        self._most_digests = max(2, int(budget * self._share * _REGRET_PART / _DIGEST_BYTES))
        fitting = int(budget * self._share * (1 - _REGRET_PART) / _RECORD_BYTES)
        self._most_records = min(_MOST_RECORDS, max(_LEAST_RECORDS, fitting))
        for ghost in self.ghosts:
            ghost.store.reconfigure(budget_bytes=int(budget * (1 + ghost.larger_by) * self.sampled))

    def _rue(self, key: str, entry: Entry, held: bool) -> None:
        kind = entry.kind
        is_second = kind is Kind.LOGITS and key == self._decoded
        if kind is Kind.MASK:
            self._decoded = "" if held else key.replace(f"/{Kind.MASK}/", f"/{Kind.LOGITS}/", 1)
        digest = hash(key)
        at = self._young.pop(digest, None)
        if at is None:
            at = self._old.pop(digest, None)
        if at is None or held or is_second or kind is Kind.IMAGE:
            return
        if self._idle_s is not None and self._clock() - at >= self._idle_s:
            return  # with any budget it would have been idle for too long
        if not self._purges.mean(key, at):
            self.regret.add(Kind.MASK if kind is Kind.LOGITS else kind, entry.cost)

    def _in_sample(self, key: str) -> bool:
        start = key.find("/", len(keys.LAYOUT) + 1) + 1
        return key[start : start + _HEX] < self._below

    def _insert(self, ghosts: Sequence[Ghost], key: str, entry: Entry) -> None:
        if ghosts:
            weight = Weight(entry.kind, b"", entry.cost, entry.created, entry.size)
            for ghost in ghosts:
                ghost.store.insert(key, weight)
            self._thin_out()

    def _thin_out(self) -> None:
        """Make the sample smaller until it fits, to those images that it would have had if it had begun so."""
        while sum(ghost.store.entries for ghost in self.ghosts) > self._most_records:
            self.sampled *= _THINNER
            self._below = f"{int(self.sampled * 16**_HEX):0{_HEX}x}"
            for ghost in self.ghosts:
                for key, _ in ghost.store.uses(math.inf):
                    if not self._in_sample(key):
                        ghost.store.purge(key)
            self._held = {key: times for key, times in self._held.items() if self._in_sample(key)}
            self._set_budget(self._budget)
            if self.sampled < 16.0**-_HEX:
                break
