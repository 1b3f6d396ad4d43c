"""Memory that nothing uses any more."""

import contextlib
import ctypes
from collections.abc import Callable

_HOLDERS: list[Callable[[], None]] = []


def also_give_back(holder: Callable[[], None]) -> None:
    """Have ``give_back_free_memory`` call this first: it frees what a library keeps for what it allocates next."""
    _HOLDERS.append(holder)


def give_back_free_memory() -> None:
    """Give the system the memory that this process has freed, which its libraries keep for what they allocate next.

    What was freed and is still resident counts against the container, and is no growth when it is used again. Takes
    milliseconds to tenths of a second. Of the C library only glibc can do it; elsewhere that part does nothing.
    """
    for holder in _HOLDERS:
        holder()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
