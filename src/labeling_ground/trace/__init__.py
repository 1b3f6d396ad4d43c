"""Traces: what a server writes down of its accesses (when, which key, bytes, cost), and the files they stand in."""
