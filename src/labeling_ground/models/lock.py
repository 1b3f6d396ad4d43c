"""A lock between processes that ends with its holder, however that ends."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


_BUSY = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK})
_ASK_AGAIN_S = 0.1


@contextlib.contextmanager
def hold(path: Path, *, wait_s: float | None = None, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock on this file. The file stays behind, empty: removing it would let two hold it at once.

    Args:
        path: the lock file; made if it is not there.
        wait_s: longest wait in seconds; ``None`` waits for ever.
        waiting: called once, when somebody else holds it.

    Raises:
        TimeoutError: somebody else still holds it.
        OSError: the file cannot be made, or the file system knows no locks.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        started = time.monotonic()
        told = False
        while True:
            try:
                _try(handle)
                break
            except OSError as error:
                if error.errno not in _BUSY:
                    raise
            if wait_s is not None and time.monotonic() - started >= wait_s:
                raise TimeoutError(f"{path} is held by another process")
            if waiting is not None and not told:
                told = True
                waiting()
            # Asking again, not a blocking call: Ctrl-C must work while waiting, on every system.
            time.sleep(_ASK_AGAIN_S)
        yield
    finally:
        os.close(handle)  # which also gives the lock back
