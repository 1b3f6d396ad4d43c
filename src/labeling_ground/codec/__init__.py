"""Pure pairs: bytes ↔ values. No I/O, no state."""
