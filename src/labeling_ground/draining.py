"""Whether a server is about to end: its signal says so, and what answers looks here."""

import time


class Drain:
    """One server's way from serving to its end: it is not ready any more, ends what runs, and is gone."""

    def __init__(self) -> None:
        self.has_begun = False
        """Whether the server was told to stop."""
        self._began = 0.0

    def begin(self) -> None:
        """Note that the server was told to stop. May be called from a signal's handler."""
        if not self.has_begun:
            self._began = time.monotonic()
        self.has_begun = True

    def left_s(self, whole_s: float) -> float:
        """Seconds that are left of so many since the server was told to stop; 0 where it was not told."""
        return max(0.0, self._began + whole_s - time.monotonic()) if self.has_begun else 0.0
