"""Budgets that cannot work are refused with one that can."""

from pathlib import Path

import pytest

from labeling_ground.cache.budgets import PARTS, check_budgets, remark_on_disk, remark_on_files
from labeling_ground.cache.choose import choose
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.errors import BadSettings
from labeling_ground.types import Entry, Kind

MIB = 1 << 20
VALUE = 2 * MIB


def check(memory: int, disk: int = 0, *, has_redis: bool = False, value: int = VALUE, machine: int = 1 << 40) -> None:
    check_budgets(memory, disk, has_redis=has_redis, value_bytes=value, machine_bytes=machine)


def test_a_budget_that_cannot_hold_one_image_is_refused_with_one_that_can() -> None:
    for memory, disk in ((1, 0), (PARTS * VALUE - 1, 0), (1 * MIB, PARTS * VALUE - 1)):
        with pytest.raises(BadSettings, match=r"too small for one image.*2.00 MiB.*memory_bytes 16 MiB or more"):
            check(memory, disk)
    check(PARTS * VALUE)
    check(1, disk=PARTS * VALUE)
    check(1, has_redis=True)
    check(1, value=0)  # an engine of which nothing is known


@pytest.mark.parametrize("disk", [0, 1 << 40])
def test_a_budget_beyond_the_machines_memory_is_refused(disk: int) -> None:
    with pytest.raises(BadSettings, match=r"4.00 MiB, and this machine.*has 3.00 MiB"):
        check(4 * MIB, disk, value=0, machine=3 * MIB)
    check(3 * MIB, disk, value=0, machine=3 * MIB)


def test_files_that_cannot_be_kept_are_worth_a_remark() -> None:
    assert "disk_bytes 256 MiB" in remark_on_files(1 << 40, 8 * MIB, has_redis=False, file_bytes=32 * MIB)
    assert "memory_bytes 256 MiB" in remark_on_files(8 * MIB, 0, has_redis=False, file_bytes=32 * MIB)
    assert remark_on_files(8 * MIB, 0, has_redis=True, file_bytes=32 * MIB) == ""
    assert remark_on_files(0, 256 * MIB, has_redis=False, file_bytes=32 * MIB) == ""


def test_a_disk_budget_beyond_what_is_free_is_worth_a_remark_with_the_numbers() -> None:
    there = Path("cache")
    said = remark_on_disk(512 * MIB, free_bytes=100 * MIB, held_bytes=200 * MIB, folder=there)
    assert "disk_bytes is 512 MiB" in said
    assert "under cache has 100 MiB free, besides 200 MiB" in said
    assert "Lower disk_bytes to 300 MiB" in said
    assert remark_on_disk(300 * MIB, free_bytes=100 * MIB, held_bytes=200 * MIB, folder=there) == ""
    assert remark_on_disk(0, free_bytes=0, held_bytes=0, folder=there) == "", "no disk tier"


@pytest.mark.parametrize("extra", [0, 1])
def test_what_is_promised_is_what_a_tier_does(extra: int) -> None:
    store = MemoryStore(budget_bytes=PARTS * 1000, idle_s=60.0, max_age_s=None, policy=choose("gds").make())
    entry = Entry(Kind.EMBEDDING, b"x" * (1000 + extra - 0), 1.0, 0.0)
    store.insert("key", entry)
    assert (entry.size <= store.largest) is ("key" in store)
