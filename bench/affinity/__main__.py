"""``python -m bench.affinity``."""

from bench.affinity.run import FULL, TOY, run, table
from bench.command import benchmark

if __name__ == "__main__":
    benchmark("bench.affinity", "Clicks that find their embedding at their decoder", run, table, FULL, TOY)
