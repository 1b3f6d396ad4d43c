"""``python -m bench.policies``."""

from bench.command import benchmark
from bench.policies.run import FULL, TOY, run, table

if __name__ == "__main__":
    benchmark("bench.policies", "Eviction policies", run, table, FULL, TOY)
