"""The order in which several processes take the files of tests."""

from collections import Counter
from collections.abc import Sequence

import pytest


def longest_first(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests file by file: files with the most slow tests first, then those with the most tests.

    A file begun last that takes minutes would keep one process busy while the others have nothing left to do. The order
    within a file stays.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = Counter(item.path for item in items)
    return sorted(items, key=lambda item: (-slow[item.path], -tests[item.path], item.path))
