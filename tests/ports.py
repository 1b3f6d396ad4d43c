"""Free ports for servers that a test starts itself."""

import contextlib
import random
import socket

FIRST, PAST = 12_000, 22_000
"""Below what systems hand to outgoing connections (32768 and up on Linux, 49152 elsewhere), with a cluster's bus too. A
port that the system itself hands out may belong to somebody's connection before the server gets to it."""

BUS = 10_000
"""How far above its port a node of a Redis cluster talks to the others."""

_given: set[int] = set()


def free_port() -> int:
    """A port that nobody uses, nor the one ``BUS`` above it. None is given twice."""
    chosen = random.SystemRandom()  # not pytest-randomly's generator: two runs side by side should not meet
    for _ in range(1000):
        port = chosen.randrange(FIRST, PAST)
        if port not in _given and _is_free(port) and _is_free(port + BUS):
            _given.add(port)
            return port
    raise AssertionError(f"no free port between {FIRST} and {PAST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
