"""The eviction policies that can be simulated: those that serve, and one that is only compared with."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from labeling_ground.cache.choose import POLICIES as SERVING
from labeling_ground.cache.choose import choose as choose_of

POLICIES: Mapping[str, str] = MappingProxyType({**SERVING, "s3fifo": "labeling_ground.simulate.s3fifo:make"})
"""Short name → ``module:attribute``, as in ``cache.choose``."""

choose = partial(choose_of, known=POLICIES)
"""``cache.choose.choose`` for all of them."""
