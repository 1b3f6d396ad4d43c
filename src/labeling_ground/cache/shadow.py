"""Shadow caches: what memory tiers with larger budgets would have spared, worked out while the server works.

Two views, both bounded: what was recomputed after the budget had evicted it; and shadow caches of larger budgets, run
by the same policy code, which hold no values. They see what happens to a sample of the images, as in Waldspurger et
al., "Efficient MRC Construction with SHARDS", FAST 2015, with the sample made smaller whenever there are too many
entries in it.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labeling_ground import key as keys
from labeling_ground.cache.budgets import PARTS
from labeling_ground.cache.choose import PolicyChoice
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.memory.records import Record
from labeling_ground.cache.policies.port import Reason
from labeling_ground.cache.purges import Purges
from labeling_ground.metrics import Metrics
from labeling_ground.types import COMPUTED, Entry, Kind, Weight

LARGER_BY = (0.25, 0.5, 1.0)
"""By what share the shadow caches' budgets are larger than the memory tier's."""

_RECORD_BYTES = 1200
"""What an entry of a shadow cache takes, measured: its keys, its part of dicts, what heaps still hold of dead ones."""
_LEAST_RECORDS = 256
"""So many entries the shadow caches may have together, however small the budget: half a MiB."""
_DIGEST_BYTES = 200
"""What a remembered eviction takes."""
_DIGEST_PART = 0.2
"""The part of the share that remembers evictions."""
_MOST_RECORDS = 60_000
"""So many at the most, however large: more would tell nothing new, and thinning them out would hold others up."""
_THINNER = 0.8
"""What the sample is made smaller by, whenever it has grown too large."""
_FEWEST_IMAGES = 30
"""So few images in memory that are in the sample tell nothing: one by chance more or less is most of the estimate."""
_MOST_HITS = 256
"""So many hits may wait to be told to the shadow caches: about a millisecond's work."""
_HEX = 8
"""Digits of an image id that decide whether it is in the sample."""


