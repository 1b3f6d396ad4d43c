"""Benchmarks: each one is runnable with ``python -m`` and has a toy size for the test suite."""
