"""One registry per app: what is declared in it is told, added up and handed on without further ado."""

import pickle

from prometheus_client import Counter

from labeling_ground.metrics import Figures, Metrics


def test_a_counter_has_the_name_under_which_code_counts() -> None:
    counters = {name: each for name, each in vars(Metrics()).items() if isinstance(each, Counter)}
    assert len(counters) > 15
    for name, counter in counters.items():
        assert [family.name for family in counter.collect()] == [f"labeling_ground_{name}"]


def test_a_figure_is_the_sum_over_the_labels_that_were_not_named() -> None:
    metrics = Metrics()
    for tier, reason, times in (("disk", "failed", 2), ("disk", "busy", 1), ("redis", "failed", 4)):
        metrics.store_errors.labels(tier, reason).inc(times)
    figures = metrics.figures()
    assert figures.sum("store_errors") == 7
    assert figures.sum("store_errors", tier="disk") == 3
    assert figures.by("reason", "store_errors") == {"failed": 6, "busy": 1}
    assert figures.by("reason", "store_errors", tier="disk") == {"failed": 2, "busy": 1}
    assert (figures.sum("store_errors", tier="memory"), figures.by("reason", "store_errors", tier="memory")) == (0, {})


def test_figures_are_those_of_their_moment() -> None:
    metrics = Metrics()
    before = metrics.figures()
    metrics.sessions_unkept.inc()
    assert (before.sum("sessions_unkept"), metrics.figures().sum("sessions_unkept")) == (0, 1)


def test_what_several_processes_count_is_one_sum_whatever_it_is() -> None:
    """Also a counter that only one of them has, as one that was started with another release's code would."""
    one, other = Metrics(), Metrics()
    Counter("labeling_ground_of_tomorrow", "Not declared today.", ["by"], registry=other.registry).labels("me").inc(3)
    for metrics in (one, other):
        metrics.background_errors.labels("sweep").inc()
        metrics.observe("/v1/images", 200, "hit", 0.3)
    told = pickle.loads(pickle.dumps(other.figures()))
    figures = Figures([*one.figures().collect(), *told.collect()])
    assert figures.sum("background_errors", work="sweep") == 2
    assert figures.by("by", "of_tomorrow") == {"me": 3}
    assert figures.by("status", "requests") == {"200": 2}
    buckets = {
        sample.labels["le"]: sample.value for sample in figures.samples("request_seconds") if "le" in sample.labels
    }
    assert (buckets["0.25"], buckets["0.5"], buckets["+Inf"]) == (0, 2, 2)
    assert not [sample for family in figures.collect() for sample in family.samples if sample.name.endswith("_created")]
