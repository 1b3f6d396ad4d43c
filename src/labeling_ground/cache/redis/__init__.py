"""The Redis tier: one cache for all processes and machines."""
