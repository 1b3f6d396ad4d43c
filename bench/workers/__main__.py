"""``python -m bench.workers``."""

from bench.command import benchmark
from bench.workers.run import FULL, TOY, run, table

if __name__ == "__main__":
    benchmark("bench.workers", "Several processes", run, table, FULL, TOY)
