"""A whole server: getting ready, failing tiers, stopping, and starting again."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from tests.needs import needs_program
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.api.conftest import Running, Start, StartReal, ToyBackend

pytestmark = pytest.mark.anyio

SLOW_ENGINE = '''
"""The weight-free engine, which encodes images that are wide enough when it is told to."""
import asyncio
from collections import Counter
from pathlib import Path
from labeling_ground.inference.classical import create as classical

def create(**chosen):
    backend = classical(**chosen)
    encode = backend.encode
    async def slow(images):
        while images[0].width > 200 and not Path(__file__).with_name("go").exists():
            await asyncio.sleep(0.01)
        return await encode(images)
    backend.encode = slow
    return backend
'''


@contextlib.contextmanager
def serving(folder: Path, **settings: str) -> "Iterator[tuple[subprocess.Popen[bytes], str]]":
    """The command itself, in a process of its own, ready."""
    (folder / "slow_engine.py").write_text(SLOW_ENGINE)
    port = free_port()
    chosen = {"cache_dir": str(folder / "cache"), "memory_bytes": "64MiB", "log_format": "json", **settings}
    # What is a hit and what a miss says nothing here of how fast the disk is today.
    chosen |= dict.fromkeys(("lookup_deadline_ms", "mask_window_ms", "embedding_window_ms"), "60000")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LABELING_GROUND_")}
    environment |= {f"LABELING_GROUND_{name.upper()}": value for name, value in chosen.items()}
    environment["PYTHONPATH"] = str(folder)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "labeling_ground", "serve", "--port", str(port)], env=environment, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 240
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)


def test_a_stopping_server_answers_what_is_in_flight(tmp_path: Path, make_image: "Callable[..., bytes]") -> None:
    """SIGTERM during an encode: 200, then the end with exit code 0; and the next start finds it all on disk."""
    small, wide = make_image(), make_image(240, 160)
    answers: list[httpx.Response] = []
    click = {"points": [{"x": 9, "y": 9}]}
    with (
        serving(tmp_path, model="slow_engine:create") as (process, url),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        known = client.post("/v1/images", content=small).json()["image_id"]
        assert client.post(f"/v1/images/{known}/masks", json=click).json()["outcome"] == "miss"
        sending = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1/images", content=wide, timeout=60))
        )
        sending.start()
        while client.get("/v1/cache").json()["queues"]["encoder"]["running"] == 0:
            time.sleep(0.01)
        client.close()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None, "it waits for the answer"
        (tmp_path / "go").touch()
        assert process.wait(120) == 0, (tmp_path / "log").read_text()
        sending.join(60)
    assert (answers[0].status_code, answers[0].json()["outcome"]) == (200, "miss")
    image_id = answers[0].json()["image_id"]
    with (
        serving(tmp_path, model="slow_engine:create") as (process, url),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert client.post(f"/v1/images/{known}/masks", json=click).json()["outcome"] == "hit"
        assert client.get(f"/v1/images/{image_id}").json()["encoded"]
        first = client.post(f"/v1/images/{image_id}/masks", json=click).json()
        assert (first["outcome"], "encode" in first["timing"]) == ("miss", False)


@pytest.mark.parametrize("grace_s", [60, 1])
def test_a_stopping_server_encodes_what_it_has_queued_as_far_as_the_grace_allows(
    tmp_path: Path, make_image: "Callable[..., bytes]", grace_s: int
) -> None:
    """Images answered 202 have no request that waits for them."""
    wide = [make_image(240, 160) for _ in range(3)]
    settings = {"model": "slow_engine:create", "shutdown_grace_s": str(grace_s)}
    with serving(tmp_path, **settings) as (process, url), httpx.Client(base_url=url, timeout=60) as client:
        queued = [client.post("/v1/images?wait=false", content=file) for file in wide]
        assert [answer.status_code for answer in queued] == [202] * 3
        client.close()
        process.send_signal(signal.SIGTERM)
        if grace_s > 1:
            time.sleep(0.5)
            assert process.poll() is None, "it encodes them"
            (tmp_path / "go").touch()
        assert process.wait(120) == 0, (tmp_path / "log").read_text()
    with serving(tmp_path, **settings) as (process, url), httpx.Client(base_url=url, timeout=60) as client:
        known = [client.get(f"/v1/images/{answer.json()['image_id']}") for answer in queued]
        if grace_s > 1:
            assert [answer.json()["encoded"] for answer in known] == [True] * 3
        else:
            assert [answer.status_code for answer in known[1:]] == [404] * 2, "to be sent again"
            assert not known[0].json().get("encoded"), "its file was stored when its turn came"


async def test_it_is_not_ready_before_the_model_answered(start: "Start", make_backend: "type[ToyBackend]") -> None:
    """503 and ``starting`` while the model warms up, alive all the while, then 200 and ``ok``."""
    backend = make_backend()
    backend.decode_may_go_on.clear()
    async with start(backend=backend, warm=False) as server:
        early = await server.client.get("/health/ready")
        assert (early.status_code, early.json()["status"]) == (503, "starting")
        assert (await server.client.get("/health/live")).json()["status"] == "ok"
        backend.decode_may_go_on.set()
        await server.until_ready()
        ready = await server.client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ok", "checks": {"model": "ok", "disk": "ok"}})


@pytest.mark.parametrize("bug", [False, True])
async def test_a_model_that_does_not_start_is_said_and_not_hidden(
    start: "Start", make_backend: "type[ToyBackend]", backend_failure: Exception, bug: bool
) -> None:
    """503 and ``failing`` with the reason, whether the engine says so or just breaks."""
    backend = make_backend(fail_encode=ZeroDivisionError("no weights") if bug else backend_failure)
    async with start(backend=backend, warm=False) as server:
        await server.until(lambda: str(server.app.state.model_check).startswith("failing"))
        answer = await server.client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "failing")
        assert str(backend.fail_encode) in answer.json()["checks"]["model"]


async def test_a_failing_disk_degrades_and_loses_no_answer(
    start: "Start", tmp_path: Path, make_image: "Callable[..., bytes]"
) -> None:
    """A cache folder that cannot be: every answer is right, readiness says ``degraded`` and which tier it is."""
    (tmp_path / "file").write_text("in the way")
    async with start(cache_dir=tmp_path / "file", breaker_failures=2, breaker_reset_s=60) as server:
        image_id = await server.send_image(make_image())
        for x in range(5):
            assert (await server.click(image_id, x, 5)).json()["outcome"] == "miss"
            assert (await server.click(image_id, x, 5)).json()["outcome"] == "hit"
        ready = await server.client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["checks"]["model"] == "ok"
        assert ready.json()["checks"]["disk"].startswith("failing")
        assert (await server.client.get("/v1/cache")).status_code == 200
        assert (await server.client.get("/metrics")).status_code == 200


async def test_one_error_in_a_sweep_ends_neither_sweeping_nor_the_shutdown(
    start: "Start", make_image: "Callable[..., bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is swept: the error is counted, the other sweeps have their turn, and all is swept again."""
    async with start(idle_s=1.0) as server:
        app_state, swept = server.app_state, Counter[str]()

        def fail_once(name: str, sweep: "Callable[[], Awaitable[object]]") -> "Callable[[], Awaitable[object]]":
            async def sweep_or_fail() -> object:
                swept[name] += 1
                if swept[name] == 1:
                    raise RuntimeError("a policy of the operator's own raised")
                return await sweep()

            return sweep_or_fail

        memory, disk = app_state.predictor.store.memory, app_state.predictor.store.lower[0]
        for name, owner in (("disk", disk), ("sessions", app_state.sessions)):
            monkeypatch.setattr(owner, "sweep", fail_once(name, owner.sweep))
        expire = memory.expire

        def expire_or_fail(limit: int | None = None) -> int:
            swept["memory"] += 1
            if swept["memory"] == 1:
                raise RuntimeError("a policy of the operator's own raised")
            return expire(limit)

        monkeypatch.setattr(memory, "expire", expire_or_fail)
        await server.until(lambda: min(swept[name] for name in ("memory", "disk", "sessions")) >= 3)
        counted = (await server.client.get("/v1/cache")).json()["background_errors"]
        assert counted["sweep sessions"] == 1
        assert counted["sweep cache"] >= 1
        assert 'background_errors_total{work="sweep sessions"} 1.0' in (await server.client.get("/metrics")).text
        await server.send_image(make_image())
    assert len(disk.queue) == 0, "what waited was written"


