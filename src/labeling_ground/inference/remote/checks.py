"""Tensors that came from elsewhere, checked: names, types, shapes, finite numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BadInput
from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import LOW_RES

FloatArray = NDArray[np.float32]


def of_image(
    tensors: Mapping[str, NDArray[Any]], family: Family, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """An embedding's or a trunk's tensors, checked.

    Raises:
        BadInput: one is missing, or of another shape or type, or holds values that are no numbers.
    """
    checked = {}
    for name, shape in shapes.items():
        tensor = take(tensors, name)
        if tensor.dtype.name not in ("float16", "float32") or not _fits(tensor.shape, shape, family):
            raise BadInput(f"{name} must be float16 or float32 {list(shape)}, not {seen(tensor)}.")
        check_finite(name, tensor)
        checked[name] = tensor
    return checked


def logits_of(tensors: Mapping[str, NDArray[Any]], count: int, family: Family) -> FloatArray:
    """So many masks' ``logits``: 256 rows and columns, of SAM 3 288.

    Raises:
        BadInput: they are not there, or something else.
    """
    logits = floats(tensors, "logits", (count, None, None))
    side = 288 if family.finds_concepts else LOW_RES
    if not _fits(logits.shape[1:], (side, side), family):
        raise BadInput(f"logits must have {side} rows and columns, not {seen(logits)}.")
    return logits


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...], family: Family) -> bool:
    """Whether a tensor may have this shape. SAM 3 is made by its configuration, so there are smaller ones, too."""
    if not family.finds_concepts:
        return shape == wanted
    return len(shape) == len(wanted) and all(0 < got <= most for got, most in zip(shape, wanted, strict=True))


def floats(tensors: Mapping[str, NDArray[Any]], name: str, shape: Sequence[int | None]) -> FloatArray:
    """The tensor of this name, of ``float32`` and this shape; ``None`` in it is any size.

    Raises:
        BadInput: it is not there, or something else, or holds values that are no numbers.
    """
    tensor = take(tensors, name)
    fits = tensor.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, tensor.shape, strict=False))
    if tensor.dtype != np.float32 or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise BadInput(f"{name} must be float32 [{wanted}], not {seen(tensor)}.")
    check_finite(name, tensor)
    return tensor


def check_finite(name: str, tensor: NDArray[Any]) -> None:
    """See that all values are finite.

    Raises:
        BadInput: one is not.
    """
    if not np.isfinite(tensor).all():
        raise BadInput(f"{name} holds values that are no finite numbers.")


def take(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """The tensor of this name.

    Raises:
        BadInput: there is none.
    """
    if name not in tensors:
        raise BadInput(f"There is no tensor {name}.")
    return tensors[name]


def only(tensors: Mapping[str, NDArray[Any]], names: set[str]) -> None:
    """See that there are no tensors of other names.

    Raises:
        BadInput: there are.
    """
    others = sorted(set(tensors) - names)
    if others:
        raise BadInput(f"There are tensors that do not belong here: {', '.join(others)[:200]}.")


def seen(tensor: NDArray[Any]) -> str:
    """A tensor's type and shape, in words."""
    return f"{tensor.dtype.name} {list(tensor.shape)}"
