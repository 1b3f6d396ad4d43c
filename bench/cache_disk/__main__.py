"""``python -m bench.cache_disk``."""

from bench.cache_disk.run import FULL, TOY, run, table
from bench.command import benchmark

if __name__ == "__main__":
    benchmark("bench.cache_disk", "Disk tier", run, table, FULL, TOY)
