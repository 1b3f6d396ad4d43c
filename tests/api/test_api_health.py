"""``/health/ready`` tells what is known: of the model by its last calls, of the tiers though nobody asks them."""

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import SecretStr
from tests.doubles import LONG_S, until
from tests.redis_servers import Server as Redis
from tests.redis_servers import program, serving

from labeling_ground.errors import BackendFailed
from labeling_ground.service.models import EngineHealth
from labeling_ground.service.queues import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Running, Start, ToyBackend

pytestmark = pytest.mark.anyio

SECOND = "tests.api.test_api_models:second"


async def ready(server: "Running") -> tuple[int, str, dict[str, str]]:
    answer = await server.client.get("/health/ready")
    found: dict[str, Any] = answer.json()
    return answer.status_code, found["status"], found["checks"]


async def until_ready_says(server: "Running", status: str) -> dict[str, str]:
    """Wait for it, and give the checks."""
    async with asyncio.timeout(LONG_S):
        while True:
            _, found, checks = await ready(server)
            if found == status:
                return checks
            await asyncio.sleep(0.01)


# --- the model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [BackendFailed("CUDA error: device lost"), ZeroDivisionError("a bug of its own")])
async def test_an_engine_that_fails_ten_times_in_a_row_is_failing_until_it_answers_again(
    start: "Start", make_image: "Callable[..., bytes]", error: Exception
) -> None:
    async with start() as server:
        server.backend.fail_encode = error
        for failed in range(10):
            assert (await ready(server))[:2] == (200, "ok"), f"after {failed}"
            answer = await server.client.post("/v1/images", content=make_image())
            assert answer.status_code >= 500
        status, health, checks = await ready(server)
        assert (status, health) == (503, "failing")
        assert str(error) in checks["encoder"]
        assert "decoder" not in checks
        server.backend.fail_encode = None
        await until_ready_says(server, "ok")


@pytest.mark.parametrize("half", ["encoder", "decoder"])
async def test_an_engine_whose_every_place_is_held_by_a_late_call_hangs_and_is_failing_until_one_ends(
    start: "Start", make_image: "Callable[..., bytes]", half: str
) -> None:
    """Also where nobody waits for these calls any more; with a place left it goes on."""
    deadlines = {"encode_deadline_s": 0.3, "decode_deadline_s": 0.3}
    async with start(encode_workers=2, decode_workers=2, **deadlines) as server:
        may_go_on = server.backend.encode_may_go_on if half == "encoder" else server.backend.decode_may_go_on
        queue = getattr(server.app_state.predictor, {"encoder": "encode_queue", "decoder": "decode_queue"}[half])
        known = await server.send_image(make_image())

        async def ask(number: int) -> int:
            if half == "encoder":
                return (await server.client.post("/v1/images", content=make_image())).status_code
            return (await server.click(known, 9 + number, 9)).status_code

        may_go_on.clear()
        assert await ask(0) == 503
        assert queue.running == 1
        assert (await ready(server))[:2] == (200, "ok"), "one of two places is left"
        asks = asyncio.create_task(ask(1))
        await server.until(lambda: queue.running == 2)
        checks = await until_ready_says(server, "failing")
        assert await asks == 503
        assert "hangs" in checks[half]
        assert (await ready(server))[0] == 503
        may_go_on.set()
        await until_ready_says(server, "ok")
        assert await ask(2) == 200


@pytest.mark.parametrize("half", ["encoder", "decoder", "detector"])
async def test_each_half_that_hangs_is_failing_also_where_its_asker_has_left(half: str) -> None:
    now, may_end = [0.0], asyncio.Event()
    queue, health = FairQueue(half, 1, 9, deadline_s=60.0, clock=lambda: now[0]), EngineHealth()
    health.watch(half, queue)
    async with queue.slot("public") as place:
        asker = asyncio.create_task(place.call(may_end.wait))
        await asyncio.sleep(0)
        asker.cancel()
    now[0] = 59.0
    assert not health.failing()
    now[0] = 61.0
    assert "hangs" in health.failing()[half]
    assert not health.wants_trial
    may_end.set()
    await until(lambda: not health.failing())


