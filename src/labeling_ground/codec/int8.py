"""Tensors in int8 per channel: half the bytes of fp16, and a rounding error of a 254th of a channel's largest value."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import DamagedEntry

_STEP = ".step"
Tensors = Mapping[str, NDArray[Any]]


def to_int8(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Each floating tensor ``[1, channels, …]`` in int8, with its channels' steps beside it as ``NAME.step``.

    A step is a 127th of its channel's largest value, ``float32 [1, channels, 1, …]``. Tensors of another form stay as
    they are. The result depends on nothing but the tensors.
    """
    made: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 3 or not np.issubdtype(tensor.dtype, np.floating):
            made[name] = tensor
            continue
        wide = tensor.astype(np.float32)
        others = (0, *range(2, wide.ndim))
        step = np.maximum(np.abs(wide).max(axis=others, keepdims=True), np.float32(1e-30)) / np.float32(127)
        made[name], made[name + _STEP] = np.rint(wide / step).astype(np.int8), step
    return made


def from_int8(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """The tensors that ``to_int8`` was given, as ``float32``, each value off by half a step of its channel at most.

    Raises:
        DamagedEntry: there is a step without its tensor.
    """
    made = {name: tensor for name, tensor in tensors.items() if not name.endswith(_STEP)}
    for name, step in tensors.items():
        if name.endswith(_STEP):
            whole = made.get(name.removesuffix(_STEP))
            if whole is None:
                raise DamagedEntry(f"The embedding in int8 has steps without their tensor ({name}).")
            made[name.removesuffix(_STEP)] = np.multiply(whole, step, dtype=np.float32)
    return made
