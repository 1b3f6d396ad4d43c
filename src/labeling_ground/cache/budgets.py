"""Whether the tiers' budgets have room for what is going to be kept in them."""

from pathlib import Path

from labeling_ground.errors import BadSettings

PARTS = 8
"""A tier takes no value that is larger than its budget divided by this: one of them would push out all others."""


def check_budgets(memory_bytes: int, disk_bytes: int, *, has_redis: bool, value_bytes: int, machine_bytes: int) -> None:
    """See that a tier can keep one image's embedding, and that memory is not promised twice.

    Args:
        memory_bytes: budget of the memory tier.
        disk_bytes: budget of the disk tier; 0 where there is none.
        has_redis: whether there is a tier whose size is not ours to say.
        value_bytes: what one image's embedding takes; 0 where that is not known.
        machine_bytes: memory that this process may use.

    Raises:
        BadSettings: the budgets cannot work; the sentence says what would.
    """
    if memory_bytes > machine_bytes:
        raise BadSettings(
            f"memory_bytes is {_mib(memory_bytes)}, and this machine (or this container) has {_mib(machine_bytes)} in "
            "all: the process would be killed when the cache fills. Give it half of that at most."
        )
    if not has_redis and value_bytes > max(memory_bytes, disk_bytes) // PARTS:
        raise BadSettings(
            f"memory_bytes is {_mib(memory_bytes)}, which is too small for one image: its embedding takes up to "
            f"{_mib(value_bytes)}, and no tier keeps a value above an eighth of its budget. Give memory_bytes "
            f"{_mib(PARTS * value_bytes, up=True)} or more, or a disk tier of so much (disk_bytes)."
        )


def remark_on_files(memory_bytes: int, disk_bytes: int, *, has_redis: bool, file_bytes: int) -> str:
    """What comes of it where the largest image files allowed cannot be kept, in a sentence; empty where they can."""
    name, budget = ("disk_bytes", disk_bytes) if disk_bytes else ("memory_bytes", memory_bytes)
    if has_redis or file_bytes <= budget // PARTS:
        return ""
    return (
        f"Image files above {_mib(budget // PARTS)} are not kept ({name} is {_mib(budget)}), so clients must send them "
        f"again once their embedding has gone. Give {name} {_mib(PARTS * file_bytes, up=True)}, or lower "
        "max_image_bytes."
    )


def remark_on_disk(disk_bytes: int, *, free_bytes: int, held_bytes: int, folder: Path) -> str:
    """What comes of a disk budget that the disk has no room for, in a sentence; empty where it has.

    Args:
        disk_bytes: budget of the disk tier.
        free_bytes: what is free on the disk.
        held_bytes: what the tier holds of its budget already.
        folder: the cache directory.
    """
    if disk_bytes <= free_bytes + held_bytes:
        return ""
    return (
        f"disk_bytes is {_mib(disk_bytes)}, and the disk under {folder} has {_mib(free_bytes)} free, besides "
        f"{_mib(held_bytes)} that the cache holds there: when it is full, what is new is not kept. Lower disk_bytes to "
        f"{_mib(free_bytes + held_bytes)}, or set cache_dir to a larger disk."
    )


def _mib(count: int, *, up: bool = False) -> str:
    return f"{-(-count // (1 << 20))} MiB" if up else f"{count / (1 << 20):.{0 if count >= 100 << 20 else 2}f} MiB"
