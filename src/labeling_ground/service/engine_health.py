"""Whether the halves of the model answer, by what became of the last calls."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from labeling_ground.errors import BackendFailed, LabelingGroundError


class EngineHealth:
    """Counts failed calls in a row, for each half of the model.

    Args:
        failures: failed calls in a row after which a half counts as failing, until it answers again.
    """

    def __init__(self, failures: int = 10) -> None:
        self._limit = failures
        self._in_a_row: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    @contextmanager
    def call(self, half: str) -> Iterator[None]:
        """Count one call of ``encoder`` or ``decoder``, the check of its answer included.

        A call that is cancelled, turned away for want of room, or refused for its input says nothing about the half.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, BackendFailed) or not isinstance(error, LabelingGroundError):
                self._in_a_row[half] += 1
                self._last[half] = str(error) or type(error).__name__
            raise
        self._in_a_row[half] = 0

    def late(self, half: str, sentence: str) -> None:
        """Count a call of a half that has not ended by its deadline."""
        self._in_a_row[half] += 1
        self._last[half] = sentence

    def failing(self) -> Mapping[str, str]:
        """The halves that are failing, each with a sentence; empty if all is well."""
        return {
            half: f"The last {count} calls failed: {self._last[half]}"
            for half, count in self._in_a_row.items()
            if count >= self._limit
        }
