"""An engine server among clients that send nonsense: refusals, no failure of its own, and nothing is kept of it."""

import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.inference.remote_values import KEY, embedding, prompt
from tests.inference.toy_engine import NAMES, VERSION, process
from tests.ports import free_port

from labeling_ground.codec.tensors import pack
from labeling_ground.inference.remote import envelope, wire

LONG_S = 60.0
CLIENTS = 8
CLICK = wire.write_ask(wire.Decode(VERSION, KEY, prompt()))
OPENING = wire.write_ask(wire.Decode(VERSION, KEY, prompt(), embedding()))
PATH = f"/predictions/{NAMES[wire.EngineRole.DECODER]}"
POST = f"POST {PATH} HTTP/1.1\r\nHost: engine\r\n".encode()
WORDS = {"protocol": wire.PROTOCOL, "ask": "decode", "model_version": wire.version_text(VERSION), "embedding": KEY}
DEEP = b'{"__metadata__":' + b"[" * 100_000
UNREADABLE = (
    b"GET /" + b"a" * 100_000,
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 4611686018427387904\r\n\r\nabc",
    POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
    bytes(range(256)),
)
"""Requests that are refused without their end, some for a huge length that they claim."""
SLOW = (
    POST[:20],
    POST + b"Content-Length: 100000\r\n\r\nabc",
    POST + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\nabc",
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A decoder's port, and its process id."""
    port = free_port()
    with process(wire.EngineRole.DECODER, tmp_path / "kept", port) as started:
        yield port, started.pid


def bodies(seed: int) -> list[bytes]:
    """What no engine can answer: noise, what was cut off, changed, or claims what is not."""
    choose = random.Random(seed)
    changed = bytearray(CLICK)
    for _ in range(4):
        changed[choose.randrange(len(changed))] ^= 1 + choose.randrange(255)
    claims = [struct.pack("<Q", size) + b"{}" for size in (1 << 40, 1 << 63, (1 << 64) - 1)]
    words = [
        {**WORDS, "ask": choose.choice(("several", "text", "", "é"))},
        {**WORDS, "asks": "9" * 5000, "candidates": "9" * 5000},
    ]
    return [
        b"",
        choose.randbytes(choose.randrange(100_000)),
        CLICK[: choose.randrange(len(CLICK))],
        struct.pack("<Q", len(DEEP)) + DEEP,
        *claims,
        *(pack({"a": np.zeros(0)}, each) for each in words),
        pack({"a": np.zeros(8 << 20, np.uint8)}, WORDS),
        envelope.write_several([choose.randbytes(50), bytes(changed), envelope.write_several([CLICK])]),
    ]


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * 4096


def status_of(port: int, request: bytes) -> int:
    """The status that a request gets, however much of it is read."""
    with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
        return int(connection.recv(12, socket.MSG_WAITALL).split()[1])


@pytest.mark.slow
def test_nonsense_of_many_is_refused_costs_nothing_and_keeps_nobody_from_being_answered(
    engine: tuple[int, int],
) -> None:
    port, pid = engine
    url = f"http://127.0.0.1:{port}{PATH}"

    def nonsense(seed: int) -> Counter[int]:
        with httpx.Client(timeout=LONG_S) as client:
            told = Counter(client.post(url, content=body).status_code for body in bodies(seed))
        return told + Counter(status_of(port, request) for request in UNREADABLE)

    with ExitStack() as closing, httpx.Client(timeout=LONG_S) as client:
        assert client.post(url, content=OPENING).status_code == 200
        for request in SLOW * CLIENTS:
            slow = closing.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LONG_S))
            slow.sendall(request)
        threads = closing.enter_context(ThreadPoolExecutor(CLIENTS))
        before = 0
        for turn in range(3):
            told = [threads.submit(nonsense, seed) for seed in range(turn * CLIENTS, (turn + 1) * CLIENTS)]
            while not all(each.done() for each in told):
                assert client.post(url, content=CLICK).status_code == 200
            statuses = sum((each.result() for each in told), Counter())
            assert set(statuses) <= {200, 400, 413, 431}, "of several asks each has its own status, within one answer"
            assert statuses[200] == CLIENTS
            before = before or resident_bytes(pid)  # after the first turn
        assert resident_bytes(pid) - before < 100 << 20
