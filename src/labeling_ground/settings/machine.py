"""What this machine, or this container, has, and folders of this user: defaults follow from it."""

import ctypes
import importlib.util
import os
from pathlib import Path

NOWHERE = Path(os.devnull) / "no-home-directory"
"""Default of a folder below the home directory, where this user has none. Nobody can make a folder there."""
_CGROUPS = Path("/sys/fs/cgroup")


def memory_of_this_machine() -> int:
    """Bytes of memory that this process may use: the container's limit where there is one."""
    total = 8 << 30
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (_CGROUPS / limit).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def cores_of_this_machine() -> int:
    """Cores that this process may use: the container's share (its CPU quota, rounded up) where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            parts = [part for name in names for part in (_CGROUPS / name).read_text(encoding="ascii").split()]
        except OSError:
            continue
        if len(parts) == 2 and all(part.isdigit() for part in parts) and int(parts[1]):
            cores = min(cores, -(-int(parts[0]) // int(parts[1])))
    return max(1, cores)


def half_of_the_cores() -> int:
    """Half of the cores that this process may use, one at least."""
    return max(1, cores_of_this_machine() // 2)


def has_nvidia_gpu() -> bool:
    """Whether the driver of NVIDIA's GPUs is here. Costs nothing, where to ask a library would load gigabytes."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def has_torch() -> bool:
    """Whether the extra ``torch`` is installed. Nothing of it is imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def below_home(variable: str, folder: str) -> Path:
    """Our folder in that variable's (XDG), or in ``folder`` of the home directory; ``NOWHERE`` without one."""
    given = Path(os.environ.get(variable, "").strip())
    if given.is_absolute():  # the XDG specification: any other is to be ignored
        return given / "labeling-ground"
    try:
        return Path("~").expanduser() / folder / "labeling-ground"
    except RuntimeError:
        return NOWHERE


def resident_bytes() -> int:
    """Bytes of memory that this process has now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
