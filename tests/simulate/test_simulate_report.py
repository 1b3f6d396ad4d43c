"""The page: what it says, and that it asks nobody for anything."""

import re
from html.parser import HTMLParser

import pytest

from labeling_ground.simulate.grid import Row
from labeling_ground.simulate.replay import UNBOUNDED, Replayed, Setup
from labeling_ground.simulate.report import IMAGES, MASKS, _ticks, hit_ratio, name_of, page
from labeling_ground.types import Kind

GIB = 1 << 30


def row(policy: str, budget: int, ratio: float, bound: float | None = 0.1, **more: float | None) -> Row:
    replayed = Replayed(Setup(policy, budget, **more), peak_bytes={"memory": min(budget, GIB)})  # type: ignore[arg-type]
    replayed.lookups[Kind.EMBEDDING], replayed.hits[Kind.EMBEDDING] = 200, 150
    replayed.evictions = {"memory": {"budget": 7, "idle": 3}, "lower": {"budget": 1, "idle": 0}}
    return Row(replayed, ratio, room=0.5 * budget / GIB, computing=10 * ratio, bound=bound)


ROWS = [row(policy, budget * GIB, ratio) for policy, ratio in (("gds", 0.12), ("lru", 0.2)) for budget in (1, 2, 4)]


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "circle", "line", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("circle", "line", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(rows: list[Row], best: Row, today: Setup | None = None, reason: str = "Because.") -> Page:
    found = Page(page(rows, best, reason, today=today, facts=["A <fact> & more."], title="Costs"))
    assert found.open == []
    return found


def test_the_page_names_the_recommended_set_up_and_marks_it() -> None:
    found = made(ROWS, ROWS[0], ROWS[4].replayed.setup)
    assert "gds, 1 GiB, idle 30 min" in found.text
    assert "Because." in found.text
    assert "A <fact> & more." in found.text  # escaped in the source
    assert found.text.count("recommended\n") == 2  # in either plot
    assert len([tag for tag in found.of("circle") if tag.get("class") == "ring"]) == 4
    assert [tag["class"] for tag in found.of("tr") if tag.get("class")] == ["best", "today"]
    assert len(found.of("tr")) == 1 + len(ROWS)


def test_one_line_a_policy_and_one_for_the_bound() -> None:
    found = made(ROWS, ROWS[0])
    points = [re.findall(r"[\d.]+,[\d.]+", tag["points"] or "") for tag in found.of("polyline")]
    assert [len(each) for each in points] == [3, 3, 3, 3, 3]  # gds and lru twice, the bound once
    assert len(made([row("gds", GIB, 0.2, None)], ROWS[0]).of("polyline")) == 2


def test_each_idle_time_is_a_line_of_its_own() -> None:
    rows = [row("gds", budget * GIB, 0.2, idle_s=idle) for idle in (600.0, None) for budget in (1, 2)]
    found = made(rows, rows[0])
    for name in ("gds, 10 min", "gds, for ever", "bound, 10 min", "bound, for ever"):
        assert f"{name}\n" in found.text


def test_todays_setting_may_be_the_one_to_recommend() -> None:
    found = made(ROWS, ROWS[0], ROWS[0].replayed.setup)
    assert found.text.count("recommended, today\n") == 2
    assert [tag["class"] for tag in found.of("tr") if tag.get("class")] == ["best today"]


def test_the_page_asks_nobody_for_anything() -> None:
    """No script, nothing to load, and a policy that forbids both."""
    found = made(ROWS, ROWS[0], ROWS[3].replayed.setup)
    names = {name for name, _ in found.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "image", "use", "a"}
    attributes = {name for _, given in found.tags for name in given}
    assert not attributes & {"src", "href", "xlink:href", "style", "onload", "onclick"}
    policies = [tag["content"] for tag in found.of("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "url(" not in page(ROWS, ROWS[0], "", today=None, facts=[], title="")


def test_names_of_users_own_policies_are_escaped() -> None:
    rows = [row("my.module:<b>", GIB, 0.2), row("my.module:<b>", 2 * GIB, 0.1)]
    assert "b" not in {name for name, _ in made(rows, rows[0]).tags}


def test_all_stays_within_the_drawing() -> None:
    """Also with one budget only, with nothing computed at all, and without a budget."""
    for rows in (ROWS, ROWS[:1], [row("gds", GIB, 0.0, 0.0)], [row("idle", UNBOUNDED, 0.3), ROWS[0]]):
        for tag in made(rows, rows[0], rows[-1].replayed.setup).of("circle"):
            assert 0 <= float(tag["cx"] or "nan") <= 760
            assert 0 <= float(tag["cy"] or "nan") <= 380


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.11, 1.16, [0.1, 0.2, 0.5, 1, 2]),
        (1.0, 1.0, [1, 2]),
        (0.02, 0.05, [0.02, 0.05]),
        (3, 800, [2, 5, 10, 20, 50, 100, 200, 500, 1000]),
    ],
)
def test_ticks_are_round_and_enclose_all(low: float, high: float, expected: list[float]) -> None:
    assert _ticks(low, high) == pytest.approx(expected)


def test_set_ups_have_names() -> None:
    assert name_of(Setup("gdsf", 512 << 20, 2 * GIB, None, frequency_exponent=0.5)) == (
        "gdsf 0.5, 512 MiB + 2 GiB, idle for ever"
    )
    assert name_of(Setup("idle", UNBOUNDED, idle_s=90.0)) == "idle, no budget, idle 1.5 min"


def test_a_hit_ratio_of_nothing_is_0() -> None:
    assert hit_ratio(ROWS[0], IMAGES) == 0.75
    assert hit_ratio(ROWS[0], MASKS) == 0.0
