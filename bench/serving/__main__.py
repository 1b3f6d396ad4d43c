"""``python -m bench.serving``."""

from bench.command import benchmark
from bench.serving.run import FULL, TOY, run, table

if __name__ == "__main__":
    benchmark("bench.serving", "Serving", run, table, FULL, TOY)
