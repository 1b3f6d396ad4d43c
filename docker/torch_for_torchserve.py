"""Stands where the package torch would: TorchServe's workers import it at start, to recognise answers that are tensors.

Ours are bytes, so there never is one, and an image without torch is three quarters of a gigabyte smaller, a worker by
two hundred megabytes. An archive whose handler computes with torch needs the real one: install it in its place.
"""


class Tensor:
    """What no answer of our handlers is an instance of."""
