"""Memory of models that are not used any more."""

import contextlib
import ctypes


def give_back_free_memory() -> None:
    """Give the system the memory that this process has freed, which its C library keeps for what it allocates next.

    What was freed and is still resident counts against the container, and is no growth when it is used again. Takes
    milliseconds to tenths of a second. Only glibc can do it; elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
