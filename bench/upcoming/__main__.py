"""``python -m bench.upcoming``."""

from bench.command import benchmark
from bench.upcoming.run import FULL, TOY, run, table

if __name__ == "__main__":
    benchmark("bench.upcoming", "Lists of upcoming images", run, table, FULL, TOY)
