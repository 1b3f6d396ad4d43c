"""``/api/sam``, exactly as existing pages speak it."""

import asyncio
import base64
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from tests.doubles import bits_of, errors_of, unkept
from tests.redis_servers import program, serving

from labeling_ground import key as keys
from labeling_ground.cache.disk.folder import SESSIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from tests.api.conftest import Running, Start
    from tests.redis_servers import Server as Redis

pytestmark = pytest.mark.anyio


async def send(server: "Running", verb: str, session: str = "s", **body: Any) -> httpx.Response:
    return await server.client.post(f"/api/sam/{verb}", json={"session_id": session, **body})


async def open_image(server: "Running", file: bytes, session: str = "s") -> httpx.Response:
    answer = await send(server, "image", session, image=base64.b64encode(file).decode())
    assert answer.status_code == 200, answer.text
    return answer


def mask_of(answer: httpx.Response) -> "NDArray[np.bool_]":
    assert answer.status_code == 200, answer.text
    return bits_of(base64.b64decode(answer.json()["masks"]))


async def test_fields_and_messages_are_the_fixed_ones(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """The table of the design, word for word; more fields are fine, fewer are not."""
    opened = await open_image(server, make_image(64, 48))
    assert opened.json()["message"] == "Images received successfully"
    click = await send(server, "click", points=[30, 20], labels=[1])
    assert click.json()["message"] == "Images processed successfully"
    assert mask_of(click).shape == (48, 64)
    assert mask_of(click)[20, 30]
    assert click.json()["points"] == [{"x": 30, "y": 20, "label": 1}]
    assert click.json()["outcome"] == "miss"
    assert 0 <= click.json()["score"] <= 1
    rect = await send(server, "rect", startX=50, startY=40, endX=10, endY=8)
    assert rect.json()["message"] == "Images processed successfully"
    assert rect.json()["box"] == [10, 8, 50, 40]
    assert mask_of(rect)[25, 30]
    done = await send(server, "finish_click")
    assert done.json() == {"message": "Finish successfully", "points": []}


async def test_clicks_add_up_and_finish_keeps_the_image(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """Each answer lists all clicks so far; after finishing the next object starts from none."""
    await open_image(server, make_image())
    await send(server, "click", points=[10, 10], labels=[1])
    both = await send(server, "click", points=[50, 40], labels=[0])
    assert [(p["x"], p["y"], p["label"]) for p in both.json()["points"]] == [(10, 10, 1), (50, 40, 0)]
    await send(server, "finish_click")
    fresh = await send(server, "click", points=[20, 20])
    assert fresh.json()["points"] == [{"x": 20, "y": 20, "label": 1}]


async def test_several_clicks_come_in_either_form(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """``[x, y, x, y]`` and ``[[x, y], [x, y]]`` mean the same, labels in step."""
    await open_image(server, make_image())
    flat = await send(server, "click", points=[1, 2, 3, 4], labels=[1, 0])
    await send(server, "finish_click")
    pairs = await send(server, "click", points=[[1, 2], [3, 4]], labels=[1, 0])
    assert flat.json()["points"] == pairs.json()["points"]
    assert pairs.json()["outcome"] == "hit"


async def test_a_session_click_and_a_stateless_one_share_the_cache(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """A session is no part of a key: the same prompt is a hit for everyone, whichever way it comes."""
    file = make_image()
    opened = await open_image(server, file, "one")
    await open_image(server, file, "two")
    assert (await send(server, "click", "one", points=[9, 9])).json()["outcome"] == "miss"
    assert (await send(server, "click", "two", points=[9, 9])).json()["outcome"] == "hit"
    assert (await server.click(opened.json()["image_id"], 9, 9)).json()["outcome"] == "hit"


async def test_a_box_replaces_the_clicks_and_later_clicks_refine_it(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """A negative click may come first after a box, and takes away from it."""
    await open_image(server, make_image(64, 48))
    await send(server, "click", points=[5, 5])
    rect = await send(server, "rect", startX=10, startY=8, endX=54, endY=40)
    assert rect.json()["points"] == []
    assert not mask_of(rect)[5, 5]
    refined = await send(server, "click", points=[12, 10], labels=[0])
    assert refined.json()["box"] == [10, 8, 54, 40]
    assert mask_of(rect)[10, 12]
    assert not mask_of(refined)[10, 12]
    assert mask_of(refined)[30, 50]


async def test_undo_takes_the_last_thing_back(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """Click by click, then the box; with nothing left the mask is empty, and undoing more is no error."""
    await open_image(server, make_image(64, 48))
    await send(server, "rect", startX=10, startY=8, endX=54, endY=40)
    await send(server, "click", points=[20, 20])
    await send(server, "click", points=[30, 30])
    one = await send(server, "undo")
    assert (one.json()["points"], one.json()["outcome"]) == ([{"x": 20, "y": 20, "label": 1}], "hit")
    only_box = await send(server, "undo")
    assert (only_box.json()["points"], only_box.json()["outcome"]) == ([], "hit")
    for _ in range(2):
        nothing = await send(server, "undo")
        assert nothing.json()["points"] == []
        assert "box" not in nothing.json()
        assert not mask_of(nothing).any()
        assert mask_of(nothing).shape == (48, 64)


async def test_fifty_clicks_at_once_are_fifty_points(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """None is lost: all are there in the end, and each was in some answer."""
    async with start() as server:
        await open_image(server, make_image(64, 48))
        wanted = {(x, y) for x in range(0, 50, 5) for y in range(0, 25, 5)}
        answers = await asyncio.gather(*(send(server, "click", points=list(point)) for point in wanted))
        assert {answer.status_code for answer in answers} == {200}
        last = await send(server, "click", points=[60, 40])
        kept = [(point["x"], point["y"]) for point in last.json()["points"]]
        assert len(kept) == 51
        assert set(kept) == wanted | {(60, 40)}
        seen = {(point["x"], point["y"]) for answer in answers for point in answer.json()["points"]}
        assert seen == wanted


async def test_another_image_in_the_same_session_is_the_new_image(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """Its clicks start from none, and masks have its size."""
    await open_image(server, make_image(64, 48))
    await send(server, "click", points=[60, 40])
    opened = await open_image(server, make_image(32, 24))
    outside = await send(server, "click", points=[60, 40])
    assert (outside.status_code, outside.json()["type"]) == (422, "urn:labeling-ground:problem:bad-prompt")
    inside = await send(server, "click", points=[10, 10])
    assert mask_of(inside).shape == (24, 32)
    assert inside.json()["image_id"] == opened.json()["image_id"]
    assert len(inside.json()["points"]) == 1


async def test_base64_comes_as_browsers_and_tools_write_it(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """With a ``data:`` prefix, with line breaks of either kind; and extra fields are ignored."""
    file = make_image()
    text = base64.b64encode(file).decode()
    ids = set()
    for written in (
        text,
        f"data:image/png;base64,{text}",
        "\n".join(textwrap.wrap(text, 76)),
        "\r\n".join(textwrap.wrap(text, 76)) + "\r\n",
    ):
        answer = await send(server, "image", image=written, filename="1.png", extra={"a": [1]})
        assert answer.status_code == 200
        ids.add(answer.json()["image_id"])
    assert len(ids) == 1
    assert server.backend.encodes == 1


async def test_a_click_that_fails_does_not_count(
    server: "Running", make_image: "Callable[..., bytes]", backend_failure: Exception
) -> None:
    """Not when the model fails, not when the server has a bug, not when one of several is bad."""
    await open_image(server, make_image(64, 48))
    await send(server, "click", points=[10, 10])
    for failure, status in ((backend_failure, 503), (ZeroDivisionError("a bug"), 500)):
        server.backend.fail_decode = failure
        assert (await send(server, "click", points=[20, 20])).status_code == status
    server.backend.fail_decode = None
    assert (await send(server, "click", points=[30, 30, 64, 0], labels=[1, 1])).status_code == 422
    kept = await send(server, "click", points=[40, 40])
    assert [(point["x"], point["y"]) for point in kept.json()["points"]] == [(10, 10), (40, 40)]


async def test_an_unknown_session_is_told_what_to_do(server: "Running") -> None:
    """404 for every verb, with a sentence that names the remedy."""
    bodies: dict[str, dict[str, Any]] = {
        "click": {"points": [1, 1]},
        "rect": {"startX": 1, "startY": 1, "endX": 5, "endY": 5},
        "undo": {},
        "finish_click": {},
    }
    for verb, body in bodies.items():
        answer = await send(server, verb, "never-opened", **body)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:labeling-ground:problem:unknown-session")
        assert "/api/sam/image" in answer.json()["detail"]


async def test_a_session_ends_when_it_was_idle_for_too_long(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """The same idle time as the cache's."""
    async with start(idle_s=0.2) as server:
        await open_image(server, make_image())
        await asyncio.sleep(0.35)
        assert (await send(server, "finish_click")).status_code == 404


async def test_sessions_are_bounded(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """The one that was idle for longest makes room, and a session holds so many clicks."""
    async with start(max_sessions=2, max_points=2) as server:
        file = make_image()
        await open_image(server, file, "a")
        await open_image(server, file, "b")
        await send(server, "finish_click", "a")
        await open_image(server, file, "c")
        found = [(await send(server, "finish_click", name)).status_code for name in "abc"]
        assert found == [200, 404, 200]
        await send(server, "click", "c", points=[1, 1, 2, 2])
        full = await send(server, "click", "c", points=[3, 3])
        assert (full.status_code, full.json()["type"]) == (413, "urn:labeling-ground:problem:too-large")
        assert (await send(server, "click", "c", points=[1] * 2000)).status_code == 413


async def test_odd_session_names_are_just_names(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """Slashes, line breaks, NUL and other scripts name sessions that are told apart."""
    names = ["a/b", "a\nb", "a\0b", "작업자-7", "🙂", " ", "x" * 512]
    for name in names:
        await open_image(server, make_image(64, 48), name)
    for index, name in enumerate(names):
        answer = await send(server, "click", name, points=[index, index])
        assert answer.json()["points"] == [{"x": index, "y": index, "label": 1}]


@pytest.mark.parametrize("refine", [True, False])
async def test_a_second_click_refines_the_first_ones_mask_unless_that_is_switched_off(
    start: "Start", make_image: "Callable[..., bytes]", refine: bool
) -> None:
    """Told by the cache: the same prompt, with the first mask by reference or without, is a hit."""
    async with start(session_refine=refine) as server:
        image_id = (await open_image(server, make_image())).json()["image_id"]
        first = await send(server, "click", points=[10, 10], labels=[1])
        second = await send(server, "click", points=[40, 30], labels=[0])
        points = [{"x": 10, "y": 10, "label": 1}, {"x": 40, "y": 30, "label": 0}]
        parent = {"mask_input": {"prediction_id": first.json()["prediction_id"], "index": 0}}
        for prompt, same in (({"points": points, **parent}, refine), ({"points": points}, not refine)):
            asked = await server.client.post(f"/v1/images/{image_id}/masks", json=prompt)
            assert (asked.json()["prediction_id"] == second.json()["prediction_id"]) is same
            assert (asked.json()["outcome"] == "hit") is same
        undone = await send(server, "undo")
        assert (undone.json()["outcome"], undone.json()["prediction_id"]) == ("hit", first.json()["prediction_id"])


@pytest.mark.parametrize("box", [False, True])
async def test_a_click_refines_the_same_mask_though_that_and_all_before_it_are_purged(
    server: "Running", make_image: "Callable[..., bytes]", box: bool
) -> None:
    """They are predicted again, each from its own clicks."""
    file = make_image()
    for name in ("same", "s"):
        await open_image(server, file, name)
        if box:
            await send(server, "rect", name, startX=2, startY=2, endX=60, endY=44)
        for x in (10, 20):
            await send(server, "click", name, points=[x, 10], labels=[1])
    undisturbed = await send(server, "click", "same", points=[30, 20], labels=[1])
    assert (await server.client.delete("/v1/cache")).json()["deleted"] > 0
    await server.send_image(file)
    again = await send(server, "click", points=[30, 20], labels=[1])
    assert again.json() == undisturbed.json()
    undone = await send(server, "undo")
    assert undone.json()["outcome"] == "hit"


async def clicked(server: "Running", name: str, count: int) -> None:
    """Wait until so many clicks of a session have come."""
    while len((await server.app_state.sessions.look(keys.PUBLIC, name)).clicks) < count:  # noqa: ASYNC110 -- sets no event
        await asyncio.sleep(0)


async def test_clicks_that_did_not_wait_for_each_other_are_predicted_again_as_they_were(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """The second had nothing to refine, and the third refines the second."""
    file = make_image()
    server.backend.decode_may_go_on.clear()
    clicks = []
    for name in ("same", "s"):
        await open_image(server, file, name)
        for x in (10, 20):
            clicks.append(asyncio.create_task(send(server, "click", name, points=[x, 10], labels=[1])))
            await clicked(server, name, x // 10)
    server.backend.decode_may_go_on.set()
    await asyncio.gather(*clicks)
    undisturbed = await send(server, "click", "same", points=[30, 20], labels=[1])
    assert (await server.client.delete("/v1/cache")).json()["deleted"] > 0
    await server.send_image(file)
    again = await send(server, "click", points=[30, 20], labels=[1])
    assert again.json() == undisturbed.json()


async def test_an_image_that_came_later_stays_though_the_earlier_one_took_longer(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """The session is where the annotator went last."""
    known, slow = make_image(), make_image()
    later = await server.send_image(known)
    server.backend.encode_may_go_on.clear()
    earlier = asyncio.create_task(send(server, "image", image=base64.b64encode(slow).decode()))
    await server.until(lambda: server.backend.encodes == 2)
    await open_image(server, known)
    server.backend.encode_may_go_on.set()
    assert (await earlier).status_code == 200
    click = await send(server, "click", points=[10, 10], labels=[1])
    assert click.json()["image_id"] == later


async def test_a_session_outlives_its_server(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """Clicks, box and the mask that the next click refines: all is as if nothing had happened."""
    file = make_image(64, 48)
    async with start() as before:
        for name in ("s", "same"):
            await open_image(before, file, name)
            await send(before, "rect", name, startX=10, startY=8, endX=54, endY=40)
            await send(before, "click", name, points=[30, 20])
        undisturbed = await send(before, "click", "same", points=[12, 10], labels=[0])
    async with start() as after:
        disturbed = await send(after, "click", points=[12, 10], labels=[0])
        assert disturbed.json() == {**undisturbed.json(), "outcome": "hit"}
        assert len((await send(after, "undo")).json()["points"]) == 1
        await send(after, "finish_click")
    async with start() as again:
        assert (await send(again, "click", points=[30, 20])).json()["points"] == [{"x": 30, "y": 20, "label": 1}]
        assert (await send(again, "click", "nobody", points=[30, 20])).status_code == 404


async def test_without_a_lower_tier_a_session_ends_with_its_server(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    async with start(disk_bytes=0) as before:
        await open_image(before, make_image())
        assert (await send(before, "click", points=[5, 5])).status_code == 200
    async with start(disk_bytes=0) as after:
        assert (await send(after, "click", points=[5, 5])).json()["type"].endswith("unknown-session")


async def test_sessions_that_cannot_be_kept_leave_the_cache_alone(
    start: "Start", make_image: "Callable[..., bytes]", tmp_path: Path
) -> None:
    """A file of sessions that is none costs no look-up its answer."""
    (tmp_path / "cache" / SESSIONS).mkdir(parents=True)
    async with start(cache_dir=tmp_path / "cache", breaker_reset_s=1000) as server:
        await open_image(server, make_image())
        for _ in range(10):
            assert (await send(server, "click", points=[5, 5])).status_code == 200
        assert unkept(server.app_state.sessions) >= 10
        [tier] = server.app_state.predictor.store.lower
        assert tier.health.breaker.state == "closed"
        assert errors_of(tier)["failed"] >= 5


async def test_a_session_on_a_purged_image_is_told_so_after_a_restart_too(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    async with start() as before:
        opened = await open_image(before, make_image())
        assert (await before.client.delete(f"/v1/images/{opened.json()['image_id']}")).status_code == 200
        found = [await send(before, "click", points=[5, 5])]
    async with start() as after:
        found.append(await send(after, "click", points=[5, 5]))
    assert [answer.status_code for answer in found] == [404, 404]
    assert all(answer.json()["type"].endswith("unknown-image") for answer in found)


async def test_two_servers_that_share_a_redis_share_sessions(
    start: "Start", make_image: "Callable[..., bytes]", valkey: "tuple[Redis, str]"
) -> None:
    """Every click counts once, wherever it comes and however many come at the same moment."""
    redis, url = valkey
    redis.ask("FLUSHALL")
    # What is tested is not how fast this machine is today.
    given = {"redis_url": url, "disk_bytes": 0, "redis_timeout_s": 60, "lease_patience_ms": 60_000}
    async with start(**given) as one, start(**given) as other:
        await open_image(one, make_image(64, 48))
        wanted = {(x, y) for x in range(0, 50, 10) for y in range(0, 24, 4)}
        asks = [send((one, other)[(x // 10 + y // 4) % 2], "click", points=[x, y]) for x, y in wanted]
        answers = await asyncio.gather(*asks)
        assert [answer.status_code for answer in answers] == [200] * 30
        last = await send(other, "click", points=[60, 40])
        assert {(p["x"], p["y"]) for p in last.json()["points"]} == wanted | {(60, 40)}
        assert len(last.json()["points"]) == 31
        await open_image(other, make_image(32, 24))
        assert (await send(one, "click", points=[60, 40])).status_code == 422
        assert mask_of(await send(one, "click", points=[9, 9])).shape == (24, 32)
        assert len((await send(other, "undo")).json()["points"]) == 0
        for server in (one, other):
            assert (await server.client.get("/v1/cache")).json()["sessions_unkept"] == 0


async def test_two_servers_lose_no_answered_click_while_their_redis_is_full_or_gone(
    start: "Start", make_image: "Callable[..., bytes]", tmp_path: Path
) -> None:
    """Full, it keeps sessions; gone, clicks are answered 503 and were not made; health says so; then all goes on."""
    with serving(program(), "--maxmemory-policy", "noeviction", "--maxmemory", "100mb") as redis:
        given = {"redis_url": redis.url, "breaker_reset_s": 0.1, "probe_s": 0.05, "redis_timeout_s": 60}
        given |= {"session_patience_ms": 60_000, "lease_patience_ms": 60_000, "disk_bytes": "64MiB"}
        async with (
            start(cache_dir=tmp_path / "one", **given) as one,
            start(cache_dir=tmp_path / "other", **given) as other,
        ):
            await one.until(lambda: one.app_state.sessions.is_shared)
            file = make_image(64, 48)
            for server in (other, one):  # each has the image itself: a full Redis takes no files
                await open_image(server, file)
            redis.ask("CONFIG", "SET", "maxmemory", 1)
            answered = []
            for number in range(10):
                answer = await send((one, other)[number % 2], "click", points=[number, 10])
                answered.append((float(number), 10.0))
                assert [(p["x"], p["y"]) for p in answer.json()["points"]] == answered
            redis.kill()
            for server in (one, other):
                answer = await send(server, "click", points=[60, 10])
                assert answer.status_code == 503
                assert "Retry-After" in answer.headers
                assert "was not made" in answer.json()["detail"]
                health = (await server.client.get("/health/ready")).json()
                assert health["status"] == "degraded"
                assert health["checks"]["sessions"].startswith("failing")
            redis.start()
            async with asyncio.timeout(60):
                while (answer := await send(other, "click", points=[60, 10])).status_code != 200:  # noqa: ASYNC110 -- it is asked
                    await asyncio.sleep(0.05)
            assert [(p["x"], p["y"]) for p in answer.json()["points"]] == [*answered, (60.0, 10.0)]
            await one.until(lambda: one.app_state.sessions.trouble == "")


async def test_a_redis_that_is_frozen_or_gone_fails_no_click_of_a_session(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """What counted in memory only is kept once Redis is back, though nobody clicks any more."""
    with serving(program()) as redis:
        given = {
            "redis_url": redis.url,
            "disk_bytes": 0,
            "breaker_reset_s": 0.1,
            "idle_s": 600,
            "lookup_deadline_ms": 100,
            "mask_window_ms": 2,
            "embedding_window_ms": 5,
        }
        async with start(**given) as server:
            await open_image(server, make_image(64, 48))
            redis.freeze()
            for x in (10, 20):
                assert (await send(server, "click", points=[x, 10])).status_code == 200
            redis.thaw()
            redis.kill()
            assert len((await send(server, "click", points=[30, 10])).json()["points"]) == 3
            assert unkept(server.app_state.sessions) >= 2
            redis.start()

            async def kept() -> bool:
                await server.app_state.sessions.sweep()
                return bool(redis.ask("KEYS", "lg.session.log:*"))

            async with asyncio.timeout(60):
                while not await kept():  # noqa: ASYNC110 -- what is waited for tells nobody
                    await asyncio.sleep(0.05)
            [name] = redis.ask("KEYS", "lg.session.log:*")
            assert b"[30,10,1]" in redis.ask("GET", name).replace(b".0,", b",")
