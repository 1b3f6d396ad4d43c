"""Decoding in the browser: what it costs, what it saves, and whether it gives the same masks."""
