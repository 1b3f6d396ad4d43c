"""Whether a purge of late means a key: the same answer as from a list of all, without looking at all."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling_ground import key as keys
from labeling_ground.cache.recent_purges import RecentPurges

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
    purges = RecentPurges(5)
    for when, pattern in enumerate(patterns):
        purges.note(pattern, when)
    remembered = list(enumerate(patterns))[-5:]
    assert purges.mean(key, since) is any(keys.matcher(pattern)(key) for when, pattern in remembered if when >= since)
    assert purges.forgotten == (len(patterns) - 6 if len(patterns) > 5 else -float("inf"))


def test_a_thousand_purges_of_other_images_cost_a_question_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matcher, asked = keys.matcher, Counter[str]()

    def counted(pattern: str) -> Callable[[str], bool]:
        match = matcher(pattern)

        def ask(key: str) -> bool:
            asked[pattern] += 1
            return match(key)

        return ask

    monkeypatch.setattr(keys, "matcher", counted)
    purges = RecentPurges(2_000)
    for number in range(1_000):
        purges.note(f"v1/public/{number:064x}/*", number)
    assert not purges.mean(f"v1/public/{'f' * 64}/mask/m@1/x", 0)
    assert asked == {}
    assert purges.mean(f"v1/public/{7:064x}/mask/m@1/x", 7)
    assert asked.total() == 1
