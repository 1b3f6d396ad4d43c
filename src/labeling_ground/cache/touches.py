"""When uses above were noted below."""

import time
from collections import OrderedDict
from collections.abc import Callable

_REMEMBERED = 100_000


class Touches:
    """Remembers when the idle timers of keys were restarted in the lower tiers, so that few uses cost them anything.

    Args:
        idle_s: the idle time; a use is due when the last one noted is a twentieth of it ago.
        clock: monotonic seconds.
    """

    def __init__(self, idle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: OrderedDict[str, float] = OrderedDict()
        self.set_idle(idle_s)

    def set_idle(self, idle_s: float) -> None:
        """Take another idle time: each next use is due, since a timer may still run by the old one."""
        self.idle_s = idle_s
        self._noted.clear()

    def is_due(self, key: str) -> bool:
        """Whether a use now is to be noted below; if so, it counts as noted."""
        last = self._noted.get(key)
        if last is not None and self._clock() - last < self.idle_s / 20:
            return False
        self.note(key)
        return True

    def note(self, key: str) -> None:
        """The timer of a key is restarted now."""
        self._noted[key] = self._clock()
        self._noted.move_to_end(key)
        if len(self._noted) > _REMEMBERED:
            self._noted.popitem(last=False)
