"""Policies: what goes first when the bytes do not suffice."""
