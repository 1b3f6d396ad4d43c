"""Memory that nothing uses any more."""

import contextlib
import ctypes
import gc
from collections.abc import Callable

_HOLDERS: list[Callable[[], None]] = []


def also_give_back(holder: Callable[[], None]) -> None:
    """Have ``give_back_free_memory`` call this first: it frees what a library keeps for what it allocates next."""
    _HOLDERS.append(holder)


def exempt_from_collections() -> None:
    """Take the Python objects that are in use now out of every later garbage collection, but ``collect_garbage``'s.

    A server holds 130,000 objects once it has started, twice as many with PyTorch. A full collection looks at each of
    them: a tenth of a second in which nothing is answered, which comes again with every few thousand requests.
    """
    gc.collect()
    gc.freeze()


def collect_garbage() -> None:
    """Free what nothing refers to, also among objects that were exempted; in a server what is left is exempt then."""
    is_server = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if is_server:
        gc.freeze()


def give_back_free_memory() -> None:
    """Give the system the memory that this process has freed, which its libraries keep for what they allocate next.

    What was freed and is still resident counts against the container, and is no growth when it is used again. Takes
    milliseconds to tenths of a second. Of the C library only glibc can do it; elsewhere that part does nothing.
    """
    for holder in _HOLDERS:
        holder()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back_garbage() -> None:
    """Free what nothing refers to, as after a model has gone, and give the system that memory back."""
    collect_garbage()
    give_back_free_memory()
