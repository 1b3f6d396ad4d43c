"""A session is a client's working state: every click counts, and nothing of it lasts longer than it should."""

import asyncio
import math
from dataclasses import replace

import pytest
from tests.doubles import Clock

from labeling_ground.errors import BadPrompt, TooLarge, UnknownSession
from labeling_ground.service.sessions import Sessions
from labeling_ground.types import Box, Point

pytestmark = pytest.mark.anyio

A, B = "a" * 64, "b" * 64
GOOD = Point(5, 6, 1)


async def sessions(clock: Clock | None = None, *, most: int = 100, clicks: int = 100) -> Sessions:
    made = Sessions(most=most, idle_s=60.0, most_clicks=clicks, clock=clock or Clock())
    await made.open("t", "s", A, 40, 30, made.turn())
    return made


async def test_fifty_clicks_at_once_are_fifty_points() -> None:
    state = await sessions()

    async def click(number: int) -> int:
        await asyncio.sleep(0)
        return len((await state.click("t", "s", [Point(number % 40, 1, 1)])).clicks)

    assert sorted(await asyncio.gather(*(click(number) for number in range(50)))) == list(range(1, 51))


async def test_clicks_add_up_in_the_order_in_which_they_came() -> None:
    state = await sessions()
    await state.click("t", "s", [GOOD])
    snapshot = await state.click("t", "s", [Point(1, 2, 0), Point(3, 4, 1)])
    assert snapshot.clicks == (GOOD, Point(1, 2, 0), Point(3, 4, 1))
    assert (snapshot.image_id, snapshot.width, snapshot.height, snapshot.is_empty) == (A, 40, 30, False)


@pytest.mark.parametrize("image_id", [A, B])
async def test_opening_an_image_starts_over(image_id: str) -> None:
    state = await sessions()
    await state.rect("t", "s", Box(0, 0, 5, 5))
    await state.click("t", "s", [GOOD])
    await state.open("t", "s", image_id, 8, 9, state.turn())
    snapshot = await state.click("t", "s", [Point(1, 1, 1)])
    assert (snapshot.image_id, snapshot.width, snapshot.clicks, snapshot.box) == (image_id, 8, (Point(1, 1, 1),), None)


async def test_sessions_of_two_tenants_or_names_have_nothing_in_common() -> None:
    state = await sessions()
    await state.open("t", "other", A, 40, 30, state.turn())
    await state.open("other", "s", A, 40, 30, state.turn())
    await state.click("t", "s", [GOOD])
    assert (await state.finish("t", "other")).is_empty
    assert len((await state.click("other", "s", [GOOD])).clicks) == 1


async def test_of_several_clicks_all_count_or_none() -> None:
    state = await sessions()
    with pytest.raises(BadPrompt):
        await state.click("t", "s", [GOOD, Point(40, 5, 1)])
    assert len((await state.click("t", "s", [GOOD])).clicks) == 1


@pytest.mark.parametrize("point", [Point(-0.1, 5, 1), Point(5, 30, 1), Point(40, 5, 1), Point(math.nan, 5, 1)])
async def test_a_click_outside_the_image_is_refused(point: Point) -> None:
    with pytest.raises(BadPrompt, match="outside"):
        await (await sessions()).click("t", "s", [point])


async def test_a_click_on_the_last_sliver_of_the_image_is_on_it() -> None:
    assert (await (await sessions()).click("t", "s", [Point(math.nextafter(40, 0), math.nextafter(30, 0), 1)])).clicks


async def test_the_first_click_must_be_on_the_object_unless_there_is_a_box() -> None:
    state = await sessions()
    with pytest.raises(BadPrompt, match="first click"):
        await state.click("t", "s", [Point(5, 6, 0)])
    await state.rect("t", "s", Box(0, 0, 5, 5))
    assert (await state.click("t", "s", [Point(5, 6, 0)])).clicks == (Point(5, 6, 0),)


async def test_a_box_replaces_the_clicks_and_later_ones_refine_it() -> None:
    state = await sessions()
    await state.click("t", "s", [GOOD])
    assert (await state.rect("t", "s", Box(0, 0, 5, 5)))[1].clicks == ()
    snapshot = await state.click("t", "s", [GOOD])
    assert (snapshot.clicks, snapshot.box) == ((GOOD,), Box(0, 0, 5, 5))


