"""How long work on a whole disk tier keeps its write lock, and what another process that writes notices of it."""
