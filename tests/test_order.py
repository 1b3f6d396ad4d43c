"""Which file of tests is begun first."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.order import longest_first


def item(file: str, name: str, *, slow: bool = False) -> Any:
    """A test as pytest collects it."""
    marks = {"slow"} if slow else set[str]()
    return SimpleNamespace(path=Path(file), name=name, get_closest_marker=lambda mark: mark in marks)


def test_files_of_slow_tests_come_first_then_those_of_many_tests_and_each_file_stays_together() -> None:
    few = [item("few.py", "1")]
    many = [item("many.py", str(number)) for number in (3, 1, 2)]
    as_many = [item("as_many.py", str(number)) for number in (2, 1, 3)]
    one_slow = [item("one_slow.py", "1"), item("one_slow.py", "2", slow=True)]
    two_slow = [item("two_slow.py", str(number), slow=True) for number in (2, 1)]
    mixed = [few[0], many[0], as_many[0], *many[1:], one_slow[0], *as_many[1:], *two_slow, one_slow[1]]
    assert longest_first(mixed) == [*two_slow, *one_slow, *as_many, *many, *few]
