"""Every part of a running system is restarted in turn, as an orchestrator does it: nobody notices."""

import asyncio
import base64
import contextlib
import itertools
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.doubles import image_bytes
from tests.inference.toy_engine import NAMES, ToyEngine, endpoint, process, served
from tests.ports import free_port
from tests.redis_servers import Server as Redis
from tests.running import command

from labeling_ground.inference.remote.wire import EngineRole

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LONG_S = 120.0
PATIENT = dict.fromkeys(("lookup_deadline_ms", "lease_patience_ms", "session_patience_ms"), "60000")


def proxy(port: int, **settings: str) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    """``labeling-ground serve`` on a port, ready."""
    words = ["serve", "--port", str(port), "--disk-bytes", "0"]
    return command(*words, ready=f"http://127.0.0.1:{port}/health/ready", **settings)


class Balancer:
    """Gives requests to servers that are ready, to all where none is, as load balancers do, and never repeats one."""

    def __init__(self, urls: list[str]) -> None:
        self.ready = set(urls)
        self._urls = urls
        self._http = httpx.AsyncClient(timeout=LONG_S)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def watch(self) -> None:
        async with httpx.AsyncClient(timeout=10) as http:
            while True:
                for url in self._urls:
                    is_ready = False
                    with contextlib.suppress(httpx.TransportError):
                        is_ready = (await http.get(f"{url}/health/ready")).status_code == 200
                    (self.ready.add if is_ready else self.ready.discard)(url)
                await asyncio.sleep(0.05)

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        """The answer, which must be a success."""
        url = random.choice(sorted(self.ready) or self._urls)
        answer = await self._http.post(f"{url}{path}", **body)
        assert answer.status_code == 200, (url, answer.status_code, answer.text)
        found: dict[str, Any] = answer.json()
        return found


async def work(number: int, balanced: Balancer, reference: Balancer, done: Counter[int]) -> None:
    """Open images and click, with and without a session, until called off; each mask is that of the undisturbed one."""
    for seed in itertools.count(1):
        file = image_bytes(1000 * number + seed)
        opened = [await each.post("/v1/images", content=file) for each in (balanced, reference)]
        assert opened[0]["image_id"] == opened[1]["image_id"]
        session = {"session_id": f"{number} {seed}"}
        for each in (balanced, reference):
            await each.post("/api/sam/image", json={**session, "image": base64.b64encode(file).decode()})
        for click in range(6):
            x, y = (7 * click + seed) % 35 + 2, (5 * click + number) % 25 + 2
            prompt = {"points": [{"x": x, "y": y}]}
            path = f"/v1/images/{opened[0]['image_id']}/masks"
            got, right = [await each.post(path, json=prompt) for each in (balanced, reference)]
            assert got["masks"] == right["masks"]
            assert got["model_version"] == right["model_version"]
            words = {**session, "points": [x, y], "labels": [1]}
            got, right = [await each.post("/api/sam/click", json=words) for each in (balanced, reference)]
            assert (got["masks"], got["points"]) == (right["masks"], right["points"])
            done[number] += 1


