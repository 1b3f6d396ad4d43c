"""What is counted is true."""

from labeling_ground.service.ledger import Ledger
from labeling_ground.types import Kind, Outcome


def test_look_ups_are_hits_and_misses_and_joined_and_seconds_are_the_entries_own() -> None:
    ledger = Ledger()
    for outcome, cost in (
        (Outcome.MISS, 2.0),
        (Outcome.JOINED, 2.0),
        (Outcome.HIT, 2.0),
        (Outcome.HIT, 0.5),
        (Outcome.RECOMPUTED, 3.0),
    ):
        ledger.outcome(Kind.EMBEDDING, outcome, cost)
    ledger.outcome(Kind.MASK, Outcome.HIT, 0.25)
    ledger.failure(Kind.MASK)
    figures = ledger.kinds[Kind.EMBEDDING]
    assert (figures.hits, figures.misses, figures.joined, figures.recomputed, figures.lookups) == (2, 2, 1, 1, 5)
    assert (figures.seconds_saved, figures.seconds_computed) == (4.5, 5.0)
    total = ledger.total()
    assert (total.lookups, total.hits, total.failed, total.seconds_saved) == (6, 3, 1, 4.75)


def test_the_hit_ratio_is_that_of_what_somebody_waited_for() -> None:
    """Ten clicks, of which three were hits; the seven others found their embedding, which nobody asked for."""
    ledger = Ledger()
    assert ledger.total().hit_ratio is None
    for outcome in [Outcome.HIT] * 3 + [Outcome.MISS] * 7:
        ledger.outcome(Kind.MASK, outcome, 0.1)
        ledger.asked(Kind.MASK, outcome)
        if outcome is Outcome.MISS:
            ledger.outcome(Kind.EMBEDDING, Outcome.HIT, 1.0)
    assert (ledger.total().hit_ratio, ledger.total().lookups) == (0.3, 17)
    assert ledger.kinds[Kind.EMBEDDING].hit_ratio is None
