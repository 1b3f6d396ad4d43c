"""What one server counts, and how long its requests take: one registry per app, in which all of it is declared once.

Each is counted where it happens. ``/metrics``, ``/v1/cache``, the history and the sums over worker processes read the
registry, and need not know what there is.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.samples import Sample

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds by which the times of requests are told apart."""

_PREFIX = "labeling_ground_"


class Metrics:
    """The counters of one server. Labels are bounded: a route's template, never the path; never what a client made up.

    Where something is counted often, its ``labels`` are looked up once, before.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = self._declare
        self.requests = counter(
            "requests", "Requests answered, by route, status and outcome of the look-up.", "route status outcome"
        )
        self.request_seconds = Histogram(
            f"{_PREFIX}request_seconds",
            "Seconds from a request's first byte to its answer's last, by route and outcome of the look-up.",
            ["route", "outcome"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._of_requests: dict[tuple[str, int, str], tuple[Counter, Histogram]] = {}

        lookup = "model kind"
        self.lookups = counter(
            "lookups", "Look-ups by kind and outcome; recomputed and miss are disjoint here.", f"{lookup} outcome"
        )
        self.asked = counter(
            "asked",
            "Those of the look-ups whose answer somebody waited for: none behind a miss, no prefetches.",
            f"{lookup} outcome",
        )
        self.seconds_saved = counter("seconds_saved", "Seconds of computing that hits and joined asks spared.", lookup)
        self.seconds_computed = counter("seconds_computed", "Seconds of computing that was done.", lookup)
        self.answers_from_int8 = counter(
            "answers_from_int8", "Asks that were answered from an embedding in int8.", lookup
        )
        self.failed = counter("failed", "Asks that ended in an error; they are no look-ups.", lookup)
        self.predictions = counter("predictions", "Queued predictions by what became of them.", "kind outcome")
        self.recomputed_after_eviction_entries = counter(
            "recomputed_after_eviction_entries", "Recomputed after memory's budget had evicted it.", "kind"
        )
        self.recomputed_after_eviction_seconds = counter(
            "recomputed_after_eviction_seconds", "The seconds which that took.", "kind"
        )

        self.store_errors = counter(
            "store_errors",
            "What a tier failed at: deadline, busy (an answer was late because of work of this process), failed, "
            "damaged, dropped (a value was not written: the queue was full, or the breaker open).",
            "tier reason",
        )
        self.lookups_skipped = counter("lookups_skipped", "Look-ups that a tier left alone was spared.", "tier")
        self.demoted = counter("demoted", "Values given to a tier again when memory had no room.", "tier")

        queue = "model queue class"
        self.turned_away = counter("turned_away", "Asks that found a queue full.", queue)
        self.queue_busy_seconds = counter("queue_busy_seconds", "Seconds for which computations had the engine.", queue)
        self.queue_waited_seconds = counter("queue_waited_seconds", "Seconds for which they waited before.", queue)

        self.trace_events = counter(
            "trace_events", "Accesses for the trace: written, or lost, as its disk did not take them.", "outcome"
        )
        self.sessions_unkept = counter(
            "sessions_unkept", "Changes of sessions that were answered before they were kept below memory."
        )
        self.background_errors = counter(
            "background_errors", "Failed attempts of background work, which is tried again.", "work"
        )

    def observe(self, route: str, status: int, outcome: str, seconds: float) -> None:
        """Count one answered request."""
        found = self._of_requests.get((route, status, outcome))
        if found is None:
            found = self.requests.labels(route, status, outcome), self.request_seconds.labels(route, outcome)
            self._of_requests[route, status, outcome] = found
        found[0].inc()
        found[1].observe(seconds)

    def name_tiers(self, *names: str) -> None:
        """Have what is counted of every tier told from the start, at 0."""
        for name in names:
            self.lookups_skipped.labels(name)
            self.demoted.labels(name)

    def figures(self) -> "Figures":
        """What was counted up to now."""
        return Figures(self.registry.collect())

    def _declare(self, name: str, text: str, labels: str = "") -> Counter:
        return Counter(_PREFIX + name, text, labels.split(), registry=self.registry)


class Figures:
    """What was counted at one moment: by one process, or by several together. To be sent to other processes.

    Args:
        families: as registries tell them; those of one name are added up, and when each began is left out.
    """

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for family in families:
            if family.name not in self._families:
                self._families[family.name] = Metric(family.name, family.documentation, family.type, family.unit)
            found = values.setdefault(family.name, {})
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    key = sample.name, tuple(sample.labels.items())
                    found[key] = found.get(key, 0.0) + sample.value
        for name, family in self._families.items():
            family.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in values[name].items()]

    def collect(self) -> Iterable[Metric]:
        """The families, as registries tell them."""
        return self._families.values()

    def samples(self, name: str, **labels: str) -> Iterator[Sample]:
        """Those of one family that have these labels, among others."""
        for sample in self._families[_PREFIX + name].samples:
            if labels.items() <= sample.labels.items():
                yield sample

    def sum(self, name: str, **labels: str) -> float:
        """A counter's value, added up over all other labels than these."""
        return sum(sample.value for sample in self.samples(name, **labels))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """The same for each value of one of the other labels."""
        found: dict[str, float] = {}
        for sample in self.samples(name, **labels):
            value = sample.labels[label]
            found[value] = found.get(value, 0.0) + sample.value
        return found
