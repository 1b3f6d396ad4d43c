"""Whether a server is about to end: its signal says so, and what answers looks here."""


class Drain:
    """One server's way from serving to its end: it is not ready any more, ends what runs, and is gone."""

    def __init__(self) -> None:
        self.has_begun = False
        """Whether the server was told to stop."""

    def begin(self) -> None:
        """Note that the server was told to stop. May be called from a signal's handler."""
        self.has_begun = True
