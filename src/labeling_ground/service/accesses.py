"""What users asked for: counted, and written down for replaying where the operator wants that."""

from labeling_ground.service.asks import Ask
from labeling_ground.service.counters import Counters
from labeling_ground.service.once import Made
from labeling_ground.trace.recorder import Recorder
from labeling_ground.types import Kind


class Accesses:
    """Notes each look-up whose answer somebody waits for, and each prefetch.

    Args:
        counters: where they are counted.
        recorder: writes down what is asked for, so that it can be replayed.
    """

    def __init__(self, counters: Counters, recorder: Recorder | None) -> None:
        self.recorder = recorder
        self._counters = counters

    def note(
        self,
        kind: Kind,
        ask: Ask,
        key: str,
        made: Made,
        *,
        parent: tuple[str, int] | None = None,
        ahead: bool = False,
    ) -> None:
        """Note an access.

        Args:
            kind: what was asked for.
            ask: on which image.
            key: under which key.
            made: what came of it.
            parent: the prediction that a mask refines, and which of its candidates.
            ahead: whether it is a prefetch, which nobody waits for.
        """
        if not ahead:
            self._counters.kinds[kind].asked[made.outcome] += 1
        if self.recorder is None:
            return
        self.recorder.asked(
            kind,
            key,
            made.entry,
            made.outcome,
            embedding=ask.embedding,
            parent=None if parent is None else ask.mask(parent[0]),
            beside=made.bytes_beside,
            ahead=ahead,
        )