@dataclass
class ShadowCache:
    """A memory tier of a larger budget that holds keys without values, and what it would have spared.

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


class ShadowCaches:
    """The shadow caches of one memory store, as its observer. For one thread, the event loop's; nothing here waits.

    Args:
        make: makes an empty memory store like the observed one, with a given budget.
        budget_bytes: the observed one's.
        idle_s: the observed one's.
        purges: of the tiers that the observed one belongs to.
        metrics: where is counted what was recomputed after the budget had evicted it; logits count as masks.
        share: of the budget, for all that stands here.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        make: Callable[[int], MemoryStore],
        *,
        budget_bytes: int,
        idle_s: float | None,
        purges: Purges,
        metrics: Metrics,
        share: float = 0.01,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.purges = purges
        self.metrics = metrics
        for kind in COMPUTED:  # all are told from the start
            self._note_recomputed(kind, 0, 0.0)
        self.sampled = 1.0
        """The share of all images that the shadow caches see."""
        self._caches = tuple(
            ShadowCache(larger_by, make(int(budget_bytes * (1 + larger_by)))) for larger_by in LARGER_BY
        )
        self._clock = clock
        self._idle_s = idle_s
        self._share = share
        self._below = "g"  # above all hex digits: every image is in the sample
        # Evictions by digest, with the last use before, in two generations: the older one is forgotten when the younger
        # is full.
        self._young: dict[int, float] = {}
        self._old: dict[int, float] = {}
        # Of the sampled images: when what memory holds was computed, and when it was used.
        self._stored: dict[str, tuple[float, float]] = {}
        # Hits that the shadow caches are not told of yet: the record, and when it was used by both clocks.
        self._hits: list[tuple[Record, float, float]] = []
        self._set_budget(budget_bytes)

    @property
    def caches(self) -> tuple[ShadowCache, ...]:
        """The shadow caches, which know of everything by now."""
        self._catch_up()
        return self._caches

    def evicted(self, key: str, reason: str, used: float) -> None:
        """An entry leaves the memory tier, which had been used last at a time."""
        self._catch_up()
        self._stored.pop(key, None)
        if reason == Reason.BUDGET:
            self._young[hash(key)] = used
            if len(self._young) >= self._most_digests // 2:
                self._old, self._young = self._young, {}

    def hit(self, record: Record) -> None:
        """An entry was found in memory. That is what a server does most, so it is noted, and worked out with others."""
        self._hits.append((record, record.used, self._clock()))
        if len(self._hits) >= _MOST_HITS:
            self._catch_up()

    def _catch_up(self) -> None:
        """Tell the shadow caches of the hits, before anything else happens to them or is asked of them.

        Of one entry's hits they are told the first and the last, with the number of the others: in between, nothing
        has come in or gone.
        """
        hits, self._hits = self._hits, []
        last: dict[str, tuple[float, float, int]] = {}
        for record, used, at in hits:
            key = record.key
            found = last.pop(key, None)
            if found is None:
                self._use(key, record.entry, at, used, in_memory=True)
            last[key] = (used, at, 0 if found is None else found[2] + 1)
        for key, (used, at, times) in last.items():
            if times and key in self._stored:
                self._stored[key] = self._stored[key][0], at
                for cache in self._caches:
                    cache.store.peek(key, used, times)

    def _use(self, key: str, entry: Entry, at: float, used: float | None = None, *, in_memory: bool) -> None:
        if not self._in_sample(key) or entry.kind is Kind.EMBEDDING_INT8:  # a larger memory would have had the full one
            return
        self._stored[key] = entry.created, at
        without = [cache for cache in self._caches if cache.store.peek(key, used) is None]
        if in_memory and entry.kind is not Kind.IMAGE:
            for cache in without:
                cache.seconds_saved -= entry.cost / self.sampled
        self._insert(without, key, entry, used)

    def arriving(self, key: str, entry: Entry, *, is_stored: bool, computed: bool) -> None:
        """An entry comes into memory from a tier below, or was computed; ``is_stored``: it is there already."""
        self._catch_up()
        if not computed:
            self._use(key, entry, self._clock(), in_memory=False)
            return
        self._count_recomputed(key, entry, is_stored)
        if not self._in_sample(key):
            return
        self._stored[key] = entry.created, self._clock()
        without = [cache for cache in self._caches if cache.store.peek(key) is None]
        if not (entry.kind is Kind.IMAGE or is_stored):
            for cache in self._caches:
                if cache not in without:
                    cache.hits += 1 / self.sampled
                    cache.seconds_saved += entry.cost / self.sampled
        self._insert(without, key, entry)

    def marked(self, group: str, done: bool) -> None:
        """The done hint of an image changed."""
        if self._in_sample(group):
            for cache in self.caches:
                cache.store.mark(group, done)

    def purged(self, pattern: str) -> None:
        """Keys were purged."""
        for cache in self.caches:
            sum(cache.store.purge(pattern))

    def estimates(self) -> Sequence[ShadowCache]:
        """The shadow caches, where their figures tell something: none, if the sample has too few images."""
        enough = self.sampled == 1.0 or len({keys.group_of(key) for key in self._stored}) >= _FEWEST_IMAGES
        return self.caches if enough else ()

    def spread(self, memory: MemoryStore) -> list[tuple[float, float]]:
        """Seconds since creation and since last use, of the sampled entries that the memory tier holds."""
        self._catch_up()
        now = self._clock()
        self._stored = {key: times for key, times in self._stored.items() if key in memory}  # the others were refused
        return [(now - created, now - used) for created, used in self._stored.values()]

    def sweep(self) -> None:
        """Let go what has expired."""
        for cache in self.caches:
            cache.store.expire()

    async def reconfigure(
        self,
        *,
        budget_bytes: int | None = None,
        idle_s: float | None = None,
        policy: PolicyChoice | None = None,
    ) -> None:
        """The memory tier's settings changed, as far as they are given."""
        if idle_s is not None:
            self._idle_s = idle_s
        for cache in self.caches:
            cache.store.reconfigure(idle_s=... if idle_s is None else idle_s)
            if policy is not None:
                await cache.store.migrate(policy.make())
        if budget_bytes is not None:
            self._set_budget(budget_bytes)
            self._thin_out()

    def _set_budget(self, budget: int) -> None:
        self._budget = budget
        self._most_digests = max(2, int(budget * self._share * _DIGEST_PART / _DIGEST_BYTES))
        fitting = int(budget * self._share * (1 - _DIGEST_PART) / _RECORD_BYTES)
        self._most_records = min(_MOST_RECORDS, max(_LEAST_RECORDS, fitting))
        for cache in self._caches:
            whole = int(budget * (1 + cache.larger_by))
            cache.store.reconfigure(budget_bytes=int(whole * self.sampled))
            # What is admitted is what the whole would admit: a sample of its images has entries as large.
            cache.store.largest = whole // PARTS

    def _count_recomputed(self, key: str, entry: Entry, is_stored: bool) -> None:
        kind = entry.kind
        digest = hash(key)
        at = self._young.pop(digest, None)
        if at is None:
            at = self._old.pop(digest, None)
        if at is None or is_stored or kind is Kind.IMAGE:
            return
        if self._idle_s is not None and self._clock() - at >= self._idle_s:
            return  # with any budget it would have been idle for too long
        if not self.purges.meant_after(key, at):
            self._note_recomputed(Kind.MASK if kind is Kind.LOGITS else kind, 1, entry.cost)

    def _note_recomputed(self, kind: Kind, entries: int, seconds: float) -> None:
        self.metrics.recomputed_after_eviction_entries.labels(kind).inc(entries)
        self.metrics.recomputed_after_eviction_seconds.labels(kind).inc(seconds)

    def _in_sample(self, key: str) -> bool:
        start = key.find("/", len(keys.LAYOUT) + 1) + 1
        return key[start : start + _HEX] < self._below

    def _insert(self, caches: Sequence[ShadowCache], key: str, entry: Entry, at: float | None = None) -> None:
        if caches:
            weight = Weight(entry.kind, b"", entry.cost, entry.created, entry.size)
            for cache in caches:
                cache.store.insert(key, weight, at=at)
            self._thin_out()

    def _thin_out(self) -> None:
        """Make the sample smaller until it fits, to those images that it would have had if it had begun so."""
        while sum(cache.store.entries for cache in self._caches) > self._most_records:
            self.sampled *= _THINNER
            self._below = f"{int(self.sampled * 16**_HEX):0{_HEX}x}"
            for cache in self._caches:
                for key, _ in cache.store.uses(math.inf):
                    if not self._in_sample(key):
                        sum(cache.store.purge(key))
            self._stored = {key: times for key, times in self._stored.items() if self._in_sample(key)}
            self._set_budget(self._budget)
            if self.sampled < 16.0**-_HEX:
                break