@pytest.mark.parametrize("box", [Box(40, 0, 50, 9), Box(-5, 0, 0, 9), Box(0, 30, 5, 31), Box(math.nan, 0, 5, 5)])
async def test_a_box_beside_the_image_is_refused_and_changes_nothing(box: Box) -> None:
    state = await sessions()
    await state.click("t", "s", [GOOD])
    with pytest.raises(BadPrompt):
        await state.rect("t", "s", box)
    assert len((await state.click("t", "s", [GOOD])).clicks) == 2


async def test_a_box_over_the_edge_is_fine() -> None:
    assert (await (await sessions()).rect("t", "s", Box(-5, -5, 100, 100)))[1].box == Box(-5, -5, 100, 100)


async def test_undo_takes_back_the_last_click_then_the_box_and_then_nothing() -> None:
    state = await sessions()
    await state.rect("t", "s", Box(0, 0, 5, 5))
    await state.click("t", "s", [GOOD])
    await state.click("t", "s", [Point(1, 2, 0)])
    assert (await state.undo("t", "s"))[1].clicks == (GOOD,)
    assert (await state.undo("t", "s"))[1].box == Box(0, 0, 5, 5)
    assert (await state.undo("t", "s"))[1].is_empty
    assert (await state.undo("t", "s"))[1].is_empty


async def test_undo_does_not_leave_clicks_that_only_say_where_the_object_is_not() -> None:
    state = await sessions()
    await state.click("t", "s", [Point(1, 2, 0), GOOD])
    assert (await state.undo("t", "s"))[1].is_empty


async def test_finish_forgets_clicks_and_box_and_keeps_the_image() -> None:
    state = await sessions()
    await state.rect("t", "s", Box(0, 0, 5, 5))
    await state.click("t", "s", [GOOD])
    assert (await state.finish("t", "s")).is_empty
    assert (await state.click("t", "s", [GOOD])).image_id == A


async def test_take_back_removes_just_the_clicks_that_failed() -> None:
    state = await sessions()
    same = [Point(5, 6, 1), Point(5, 6, 1), Point(5, 6, 1)]
    asked = [await state.click("t", "s", [point]) for point in same]
    await state.take_back("t", "s", asked[1])
    kept = (await state.click("t", "s", [GOOD])).clicks
    assert [id(point) for point in kept] == [id(same[0]), id(same[2]), id(GOOD)]


async def test_take_back_leaves_another_images_clicks_and_no_session_alone() -> None:
    state = await sessions()
    asked = await state.click("t", "s", [GOOD])
    await state.take_back("t", "nobody", asked)
    await state.take_back("t", "s", replace(asked, image_id=B))
    assert len((await state.click("t", "s", [GOOD])).clicks) == 2


async def test_a_snapshot_does_not_change_with_later_clicks() -> None:
    state = await sessions()
    before = await state.click("t", "s", [GOOD])
    await state.click("t", "s", [GOOD])
    assert len(before.clicks) == 1


async def test_a_session_holds_so_many_clicks_and_no_more() -> None:
    state = await sessions(clicks=3)
    await state.click("t", "s", [GOOD, GOOD])
    with pytest.raises(TooLarge):
        await state.click("t", "s", [GOOD, GOOD])
    assert len((await state.click("t", "s", [GOOD])).clicks) == 3


async def test_sessions_are_bounded_and_the_one_idle_for_longest_makes_room() -> None:
    clock = Clock()
    state = await sessions(clock, most=2)
    clock.now += 1
    await state.open("t", "second", A, 40, 30, state.turn())
    clock.now += 1
    await state.click("t", "s", [GOOD])
    await state.open("t", "third", A, 40, 30, state.turn())
    assert len(state) == 2
    with pytest.raises(UnknownSession):
        await state.finish("t", "second")
    await state.finish("t", "s")


