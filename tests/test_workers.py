"""One server of several processes behind one port: what one of them knows, all do, and whichever is asked."""

import asyncio
import base64
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from bench.serving.server import Server, running
from tests.doubles import image_bytes, until
from tests.inference.engines import disc_files
from tests.needs import needs
from tests.noting_engine import ENCODED_AT, HELD_WHILE, MOST_S, masks_of, undisturbed
from tests.redis_servers import Server as Redis
from tests.redis_servers import until as wait_until

from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ADMIN = "the-operator-of-this-server"
ROLES = {"encoder_path": Role.ENCODER, "decoder_path": Role.DECODER}


class Two:
    """A server of two worker processes."""

    def __init__(self, server: Server, notes: Path) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.port}"
        self._notes = notes

    @property
    def workers(self) -> list[int]:
        """Their process ids, in the order of their starts."""
        return children(self.server.pid)

    def encodes(self) -> list[int]:
        """The processes that encoded an image, once for each time."""
        lines = self._notes.read_text(encoding="ascii").splitlines() if self._notes.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith("encode ")]

    @contextmanager
    def alone(self, worker: int) -> Iterator[None]:
        """Only this worker, by its place in ``workers``, answers meanwhile: the other one stands still."""
        pids = self.workers
        other = pids[1 - worker]
        os.kill(other, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(other, signal.SIGCONT)

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """A JSON answer, over a connection of its own."""
        answer = httpx.request(method, f"{self.url}{path}", timeout=2 * MOST_S, **given)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def figures(self) -> Any:
        """What the server counts; both workers are there."""
        found: Any = {"workers": []}
        wait_until(lambda: found.update(self.ask("GET", "/v1/cache")) or len(found["workers"]) == 2, "both workers")
        return found


def children(pid: int) -> list[int]:
    """The processes that a process has spawned to do its work."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(word) for word in path.read_text(encoding="ascii").split()]
    return [one for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


@contextmanager
def two(notes: Path, **given: str) -> Iterator[Two]:
    patient = dict.fromkeys(("lookup_deadline_ms", "lease_patience_ms"), str(1e3 * MOST_S))
    stopped = {"worker_silence_s": "0"}  # ``Two.alone``: as long as the rest takes, on any machine
    settings = {
        "model": "tests.noting_engine:create",
        "workers": "2",
        "admin_key": ADMIN,
        **stopped,
        **patient,
        **given,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENCODED_AT, str(notes))
        patch.setenv(HELD_WHILE, str(notes.with_name("held")))
        with running(**settings) as server:
            found = Two(server, notes)
            wait_until(lambda: httpx.get(f"{found.url}/health/ready").json()["status"] == "ok", "both workers")
            yield found


@pytest.fixture(scope="module", params=["disk", "redis"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    given = {}
    if request.param == "redis":
        valkey: Redis = request.getfixturevalue("_valkey")
        valkey.ask("FLUSHALL")
        given = {"redis_url": valkey.url, "redis_timeout_s": str(MOST_S)}
    with two(tmp_path_factory.mktemp("workers") / "notes", **given) as found:
        yield found


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
        yield session


def totals(figures: Any) -> Counter[str]:
    return Counter({name: figures[name] for name in ("hits", "misses", "joined")})


async def test_forty_askers_of_a_new_image_cost_one_encode_and_whoever_is_asked_has_counted_all_of_them(
    pair: Two, http: aiohttp.ClientSession
) -> None:
    file, before, encodes = image_bytes(40), totals(pair.figures()), len(pair.encodes())

    async def upload() -> str:
        async with http.post(f"{pair.url}/v1/images", data=file, headers={"Content-Type": "image/png"}) as answer:
            assert answer.status == 200, await answer.text()
            return str((await answer.json())["outcome"])

    outcomes = Counter(await asyncio.gather(*(upload() for _ in range(40))))
    assert len(pair.encodes()) == encodes + 1
    assert outcomes["miss"] == 1
    for _ in range(6):  # each over a connection of its own, to whichever worker takes it
        counted = totals(pair.figures())
        assert counted - before == Counter(hits=outcomes["hit"], misses=1, joined=outcomes["joined"])


def test_a_click_at_the_one_worker_is_a_hit_at_the_other_and_both_masks_are_right(pair: Two) -> None:
    file = image_bytes(41)
    image_id = pair.ask("POST", "/v1/images", content=file, headers={"Content-Type": "image/png"})["image_id"]
    wait_until(lambda: all(tier["writes_pending"] == 0 for tier in pair.figures()["tiers"]), "the image to be written")
    answers = []
    for worker in (0, 1):
        with pair.alone(worker):
            prompt = {"points": [{"x": 20, "y": 15, "label": 1}]}
            answers.append(pair.ask("POST", f"/v1/images/{image_id}/masks", json=prompt))
        wait_until(lambda: all(tier["writes_pending"] == 0 for tier in pair.figures()["tiers"]), "the mask likewise")
    assert [answer["outcome"] for answer in answers] == ["miss", "hit"]
    right = asyncio.run(undisturbed(file))
    assert [masks_of(answer) for answer in answers] == [right, right]


def test_a_session_goes_on_at_whichever_worker_its_next_click_comes_to(pair: Two) -> None:
    image = base64.b64encode(image_bytes(42)).decode()
    pair.ask("POST", "/api/sam/image", json={"session_id": "s", "image": image})
    wait_until(lambda: all(tier["writes_pending"] == 0 for tier in pair.figures()["tiers"]), "the image to be written")
    answers = {}
    for session, order in (("s", (0, 1, 0)), ("undisturbed", (0, 0, 0))):
        if session != "s":
            pair.ask("POST", "/api/sam/image", json={"session_id": session, "image": image})
        for number, worker in enumerate(order):
            with pair.alone(worker):
                point = {"points": [[10 + 5 * number, 15]], "labels": [1]}
                answers[session] = pair.ask("POST", "/api/sam/click", json={"session_id": session, **point})
    assert {**answers["s"], "outcome": None} == {**answers["undisturbed"], "outcome": None}
    sessions = pair.figures()["sessions"]
    assert sessions == pair.figures()["sessions"] >= 2


def test_a_purge_at_one_worker_leaves_nothing_at_the_other(pair: Two) -> None:
    file = image_bytes(43)
    kind = {"Content-Type": "image/png"}
    image_id = pair.ask("POST", "/v1/images", content=file, headers=kind)["image_id"]
    for worker in (0, 1):
        with pair.alone(worker):
            assert pair.ask("POST", "/v1/images", content=file, headers=kind)["outcome"] == "hit"
    key = {"X-API-Key": ADMIN}
    assert pair.ask("DELETE", f"/v1/cache?image_id={image_id}", headers=key)["deleted"] > 0
    for worker in (0, 1):
        with pair.alone(worker):
            assert httpx.get(f"{pair.url}/v1/images/{image_id}").status_code == 404


def restarts(pair: Two) -> int:
    """How often workers were started anew, all together: their places and the order of their processes may differ."""
    return sum(one["restarts"] for one in pair.figures()["workers"])


def test_settings_that_are_changed_at_one_worker_are_those_of_both_and_of_one_that_is_started_later(pair: Two) -> None:
    budget = 64 << 20
    key = {"X-API-Key": ADMIN}
    pair.ask("PUT", "/v1/cache/settings", json={"memory_bytes": budget, "policy": "lru"}, headers=key)

    def changed() -> bool:
        found = pair.figures()
        kept = {tier["tier"]: tier["budget"] for tier in found["tiers"]}
        assert (found["settings"]["memory_bytes"], found["settings"]["policy"]) == (budget, "lru")
        return bool(kept["memory"] == budget)

    assert changed()
    for worker in (0, 1):
        with pair.alone(worker):
            settings = pair.ask("GET", "/v1/cache")["settings"]
            assert (settings["memory_bytes"], settings["policy"]) == (budget, "lru")
    for first in (1, 0):  # one of both, and then both
        before, killed = restarts(pair), pair.workers[first:]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: restarts(pair) == before + len(killed), "those that were killed to be started anew")  # noqa: B023 -- called at once
        assert changed(), "also where none was left that knew of it"


def test_a_worker_that_is_killed_is_started_anew_and_no_count_that_was_told_goes_back(pair: Two) -> None:
    for seed in range(44, 50):
        pair.ask("POST", "/v1/images", content=image_bytes(seed), headers={"Content-Type": "image/png"})
    told, before = pair.figures(), restarts(pair)
    answers = httpx.get(f"{pair.url}/metrics").text
    victim = pair.workers[0]
    os.kill(victim, signal.SIGKILL)
    health = httpx.get(f"{pair.url}/health/ready")  # the other one answers, and says who is missing
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    wait_until(lambda: httpx.get(f"{pair.url}/health/ready").json()["status"] == "ok", "both workers")
    now = pair.figures()
    assert victim not in pair.workers
    assert restarts(pair) == before + 1
    assert totals(now) >= totals(told)
    again = httpx.get(f"{pair.url}/metrics").text
    for line in [line for line in answers.splitlines() if not line.startswith("#")]:
        name, _, value = line.rpartition(" ")
        if name.partition("{")[0].endswith(("_total", "_count")) and "worker_cpu" not in name:
            found = [one for one in again.splitlines() if one.startswith(f"{name} ")]
            assert float(found[0].rpartition(" ")[2]) >= float(value), name


def test_a_worker_that_hangs_is_killed_and_started_anew(tmp_path: Path) -> None:
    """It takes connections all the while, as the kernel does that for it, and answers none of them."""
    with two(tmp_path / "notes", worker_silence_s="15") as pair:
        before, (hanging, other) = restarts(pair), pair.workers
        os.kill(hanging, signal.SIGSTOP)
        wait_until(lambda: hanging not in pair.workers and len(pair.workers) == 2, "the hanging one to be replaced")
        wait_until(lambda: len(pair.figures()["workers"]) == 2, "both workers")
        assert restarts(pair) == before + 1
        assert other in pair.workers
        wait_until(lambda: pair.ask("GET", "/health/ready")["status"] == "ok", "both to be well")


async def test_told_to_stop_all_workers_answer_what_is_in_flight_and_go(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with two(tmp_path / "notes") as pair:
        pids = pair.workers
        held = tmp_path / "held"
        held.touch()

        async def upload(seed: int) -> int:
            kind = {"Content-Type": "image/png"}
            async with http.post(f"{pair.url}/v1/images", data=image_bytes(seed), headers=kind) as answer:
                return answer.status

        sending = [asyncio.create_task(upload(seed)) for seed in range(8)]
        await until(lambda: len(pair.encodes()) > 0)
        await asyncio.sleep(1.0)  # time for the others to come in
        os.kill(pair.server.pid, signal.SIGTERM)
        await asyncio.sleep(0.5)
        held.unlink()
        assert await asyncio.gather(*sending) == [200] * 8
        await until(lambda: not any(is_running(pid) for pid in (*pids, pair.server.pid)))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_model_with_weights_is_loaded_by_one_process_that_is_started_anew_when_it_dies(tmp_path: Path) -> None:
    needs("onnxruntime")
    store = ModelStore(tmp_path / "models")
    for name, role in ROLES.items():
        store.add(disc_files()[name], name="my-sam", role=role)
    given = {"model": "my-sam", "models_dir": str(store.folder), "engine": "onnx"}
    kind, prompt = {"Content-Type": "image/png"}, {"points": [{"x": 20, "y": 15, "label": 1}]}

    def mask(found: Two, seed: int) -> list[str]:
        image_id = found.ask("POST", "/v1/images", content=image_bytes(seed), headers=kind)["image_id"]
        return masks_of(found.ask("POST", f"/v1/images/{image_id}/masks", json=prompt))

    with running(**given) as alone:
        right = [mask(Two(alone, tmp_path), seed) for seed in (1, 2)]
    with two(tmp_path / "notes", **given) as found:
        engine, *workers = found.workers
        assert len(workers) == 2
        assert not [pid for pid in workers if b"onnxruntime" in Path(f"/proc/{pid}/maps").read_bytes()]
        assert b"onnxruntime" in Path(f"/proc/{engine}/maps").read_bytes()
        [model] = found.ask("GET", "/v1/models")["models"]
        assert model["engine"].startswith("in other processes")
        assert mask(found, 1) == right[0]
        os.kill(engine, signal.SIGKILL)
        wait_until(lambda: engine not in found.workers and len(found.workers) == 3, "the engine to be started anew")

        def answers() -> bool:
            sent = httpx.post(f"{found.url}/v1/images", content=image_bytes(2), headers=kind, timeout=MOST_S)
            return sent.status_code == 200

        wait_until(answers, "the engine to be there again")
        assert mask(found, 2) == right[1]
        pids = [found.server.pid, *found.workers]
    assert not any(is_running(pid) for pid in pids)
