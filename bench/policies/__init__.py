"""Eviction policies on made-up traces: against each other, a bound, and an independent implementation."""
