"""Lists of upcoming images: followed as far as they prove true."""

from labeling_ground.service.presence import Presence
from labeling_ground.service.upcoming import Reader, Upcoming

ANN = Reader("public", "ann")


class Shelf:
    """Images whose group is their name; notes what is fetched, and which are done."""

    def __init__(self, *, ahead: int = 4, spared: int = 8, most: int = 1000) -> None:
        self.fetched: list[str] = []
        self.done: dict[str, bool] = {}
        self.unknown: set[str] = set()
        self.presence = Presence(self.done.__setitem__, ahead)
        self.upcoming = Upcoming(self.presence, self, most_ahead=ahead, spared=spared, most_listed=most)

    def group(self, reader: Reader, image: str) -> str | None:
        return None if image in self.unknown else image

    def fetch(self, reader: Reader, image: str) -> None:
        self.fetched.append(image)

    def open(self, *images: str, reader: Reader = ANN) -> None:
        for image in images:
            self.presence.opened(reader.name, image)


def test_nothing_is_fetched_for_a_list_before_it_has_proved_true() -> None:
    shelf = Shelf()
    assert shelf.upcoming.announce(ANN, "abcdefgh") == 0
    assert shelf.fetched == []
    shelf.open("x", "y")
    assert shelf.fetched == []
    assert shelf.done == {"x": True, "y": False}


def test_each_image_that_is_opened_from_the_list_doubles_what_is_fetched() -> None:
    shelf = Shelf()
    shelf.upcoming.announce(ANN, "abcdefgh")
    shelf.open("a")
    assert shelf.fetched == ["b"]
    shelf.open("b")
    assert shelf.fetched == ["b", "c", "d"]
    shelf.open("c")
    assert shelf.fetched == ["b", "c", "d", "e", "f", "g"]
    shelf.open("d", "e")
    assert shelf.fetched == ["b", "c", "d", "e", "f", "g", "h"]


def test_the_image_on_the_screen_proves_a_list_that_begins_with_it() -> None:
    shelf = Shelf()
    shelf.open("a")
    assert shelf.upcoming.announce(ANN, "abc") == 1
    assert shelf.fetched == ["b"]


def test_images_passed_over_are_no_longer_awaited() -> None:
    shelf = Shelf()
    shelf.upcoming.announce(ANN, "abcdefgh")
    shelf.open("a", "c")
    assert len(shelf.upcoming) == 5
    assert shelf.fetched == ["b"]  # which was fetched in vain
    shelf.open("d", "e")
    assert shelf.fetched == ["b", "f"]  # a list that has failed once must prove true twice


def test_other_images_halve_what_is_fetched_until_nothing_is() -> None:
    shelf = Shelf()
    shelf.upcoming.announce(ANN, "abcdefgh")
    shelf.open("a", "b", "c")
    before = list(shelf.fetched)
    shelf.open("x", "y", "z")
    assert shelf.upcoming.announce(ANN, "mnop") == 0  # a new list begins with what the one before was worth
    assert shelf.fetched == before
    shelf.open("m")
    assert shelf.fetched == before
    shelf.open("n")
    assert shelf.fetched == [*before, "o"]


def test_a_cache_too_small_to_fetch_ahead_ends_it() -> None:
    shelf = Shelf()
    shelf.upcoming.announce(ANN, "abcdefghijklmnop")
    for image in "abcdefghijklmnop":
        shelf.presence.opened(ANN.name, image, encoded=True)
    assert shelf.fetched == ["b", "e", "j"]  # after one, two and four that were opened in their turn


def test_what_is_spared_is_not_done_when_others_have_left_it() -> None:
    shelf, bob = Shelf(), Reader("public", "bob")
    shelf.upcoming.announce(ANN, "abcdefgh")
    shelf.open("c", "d", "y", reader=bob)
    assert (shelf.done["c"], shelf.done["d"]) == (True, True)
    shelf.open("a")  # two of eight are spared by now
    assert (shelf.done["c"], shelf.done["d"]) == (False, True)
    shelf.open("c", "x", reader=bob)
    assert not shelf.done.get("c")
    shelf.open("b", "c", "d")
    assert shelf.done.get("c") is True
    shelf.upcoming.announce(ANN, "")
    assert (len(shelf.upcoming), shelf.done["e"]) == (0, True)


def test_the_lists_longest_unheard_of_make_room() -> None:
    shelf, bob = Shelf(most=6), Reader("public", "bob")
    shelf.upcoming.announce(ANN, "abcd")
    shelf.open("a")
    shelf.upcoming.announce(bob, "efgh")
    assert len(shelf.upcoming) == 4
    assert shelf.done["b"] is True
    shelf.open("b")
    assert shelf.fetched == ["b"]


def test_an_address_that_nobody_has_looked_at_is_fetched_in_its_turn() -> None:
    shelf = Shelf()
    shelf.unknown = {"b", "c"}
    shelf.upcoming.announce(ANN, "abcd")
    shelf.open("a")
    assert shelf.fetched == ["b"]
    shelf.unknown = {"c"}
    shelf.open("b")
    assert shelf.fetched == ["b", "c", "d"]


def test_an_image_is_awaited_once() -> None:
    shelf = Shelf()
    shelf.upcoming.announce(ANN, "aabbaa")
    assert len(shelf.upcoming) == 2


def test_a_list_that_is_taken_back_leaves_its_worth_to_the_next_one() -> None:
    shelf = Shelf()
    shelf.upcoming.announce(ANN, "abcdefgh")
    shelf.open("a", "b")
    shelf.upcoming.announce(ANN, "")
    shelf.open("x", "y", "z")  # no list names another image: none is wrong
    assert shelf.upcoming.announce(ANN, "mnop") == 2
    assert shelf.fetched[-2:] == ["m", "n"]


def test_a_list_of_which_all_was_opened_is_not_wrong_about_what_comes_then() -> None:
    shelf = Shelf()
    shelf.upcoming.announce(ANN, "abc")
    shelf.open("a", "b", "c", "x", "y", "z")
    assert shelf.upcoming.announce(ANN, "mnopqr") == 4


def test_lists_without_images_are_bounded_too() -> None:
    shelf = Shelf(most=3)
    for name in ("ann", "bob", "cy"):
        reader = Reader("public", name)
        shelf.upcoming.announce(reader, "a")
        shelf.open("a", reader=reader)
    assert len(shelf.upcoming) == 0
    shelf.upcoming.announce(Reader("public", "dan"), "")
    assert shelf.upcoming.announce(ANN, "mn") == 0  # ann's earlier list, whose worth was 1, has made room
