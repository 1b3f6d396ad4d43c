"""``python -m bench.cluster``."""

from bench.cluster.run import FULL, TOY, run, table
from bench.command import benchmark

benchmark("bench.cluster", "A cluster whose parts are killed", run, table, FULL, TOY)
