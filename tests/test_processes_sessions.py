"""Sessions of servers as they run, each a process of its own, that are killed between two clicks."""

import base64
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from bench.serving.server import Server, running
from tests.doubles import image_bytes
from tests.redis_servers import Server as Redis
from tests.redis_servers import until

pytestmark = pytest.mark.slow

CLICKS = ([20, 15, 1], [30, 20, 1], [5, 5, 0])


def ask(server: Server, verb: str, session: str = "s", **body: Any) -> dict[str, Any]:
    """An answer, which must be a success."""
    address = f"http://127.0.0.1:{server.port}/api/sam/{verb}"
    answer = httpx.post(address, json={"session_id": session, **body}, timeout=120)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def click(server: Server, number: int, session: str = "s") -> dict[str, Any]:
    x, y, label = CLICKS[number]
    return ask(server, "click", session, points=[x, y], labels=[label])


def kill(server: Server) -> None:
    """No goodbye."""
    os.kill(server.pid, signal.SIGKILL)


def image_is_written(server: Server) -> bool:
    """Whether nothing waits to be written any more: images are written behind the answer, sessions are not."""
    return all(tier["writes_pending"] == 0 for tier in server.get("/v1/cache")["tiers"])


@pytest.mark.parametrize("lower", ["disk", "redis"])
def test_clicks_that_were_answered_outlive_a_kill(lower: str, valkey: tuple[Redis, str], tmp_path: Path) -> None:
    """The answers are those of a session that nothing happened to, masks included."""
    valkey[0].ask("FLUSHALL")
    # What is tested is not how fast this machine is today.
    given = {"model": "classical", "cache_dir": str(tmp_path / "cache"), "redis_timeout_s": "60"}
    given |= dict.fromkeys(("lookup_deadline_ms", "lease_patience_ms"), "60000")
    if lower == "redis":
        given["redis_url"] = valkey[1]
    image = base64.b64encode(image_bytes(1)).decode()
    with running(**given) as first:
        ask(first, "image", image=image)
        until(lambda: image_is_written(first), "the image to be written")
        answers = [click(first, 0)]
        kill(first)
    with running(**given) as second:
        answers.append(click(second, 1))
        kill(second)
    with running(**given) as third:
        answers.append(click(third, 2))
        ask(third, "image", "undisturbed", image=image)
        for number, answer in enumerate(answers):
            right = click(third, number, "undisturbed")
            assert {**answer, "outcome": None} == {**right, "outcome": None}
        assert third.get("/v1/cache")["sessions_unkept"] == 0