async def test_every_engine_and_proxy_is_restarted_under_load_and_no_request_fails(
    valkey: tuple[Redis, str], tmp_path: Path
) -> None:
    valkey[0].ask("FLUSHALL")
    ports = {role: [free_port(), free_port()] for role in EngineRole}
    common = {
        "encoder_name": NAMES[EngineRole.ENCODER],
        "decoder_name": NAMES[EngineRole.DECODER],
        "allowed_hosts": "127.0.0.1",
        **PATIENT,
    }
    with ExitStack() as stack:
        engines: dict[tuple[EngineRole, int], tuple[ExitStack, subprocess.Popen[bytes]]] = {}

        def start_engine(role: EngineRole, port: int) -> None:
            own = stack.enter_context(ExitStack())
            engines[role, port] = own, own.enter_context(process(role, tmp_path / str(port), port))

        for role, some in ports.items():
            for port in some:
                start_engine(role, port)
        pools = {
            f"{role.value}_url": ",".join(f"http://127.0.0.1:{port}" for port in some) for role, some in ports.items()
        }
        halves = [endpoint(role, ToyEngine(), tmp_path / "reference") for role in EngineRole]
        alone = stack.enter_context(served(*halves))
        proxy_ports, reference_port = [free_port(), free_port()], free_port()
        given = {**common, **pools, "redis_url": valkey[1], "drain_delay_s": "3"}
        proxies = {}

        def start_proxy(port: int) -> None:
            proxies[port] = stack.enter_context(proxy(port, **given))

        for port in proxy_ports:
            await asyncio.to_thread(start_proxy, port)
        undisturbed = {**common, "encoder_url": alone.url, "decoder_url": alone.url}
        await asyncio.to_thread(stack.enter_context, proxy(reference_port, **undisturbed))
        balanced = Balancer([f"http://127.0.0.1:{port}" for port in proxy_ports])
        reference = Balancer([f"http://127.0.0.1:{reference_port}"])
        done: Counter[int] = Counter()
        clients = [asyncio.create_task(work(number, balanced, reference, done)) for number in range(3)]
        watching = asyncio.create_task(balanced.watch())

        async def until(holds: Any, what: str) -> None:
            async with asyncio.timeout(LONG_S):
                while not holds():
                    for task in (*clients, watching):
                        assert not task.done() or not task.exception(), (what, task.exception())
                    await asyncio.sleep(0.02)

        async def another_round(what: str) -> None:
            before = dict(done)
            await until(lambda: all(done[number] > before.get(number, 0) + 6 for number in range(3)), what)

        await another_round("at first")
        for role, some in ports.items():
            for port in some:
                own, running = engines[role, port]
                running.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running.wait, 60) == 0
                await another_round(f"without the {role.value} {port}")
                await asyncio.to_thread(own.close)
                await asyncio.to_thread(start_engine, role, port)  # as soon as it listens, the next one is told to stop
        await another_round("with all engines")
        for port in proxy_ports:
            url = f"http://127.0.0.1:{port}"
            proxies[port].send_signal(signal.SIGTERM)
            await until(lambda url=url: url not in balanced.ready, "to see that it is not ready")
            assert await asyncio.to_thread(proxies[port].wait, 60) == 0
            await another_round(f"without the proxy {port}")
            await asyncio.to_thread(start_proxy, port)
            await until(lambda url=url: url in balanced.ready, "to see that it is back")
        await another_round("at last")
        for task in (*clients, watching):
            task.cancel()
        ends = await asyncio.gather(*clients, watching, return_exceptions=True)
        await asyncio.gather(balanced.aclose(), reference.aclose())
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 4


def test_what_was_begun_ends_and_answers_say_that_the_connection_does() -> None:
    """A stream, and a slow upload, of a server that was told to stop; until its delay is over it serves others too."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    file, slow = image_bytes(1), image_bytes(2)
    with (
        proxy(port, model="classical", drain_delay_s="4", shutdown_grace_s="60") as running,
        httpx.Client(base_url=url, timeout=LONG_S) as http,
        socket.create_connection(("127.0.0.1", port)) as sending,
    ):
        image_id = http.post("/v1/images", content=file).json()["image_id"]
        head = f"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(slow)}\r\n\r\n"
        sending.sendall(head.encode() + slow[:20])
        lines: list[bytes] = []
        first = threading.Event()

        def stream() -> None:
            grid = {"points_per_side": 16}
            with httpx.stream("POST", f"{url}/v1/images/{image_id}/everything", json=grid, timeout=LONG_S) as answer:
                for line in answer.iter_lines():
                    lines.append(line.encode())
                    first.set()

        streaming = threading.Thread(target=stream)
        streaming.start()
        assert first.wait(LONG_S)
        running.send_signal(signal.SIGTERM)
        until = time.monotonic() + LONG_S
        while (ready := http.get("/health/ready")).status_code == 200:
            assert time.monotonic() < until
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert ready.headers["connection"] == "close"
        late = http.post(f"/v1/images/{image_id}/masks", json={"points": [{"x": 5, "y": 5}]})  # on a new connection
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        while True:  # it takes no connections any more
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                break
            assert time.monotonic() < until
            time.sleep(0.05)
        assert running.poll() is None
        sending.sendall(slow[20:])
        answer = b""
        while piece := sending.recv(1 << 16):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\r\nconnection: close\r\n" in answer.lower()
        streaming.join(LONG_S)
        assert b'"done"' in lines[-1] or b"masks" in lines[-1]
        assert running.wait(60) == 0
