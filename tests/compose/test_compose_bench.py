"""The benchmark of the containers at toy size: that it runs, and those of its promises that are no timings."""

import asyncio
from dataclasses import asdict, replace

import pytest
from bench.stack.containers import Stack
from bench.stack.run import TOY, Bench, measure, summary, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENT = "LABELING_GROUND_LOOKUP_DEADLINE_MS=5000"
"""What is tested is not how fast this machine is today: who does not hear from Redis in time computes alone."""


def test_the_benchmark_runs_and_four_proxies_with_ten_clients_each_make_one_encode_of_a_new_image(stack: Stack) -> None:
    if stack.engines == "none":
        pytest.skip("it times engines in containers of their own")
    plan = replace(TOY, proxies=4)
    bench = Bench(replace(stack, knobs={**stack.knobs, "PROXY_DISK_BYTES": "0"}), plan, seed=1)
    try:
        done = bench.stack.make("c_up")
        assert done.returncode == 0, done.stderr
        asyncio.run(measure([bench], plan, PATIENT))
    finally:
        done = stack.make("c_up")
    assert done.returncode == 0, done.stderr
    figures = summary(bench.measured)
    assert (figures["same_image_asks"], figures["same_image_computed"]) == (80, 2)
    assert 1.5 < figures["same_image_encodes"] < 2.5
    assert all(row["requests"] > 0 and row["p50_ms"] > 0 for row in figures["scenarios"].values())
    assert figures["bytes_per_click"]["gpu"] < 10_000
    assert 0 < figures["bytes_per_click"]["cpu"] < 1_000_000
    assert (figures["handler_ms"] is not None) == (stack.engines == "torchserve")
    where = {"machine": "m", "load": "0.0", "commit": "c", "date": "d", "seconds": "1"}
    text = table({"where": where, "plan": asdict(plan), "engines": {stack.engines: figures}})
    assert "| 4 proxies × 10 clients, 2 times one new image: answers that computed it | 2 |" in text
