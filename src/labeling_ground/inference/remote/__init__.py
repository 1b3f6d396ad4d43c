"""Engines in other processes: the protocol, the proxy's side of it, and what engine servers answer with."""
