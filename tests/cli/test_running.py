"""The end of a server, seen by clients that connect or ask at just that moment."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from tests.doubles import LONG_S, ToyBackend, image_bytes
from tests.ports import free_port
from tests.running import command

from labeling_ground.api.protocol import HttpLimits
from labeling_ground.cli.running import DrainingServer, configuration, listen
from labeling_ground.draining import Drain
from labeling_ground.settings import Settings
from labeling_ground.types import Embedding, Image

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(60)
    return client


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes the connection; one that is reset raises."""
    with client:
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
def test_requests_that_were_sent_before_the_listener_closed_are_answered(loop: str) -> None:
    """On connections that no code of the server has seen yet, and on one that waited for its next request."""
    listener = listen("127.0.0.1", 0, hint="")
    port = listener.getsockname()[1]
    kept: list[socket.socket] = []
    new: list[socket.socket] = []
    late: list[socket.socket] = []
    drain = Drain()

    def beat() -> None:  # the event loop, and so the server, stands still meanwhile
        if not kept:
            kept.append(connect(port))
            kept[0].sendall(REQUEST)
        elif server.server_state.total_requests == 1 and not new:
            new.extend(connect(port) for _ in range(8))
            for client in (*new[1:], *kept):
                client.sendall(REQUEST)
            late.append(new.pop(0))
            late[0].sendall(REQUEST[:9])
            server.should_exit = True
            drain.begin()

    config = configuration(PlainTextResponse("served"), Settings(), drain)
    config.loop = loop
    server = DrainingServer(config, drain, 0, beat)
    server.run(sockets=[listener])
    assert rest(kept[0]).count(b"served") == 2
    for client in new:
        answer = rest(client)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\r\nconnection: close\r\n" in answer
    assert rest(late[0]) == b""  # half a request is not waited for long
    with pytest.raises(ConnectionRefusedError):
        connect(port)


_OF_A_SERVER = """
import gc, weakref
from starlette.responses import PlainTextResponse
from labeling_ground.api.protocol import HttpLimits
from labeling_ground.cli.running import DrainingServer, configuration, listen
from labeling_ground.draining import Drain
from labeling_ground.inference.memory import collect_garbage
from labeling_ground.settings import Settings

class Model:
    def __init__(self):
        self.me = self

def beat():
    print(len(gc.get_objects()) < gc.get_freeze_count() / 10)
    models.clear()
    gc.collect()
    print(dropped() is not None)
    collect_garbage()
    print(dropped() is None, len(gc.get_objects()) < gc.get_freeze_count() / 10)
    server.should_exit = True

models = [Model()]
dropped = weakref.ref(models[0])
drain = Drain()
server = DrainingServer(configuration(PlainTextResponse("served"), Settings(), drain), drain, 0, beat)
server.run(sockets=[listen("127.0.0.1", 0, hint="")])
"""


def test_collections_look_at_nothing_that_a_server_started_with_until_a_model_is_unloaded() -> None:
    """In a process of its own, as what is exempt is exempt in all of a process."""
    done = subprocess.run([sys.executable, "-c", _OF_A_SERVER], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["True"] * 4


def test_how_long_a_connection_may_wait_or_dawdle_is_what_the_settings_say() -> None:
    given: dict[str, Any] = {"min_bytes_per_s": 11, "half_close_s": 12.0, "shutdown_idle_s": 13.0, "keep_alive_s": 14}
    given |= {"send_timeout_s": 15.0, "receive_timeout_s": 16.0, "discard_timeout_s": 17.0}
    given |= {"discard_bytes": 18, "max_header_bytes": 19}
    config = configuration(PlainTextResponse("served"), Settings(**given))
    protocol: Any = config.http
    assert protocol.limits == HttpLimits(
        head_bytes=19,
        head_seconds=16.0,
        send_seconds=15.0,
        least_bytes_s=11,
        discard_bytes=18,
        discard_seconds=17.0,
        half_close_seconds=12.0,
        idle_close_seconds=13.0,
    )
    assert config.timeout_keep_alive == 14


class _Hanging(ToyBackend):
    """Never comes to an end with an image of another size than the one that it is tried with."""

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        if images[0].width != 96:
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 86_400)
        return await super().encode(images)


def hanging(*, encode_threads: int, decode_threads: int) -> ToyBackend:
    return _Hanging()


def test_a_server_that_is_told_to_stop_ends_though_its_engine_hangs(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"port": port, "cache_dir": tmp_path, "encode_deadline_s": 0.5, "shutdown_grace_s": 1}
    with command("serve", ready=f"{url}/health/ready", model="tests.cli.test_running:hanging", **settings) as process:
        assert httpx.post(f"{url}/v1/images", content=image_bytes(1), timeout=LONG_S).status_code == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG_S) == 0
