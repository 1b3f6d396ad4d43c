"""What goes on while parts of the running stack are killed, frozen or filled, under eight clients who never pause.

In every case: no wrong mask, no ask that hangs, 503 (with ``Retry-After``) only for what is truly away, and everything
answered again within five seconds after the part is back.
"""

import asyncio
import time
from collections.abc import Callable

import pytest
from bench.stack.containers import Stack, bytes_moved, must
from tests.compose.crowd import Crowd, Report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECOVERY_S = 5.0
BACK_S = 90.0
"""Longest time for a container to come back, which is its own business and the engine's: TorchServe takes its time."""

NOT_PURGED = (503, "forget")
"""A purge that cannot reach a tier must not say that it was done."""
ASKS = ("mask", "image", "forget", "open", "click", "finish")
GONE = [(-1, what) for what in ASKS]
"""The proxy itself is away: there is no connection, or it broke."""


@pytest.fixture(scope="module")
def crowd(stack: Stack) -> Crowd:
    clients = Crowd(stack.url)
    asyncio.run(clients.learn())
    return clients


def through(crowd: Crowd, disturb: Callable[[], None]) -> tuple[Report, float]:
    """The clients at work while ``disturb`` runs, which returns when what it broke is back: the report, and when."""

    async def both() -> tuple[Report, float]:
        async with crowd.working() as report:
            await asyncio.sleep(2)
            await asyncio.to_thread(disturb)
            back = time.monotonic()
            await asyncio.sleep(RECOVERY_S + 4)
        return report, back

    report, back = asyncio.run(both())
    for one in report.seen:
        if one.status == 503:
            assert one.retry_after is not None, one
            assert int(one.retry_after) >= 1, one
    recovered = [one for one in report.seen if one.began > back + RECOVERY_S]
    assert recovered
    assert not report.bad(since=back + RECOVERY_S)
    print(f"{report}; last failure {max(0.0, report.last_failure() - back):.1f} s after the part was back")  # noqa: T201
    return report, back


def test_redis_dies_and_comes_back(stack: Stack, crowd: Crowd) -> None:
    """Nobody notices, but by the time that some answers take."""

    def disturb() -> None:
        stack.crash("redis")
        time.sleep(1)
        stack.wait_for("redis", BACK_S)

    report, _ = through(crowd, disturb)
    assert not report.bad(NOT_PURGED)


def test_redis_is_stopped_for_a_while(stack: Stack, crowd: Crowd) -> None:
    """The service goes on without it."""

    def disturb() -> None:
        must("docker", "stop", "-t", "2", stack.container("redis"))
        time.sleep(6)
        must("docker", "start", stack.container("redis"))
        stack.wait_for("redis", BACK_S)

    report, _ = through(crowd, disturb)
    assert not report.bad(NOT_PURGED)


def test_redis_freezes_for_ten_seconds(stack: Stack, crowd: Crowd) -> None:
    """A cache that does not answer is one that does not know: nobody waits for it."""

    def disturb() -> None:
        must("docker", "pause", stack.container("redis"))
        try:
            time.sleep(10)
        finally:
            must("docker", "unpause", stack.container("redis"))
        stack.wait_for("redis", BACK_S)

    report, _ = through(crowd, disturb)
    assert not report.bad(NOT_PURGED)


def test_redis_is_full_of_what_it_may_not_evict(stack: Stack, crowd: Crowd) -> None:
    """Writes are refused there; masks are still computed, and kept where there is room."""
    before = stack.redis("config", "get", "maxmemory").split()[-1]
    # Eight megabytes a call: whether there is room is asked once, when a script begins.
    fill = """
        for n = 1, 32 do
            local answer = redis.pcall('set', 'junk:' .. KEYS[1] .. ':' .. n, string.rep('x', 262144))
            if answer.err then return answer.err end
        end"""

    def disturb() -> None:
        stack.redis("config", "set", "maxmemory", "64mb")
        try:
            calls = 0
            for _ in range(4):  # again and again: what is evicted meanwhile makes room
                while "OOM" not in stack.redis("eval", fill, "1", str(calls)):
                    calls += 1
                    assert calls < 100, "Redis never says that it is full"
                time.sleep(1)
        finally:
            for call in range(calls):
                stack.redis("del", *(f"junk:{call}:{n}" for n in range(1, 33)))
            stack.redis("config", "set", "maxmemory", before)

    report, _ = through(crowd, disturb)
    assert not report.bad(NOT_PURGED)


def test_the_proxy_is_restarted(stack: Stack, crowd: Crowd) -> None:
    """It answers what it was asked before it goes; what it had computed is still there afterwards."""

    def disturb() -> None:
        must("docker", "restart", "-t", "30", stack.container("proxy"))
        stack.wait_for("proxy", BACK_S)

    report, _ = through(crowd, disturb)
    assert not report.bad(*GONE)


def test_the_proxy_dies(stack: Stack, crowd: Crowd) -> None:
    """What it was asked at that moment is lost with it, and perhaps what it was just writing down; nothing else is."""

    def disturb() -> None:
        stack.crash("proxy")
        time.sleep(0.5)
        stack.wait_for("proxy", BACK_S)

    report, _ = through(crowd, disturb)
    assert not report.bad(*GONE, (404, "mask"), (404, "click"))


def test_the_decoder_dies(stack: Stack, crowd: Crowd) -> None:
    """Masks that are known are still answered; a new one is 503 until the decoder is back."""
    _needs_engines(stack)

    def disturb() -> None:
        stack.crash("cpu")
        time.sleep(0.5)
        stack.wait_for("cpu", BACK_S)

    report, _ = through(crowd, disturb)
    assert not report.bad((503, "mask"), (503, "click"))


def test_the_encoder_dies_in_the_middle_of_an_encode(stack: Stack, crowd: Crowd) -> None:
    """Known images are clicked on as before; a new one is 503 until the encoder is back."""
    _needs_engines(stack)

    def disturb() -> None:
        pid = stack.pid("gpu")
        before, until = bytes_moved(pid), time.monotonic() + 60
        while bytes_moved(pid) - before < 300_000:  # an image is on its way: an encode begins
            assert time.monotonic() < until, "nobody encodes"
            time.sleep(0.002)
        stack.crash("gpu")
        time.sleep(0.5)
        stack.wait_for("gpu", BACK_S)

    report, _ = through(crowd, disturb)
    assert not report.bad((503, "image"), (503, "open"), (503, "mask"), (503, "click"))


def _needs_engines(stack: Stack) -> None:
    if stack.engines == "none":
        pytest.skip("the proxy computes by itself here: there is no container of an engine to kill")