async def test_one_tenants_flood_of_sessions_ends_none_of_the_others() -> None:
    state = Sessions(most=10, tenant_share=0.5, idle_s=60.0, most_clicks=9, clock=Clock())
    for name in "abc":
        await state.open("small", name, A, 40, 30, state.turn())
    for number in range(50):
        await state.open("flood", str(number), A, 40, 30, state.turn())
    for name in "abc":
        await state.click("small", name, [GOOD])
    for name in "de":
        await state.open("late", name, A, 40, 30, state.turn())
    for tenant, name in (("small", "a"), ("small", "b"), ("small", "c"), ("late", "d"), ("late", "e"), ("flood", "49")):
        assert (await state.look(tenant, name)).image_id == A
    with pytest.raises(UnknownSession):
        await state.look("flood", "44")
    assert len(state) == 10


async def test_a_session_ends_when_it_is_idle_and_use_starts_the_time_anew() -> None:
    clock = Clock()
    state = await sessions(clock)
    for _ in range(5):
        clock.now += 59
        await state.click("t", "s", [GOOD])
    clock.now += 60
    assert len(state) == 0
    with pytest.raises(UnknownSession, match="idle"):
        await state.click("t", "s", [GOOD])


@pytest.mark.parametrize("ask", ["finish", "undo"])
async def test_a_session_that_never_was_is_unknown(ask: str) -> None:
    with pytest.raises(UnknownSession):
        await getattr(await sessions(), ask)("t", "nobody")


async def test_an_image_that_came_later_stays_though_the_earlier_one_was_done_last() -> None:
    state = await sessions()
    earlier, later = state.turn(), state.turn()
    await state.open("t", "s", B, 40, 30, later)
    await state.open("t", "s", A, 40, 30, earlier)
    assert (await state.look("t", "s")).image_id == B


async def test_a_change_whose_prediction_failed_is_undone_unless_something_happened_since() -> None:
    state = await sessions()
    await state.open("t", "s", A, 40, 30, state.turn())
    await state.click("t", "s", [Point(1, 1, 1)])
    await state.click("t", "s", [Point(2, 2, 1)])
    before = await state.look("t", "s")
    after = (await state.undo("t", "s"))[1]
    await state.restore("t", "s", before, after)
    assert (await state.look("t", "s")) == before
    after = (await state.rect("t", "s", Box(1, 1, 9, 9)))[1]
    await state.click("t", "s", [Point(3, 3, 0)])
    await state.restore("t", "s", before, after)
    assert len((await state.look("t", "s")).clicks) == 1


async def test_a_click_refines_the_mask_of_the_clicks_before_it_and_undo_asks_as_before() -> None:
    state = await sessions()
    first = await state.click("t", "s", [GOOD])
    assert first.parent is None
    await state.answered("t", "s", first, "one")
    second = await state.click("t", "s", [Point(1, 2, 0)])
    assert second.parent == "one"
    await state.answered("t", "s", second, "two")
    assert (await state.click("t", "s", [Point(3, 3, 1)])).parent == "two"
    undone = (await state.undo("t", "s"))[1]
    assert (undone.clicks, undone.parent) == (second.clicks, second.parent)
    assert (await state.undo("t", "s"))[1].parent is None
    assert (await state.undo("t", "s"))[1].is_empty
    assert (await state.click("t", "s", [GOOD])).parent is None


async def test_a_click_that_came_before_the_answer_to_the_last_one_has_nothing_to_refine() -> None:
    state = await sessions()
    first = await state.click("t", "s", [GOOD])
    second = await state.click("t", "s", [Point(1, 2, 0)])
    await state.answered("t", "s", first, "one")
    assert second.parent is None
    await state.finish("t", "s")
    await state.answered("t", "s", second, "late")
    assert (await state.click("t", "s", [Point(9, 9, 1)])).parent is None


async def test_a_first_click_after_a_box_refines_the_boxs_mask_and_a_new_box_forgets_it() -> None:
    state = await sessions()
    await state.answered("t", "s", (await state.rect("t", "s", Box(1, 1, 20, 20)))[1], "box")
    assert (await state.click("t", "s", [Point(2, 2, 0)])).parent == "box"
    await state.rect("t", "s", Box(2, 2, 20, 20))
    assert (await state.click("t", "s", [Point(2, 2, 0)])).parent is None
