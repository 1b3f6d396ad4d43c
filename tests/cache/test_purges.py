"""Whether a purge of late means a key: the same answer as from a list of all, without looking at all."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles import Clock

from labeling_ground import key as keys
from labeling_ground.cache.purges import Purges

KEYS = [
    f"v1/{tenant}/{image}/{rest}"
    for tenant in ("public", "other")
    for image in ("a", "b")
    for rest in ("image", "mask/m@1/x", "mask/n@1/x")
]
PATTERNS = [
    *(keys.pattern(t, i, m) for t in (None, "public", "other") for i in (None, "a", "b") for m in (None, "m", "n")),
    *KEYS,
    "*",
    "v1/public/a*",
    "v1/public/a/mask*",
    "*/a/*",
]


@given(st.lists(st.sampled_from(PATTERNS), max_size=12), st.sampled_from(KEYS), st.integers(0, 12))
def test_the_answer_is_that_of_a_list(patterns: list[str], key: str, since: int) -> None:
    """By count what is forgotten may have meant any key; by time it is left out."""
    clock = Clock(100.0)
    purges = Purges(5, clock)
    for pattern in patterns:
        purges.note(pattern)
        clock.now += 1.0
    remembered = list(enumerate(patterns))[-5:]
    means = any(keys.matcher(pattern)(key) for place, pattern in remembered if place >= since)
    assert purges.meant_after(key, 100.0 + since) is means
    assert purges.meant_since(key, since) is (means or since < len(patterns) - 5)


def test_what_a_purge_under_way_means_is_told_at_its_beginning_and_at_its_end() -> None:
    purges, told = Purges(), list[bool]()
    purges.on_purge.append(lambda match: told.append(match(KEYS[0])))
    with purges.under_way(KEYS[0]):
        assert [purges.is_under_way(key) for key in KEYS[:2]] == [True, False]
    assert not purges.is_under_way(KEYS[0])
    assert (told, purges.count) == ([True, True], 2)
    assert purges.meant_since(KEYS[0], 1)
    assert not purges.meant_since(KEYS[0], 2)


def test_a_thousand_purges_of_other_images_cost_a_question_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matcher, asked = keys.matcher, Counter[str]()

    def counted(pattern: str) -> Callable[[str], bool]:
        match = matcher(pattern)

        def ask(key: str) -> bool:
            asked[pattern] += 1
            return match(key)

        return ask

    monkeypatch.setattr(keys, "matcher", counted)
    purges = Purges(2_000)
    for number in range(1_000):
        purges.note(f"v1/public/{number:064x}/*")
    assert not purges.meant_since(f"v1/public/{'f' * 64}/mask/m@1/x", 0)
    assert asked == {}
    assert purges.meant_since(f"v1/public/{7:064x}/mask/m@1/x", 7)
    assert asked.total() == 1