async def test_a_trial_that_hangs_ends_with_the_deadline_and_keeps_no_other_model_from_its_own(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """Also that of the default model, before it was ever ready; a model that is being tried is in use."""
    async with start(models=(SECOND,), engine_failures=1, encode_deadline_s=0.2, encode_workers=2) as server:
        file = make_image()
        assert (await server.client.post(f"/v1/images?model={SECOND}", content=file)).status_code == 200
        other = server.app_state.models.loaded[SECOND]
        second: Any = other.predictor.backend
        server.backend.fail_encode = second.fail_encode = BackendFailed("It is away.")
        server.backend.encode_may_go_on.clear()
        for model in ("", SECOND):
            answer = await server.client.post(f"/v1/images?model={model}", content=make_image())
            assert answer.status_code == 503
        checks = await until_ready_says(server, "failing")
        assert checks["encoder"].endswith("has not answered within 0.2 s.")
        second.fail_encode = server.backend.fail_encode = None
        await server.until(lambda: not other.failing())
        server.backend.encode_may_go_on.set()
        await until_ready_says(server, "ok")


async def test_an_engine_that_would_end_the_process_is_failing_and_the_server_goes_on(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    async with start(engine_failures=1) as server:
        server.backend.fail_encode = SystemExit(3)
        answer = await server.client.post("/v1/images", content=make_image())
        assert (answer.status_code, answer.json()["detail"]) == (503, "The engine wanted to end the process.")
        assert (await ready(server))[:2] == (503, "failing")
        server.backend.fail_encode = None
        await until_ready_says(server, "ok")


async def test_a_decoder_that_answers_nonsense_is_failing_too_and_an_answer_in_between_begins_anew(
    start: "Start",
    make_image: "Callable[..., bytes]",
    make_backend: "type[ToyBackend]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = make_backend()
    decode, answers_nonsense = backend.decode, asyncio.Event()

    async def decode_or_nonsense(*asked: Any) -> Any:
        found = await decode(*asked)
        if answers_nonsense.is_set():
            found[0].masks[0].logits[:] = np.nan
        return found

    monkeypatch.setattr(backend, "decode", decode_or_nonsense)
    async with start(engine_failures=3, backend=backend) as server:
        image_id = await server.send_image(make_image())
        for x in range(2):
            server.backend.fail_decode = BackendFailed("It is away.")
            assert (await server.click(image_id, x, 1)).status_code == 503
        server.backend.fail_decode = None
        assert (await server.click(image_id, 2, 1)).status_code == 200
        answers_nonsense.set()
        for x in range(3, 6):
            assert (await ready(server))[1] == "ok"
            assert (await server.click(image_id, x, 1)).status_code == 503
        status, health, checks = await ready(server)
        assert (status, health) == (503, "failing")
        assert "no numbers" in checks["decoder"]


async def test_bad_input_says_nothing_about_the_engine(start: "Start", make_image: "Callable[..., bytes]") -> None:
    async with start(engine_failures=1) as server:
        image_id = await server.send_image(make_image())
        assert (await server.click(image_id, 10_000, 1)).status_code == 422
        assert (await server.client.post("/v1/images", content=b"no image")).status_code == 415
        assert (await ready(server))[1] == "ok"


def test_halves_fail_each_by_itself() -> None:
    health = EngineHealth(2)
    for _ in range(2):
        with pytest.raises(BackendFailed), health.call("encoder"):
            raise BackendFailed("away")
        with health.call("decoder"):
            pass
    assert health.failing() == {"encoder": "The last 2 calls failed: away"}


# --- the tiers, with no traffic at all ---------------------------------------------------------------------------


async def test_a_wrong_password_is_known_at_once_and_a_right_one_soon(start: "Start") -> None:
    with serving(program(), "--requirepass", "geheim") as redis:
        url = SecretStr(redis.url.replace("redis://", "redis://:falsch@"))
        async with start(redis_url=url, probe_s=0.05, breaker_reset_s=0.1) as server:
            status, health, checks = await ready(server)
            assert (status, health) == (200, "degraded")
            assert "password" in checks["redis"]
            assert "falsch" not in checks["redis"]
            redis.ask("CONFIG", "SET", "requirepass", "falsch", password="geheim")
            await until_ready_says(server, "ok")


async def test_a_redis_that_went_or_is_full_is_known_though_nobody_asks_for_anything(start: "Start") -> None:
    with serving(program(), "--maxmemory-policy", "noeviction", "--maxmemory", "100mb") as redis:
        async with start(redis_url=SecretStr(redis.url), probe_s=0.05, breaker_reset_s=0.1) as server:
            assert (await ready(server))[1] == "ok"
            redis.ask("CONFIG", "SET", "maxmemory", 1)
            assert "full" in (await until_ready_says(server, "degraded"))["redis"]
            redis.ask("CONFIG", "SET", "maxmemory", "100mb")
            await until_ready_says(server, "ok")
            redis.kill()
            await until_ready_says(server, "degraded")
            redis.start()
            await until_ready_says(server, "ok")


async def test_a_redis_that_answers_nothing_is_known(start: "Start", valkey: tuple[Redis, str]) -> None:
    async with start(redis_url=SecretStr(valkey[1]), probe_s=0.05, breaker_reset_s=0.1) as server:
        assert (await ready(server))[1] == "ok"
        valkey[0].freeze()
        try:
            assert "answer" in (await until_ready_says(server, "degraded"))["redis"]
        finally:
            valkey[0].thaw()
        await until_ready_says(server, "ok")


async def test_a_disk_tier_that_is_dead_from_the_start_is_known_before_anybody_asks_for_anything(
    start: "Start", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk on which not even an index can be made; when there is room, it comes back by itself."""

    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("labeling_ground.cache.disk.folder.make", full)
        async with start() as server:
            status, found, checks = await ready(server)
            assert (status, found) == (200, "degraded")
            assert "is full" in checks["disk"]
            patched.undo()
            assert (await until_ready_says(server, "ok"))["disk"] == "ok"
