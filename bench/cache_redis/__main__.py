"""``python -m bench.cache_redis``."""

from bench.cache_redis.run import FULL, TOY, run, table
from bench.command import benchmark

if __name__ == "__main__":
    benchmark("bench.cache_redis", "Redis tier", run, table, FULL, TOY)
