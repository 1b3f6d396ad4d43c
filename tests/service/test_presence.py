"""An image is done when it is nobody's current one and no prefetch that waits to be opened."""

from labeling_ground.service.presence import Presence


class Marks:
    """What the stores were told: per image, whether it is done."""

    def __init__(self, prefetches: int = 2, *, most: int = 1000) -> None:
        self.done: dict[str, bool] = {}
        self.told = 0
        self.presence = Presence(self, prefetches, most=most)

    def __call__(self, group: str, done: bool) -> None:
        self.done[group] = done
        self.told += 1


def test_an_image_is_done_when_its_only_client_opens_another() -> None:
    marks = Marks()
    marks.presence.opened("ann", "1")
    assert marks.done == {"1": False}
    marks.presence.opened("ann", "2")
    assert marks.done == {"1": True, "2": False}
    marks.presence.opened("ann", "1")
    assert marks.done == {"1": False, "2": True}


def test_clicks_on_the_current_image_tell_nobody_anything() -> None:
    marks = Marks()
    for _ in range(50):
        marks.presence.opened("ann", "1")
    assert marks.told == 1


def test_an_image_that_somebody_else_works_on_is_not_done() -> None:
    marks = Marks()
    marks.presence.opened("ann", "1")
    marks.presence.opened("bob", "1")
    marks.presence.opened("ann", "2")
    assert marks.done["1"] is False
    marks.presence.forget("bob")
    assert marks.done["1"] is True


def test_a_prefetch_is_not_done_until_it_was_opened_and_left() -> None:
    marks = Marks()
    marks.presence.opened("ann", "1")
    marks.presence.fetched_ahead("ann", "2")
    assert marks.done == {"1": False, "2": False}
    marks.presence.opened("ann", "2")
    assert marks.done == {"1": True, "2": False}
    marks.presence.opened("ann", "3")
    assert marks.done["2"] is True


def test_only_the_latest_prefetches_of_a_client_are_held() -> None:
    marks = Marks(prefetches=2)
    for group in "123":
        marks.presence.fetched_ahead("ann", group)
        marks.presence.fetched_ahead("ann", group)
    assert marks.done == {"1": True, "2": False, "3": False}


def test_without_prefetches_held_a_prefetch_is_done_at_once() -> None:
    marks = Marks(prefetches=0)
    marks.presence.fetched_ahead("ann", "1")
    assert marks.done == {"1": True}


def test_fetching_the_current_image_ahead_changes_nothing() -> None:
    marks = Marks()
    marks.presence.opened("ann", "1")
    marks.presence.fetched_ahead("ann", "1")
    marks.presence.opened("ann", "2")
    assert marks.done["1"] is True


def test_a_client_that_goes_lets_go_of_all_its_images() -> None:
    marks = Marks()
    marks.presence.opened("ann", "1")
    marks.presence.fetched_ahead("ann", "2")
    marks.presence.forget("ann")
    marks.presence.forget("ann")
    assert marks.done == {"1": True, "2": True}


def test_clients_are_bounded_and_the_one_quiet_for_longest_goes() -> None:
    marks = Marks(most=3)
    for name in "abc":
        marks.presence.opened(name, f"of {name}")
    marks.presence.opened("a", "of a")
    marks.presence.opened("d", "of d")
    assert len(marks.presence) == 3
    assert [group for group, done in marks.done.items() if done] == ["of b"]


def test_prefetching_clients_are_bounded_and_a_busy_one_keeps_its_image() -> None:
    marks = Marks(most=2)
    marks.presence.fetched_ahead("a", "ahead of a")
    marks.presence.fetched_ahead("b", "ahead of b")
    marks.presence.opened("a", "now")
    marks.presence.fetched_ahead("c", "ahead of c")
    assert [group for group, done in marks.done.items() if done] == ["ahead of b"]


def test_prefetches_that_were_opened_leave_nothing_behind() -> None:
    marks = Marks()
    for number in range(100):
        marks.presence.fetched_ahead(f"client {number}", "1")
        marks.presence.opened(f"client {number}", "1")
        marks.presence.forget(f"client {number}")
    assert len(marks.presence) == 0
    assert marks.done == {"1": True}
