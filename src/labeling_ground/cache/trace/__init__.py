"""Traces: what was asked when, what it weighed and what it cost, so that a policy can be judged on it later."""