@pytest.mark.parametrize("broken", ["sessions", "flights", "backend"])
async def test_whatever_fails_to_close_all_the_rest_is_closed(
    start: "Start", make_image: "Callable[..., bytes]", monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """And the failure is not hidden."""
    closed: list[str] = []

    def noting(name: str, close: "Callable[[], Awaitable[None]]") -> "Callable[[], Awaitable[None]]":
        async def note() -> None:
            await close()
            closed.append(name)
            if name == broken:
                raise RuntimeError("will not close")

        return note

    starting = start()
    server = await starting.__aenter__()
    predictor = server.app_state.predictor
    owners = {
        "sessions": server.app_state.sessions._state_store,
        "flights": predictor.flights,
        "backend": predictor.backend,
        "disk": predictor.store.lower[0].store,
    }
    for name, owner in owners.items():
        assert owner is not None
        monkeypatch.setattr(owner, "aclose", noting(name, owner.aclose))
    await server.send_image(make_image())
    with pytest.raises(RuntimeError, match="will not close"):
        await starting.__aexit__(None, None, None)
    assert sorted(closed) == sorted(owners)
    assert len(predictor.store.lower[0].queue) == 0, "what waited was written"


async def test_a_second_server_finds_what_the_first_one_kept(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """Masks are hits from the disk tier, and the model is asked for nothing."""
    file = make_image()
    async with start() as first:
        image_id = await first.send_image(file)
        await first.click(image_id, 5, 5)
    async with start() as second:
        assert (await second.click(image_id, 5, 5)).json()["outcome"] == "hit"
        assert (await second.client.post("/v1/images", content=file)).json()["outcome"] == "hit"
        assert (second.backend.encodes, second.backend.decodes) == (0, 0)


def test_a_connection_is_kept_for_many_requests(start_real: "StartReal", make_image: "Callable[..., bytes]") -> None:
    """Answers, refusals and unread small bodies leave it open: a new connection each time would cost the clicks."""
    with start_real() as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(60)
        for head, status in (
            (b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            (b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", 404),
            (b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", 415),
            (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ):
            connection.sendall(head)
            with http.client.HTTPResponse(connection) as received:  # to its end, in however many pieces it comes
                received.begin()
                assert (received.status, len(received.read()) > 0) == (status, True)
                assert not received.will_close


async def test_a_hit_is_cheap(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """A click whose mask is cached costs little more than the endpoint that does nothing (a generous bound)."""
    image_id = await server.send_image(make_image())
    body = {"points": [{"x": 5, "y": 5}]}
    address = f"/v1/images/{image_id}/masks"
    await server.client.post(address, json=body)

    async def least(ask: "Callable[[], object]") -> float:
        times = []
        for _ in range(60):
            started = time.process_time()
            await ask()  # type: ignore[misc]
            times.append(time.process_time() - started)
        return sorted(times)[10]

    noop = await least(lambda: server.client.get("/health/live"))
    hit = await least(lambda: server.client.post(address, json=body))
    assert hit < 4 * noop


@pytest.mark.parametrize("readme", ["README.md", "README.ko.md"])
def test_the_examples_of_a_readme_run_as_they_stand(
    tmp_path: Path, make_image: "Callable[..., bytes]", readme: str
) -> None:
    text = (Path(__file__).parents[2] / readme).read_text(encoding="utf-8")
    section = text[text.index("## API" if readme.endswith("ko.md") else "## The API") :]
    shell = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    python = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert shell is not None
    assert python is not None
    (tmp_path / "cat.jpg").write_bytes(make_image(1024, 768, format="JPEG"))
    needs_program("curl")

    def run(url: str, *command: str) -> list[str]:
        told = [part.replace("http://127.0.0.1:8000", url) for part in command]
        done = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    with serving(tmp_path) as (_, url):
        sent, clicked = (json.loads(line) for line in run(url, "bash", "-euc", shell.group(1)))
        assert (sent["width"], sent["height"], sent["outcome"]) == (1024, 768, "miss")
        assert (clicked["image_id"], clicked["outcome"]) == (sent["image_id"], "miss")
        printed = run(url, sys.executable, "-c", python.group(1))
    assert printed == [f"hit {clicked['scores']} (768, 1024)"]


def test_the_notebook_of_the_python_client_runs_as_it_stands(tmp_path: Path) -> None:
    """And its masks are those of the objects that it draws."""
    file = Path(__file__).parents[2] / "clients" / "python" / "examples" / "first_masks.ipynb"
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    with serving(tmp_path) as (_, url):
        for cell in cells:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"]).replace("http://127.0.0.1:8000", url)
                exec(compile(source, f"{file.name} {cell['id']}", "exec"), names)
    pixels = np.asarray(names["picture"])
    disc, box = (one.mask for one in names["both"])
    for mask, colour in ((names["disc"].mask, "f4a259"), (disc, "f4a259"), (box, "5b8e7d")):
        drawn = (pixels == list(bytes.fromhex(colour))).all(axis=2)
        assert (mask & drawn).sum() > 0.95 * (mask | drawn).sum()
    assert not names["refined"].mask[160, 240]
    assert len(names["grid"]) == 8
    assert len(names["everything"]) >= 2
    assert names["embedding"]
