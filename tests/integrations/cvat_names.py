"""Stand-ins for the few names of cvat-sdk that ``integrations/cvat_function.py`` uses, where cvat-sdk is not installed.

They hold CVAT to what its own classes check and no more; ``tests/tools`` runs the file with the real ones.
"""

import itertools
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray


class BadFunctionError(Exception):
    """What reaches CVAT's user with its text."""


@dataclass(frozen=True, kw_only=True)
class InteractionFunctionSpec:
    """What an interactor wants to be given."""

    min_pos_points: int
    min_neg_points: int | None = None
    min_bounding_boxes: int | None = None


@dataclass(frozen=True, kw_only=True)
class DetectionFunctionSpec:
    """The labels of a detector."""

    labels: Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class InteractionResultShape:
    """One shape of an interactor."""

    type: str
    points: list[float]
    attributes: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Prompts:
    """What an annotator gave."""

    pos_points: Sequence[tuple[float, float]] = ()
    neg_points: Sequence[tuple[float, float]] = ()
    bounding_box: tuple[tuple[float, float], tuple[float, float]] | None = None


@dataclass(frozen=True)
class Context:
    """What a detector is told beside the image."""

    frame_name: str = "frame.png"
    conf_threshold: float | None = None
    conv_mask_to_poly: bool = False


def encode_mask(bitmap: ArrayLike, /, bbox: Sequence[float] | None = None) -> list[float]:
    """Run lengths in the box row by row, background first, then left, top, right and bottom, all inclusive."""
    bits = np.asarray(bitmap)
    assert bits.dtype == np.bool_
    assert bits.ndim == 2
    if bbox is None:
        rows, columns = np.nonzero(bits)
        found = len(rows) > 0
        bbox = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if found else [0, 0, 1, 1]
    left, top, right, bottom = (int(edge) for edge in bbox)
    groups = [(value, len(list(same))) for value, same in itertools.groupby(bits[top:bottom, left:right].ravel())]
    leading = [0] if groups[0][0] else []
    return [float(n) for n in [*leading, *(length for _, length in groups), left, top, right - 1, bottom - 1]]


def decode_mask(points: Sequence[float], width: int, height: int) -> NDArray[np.bool_]:
    """The mask, ``bool [height, width]``."""
    *runs, left, top, right, bottom = (int(number) for number in points)
    mask = np.zeros((height, width), np.bool_)
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask[top : bottom + 1, left : right + 1] = inside.reshape(bottom + 1 - top, right + 1 - left)
    return mask


@contextmanager
def installed() -> Iterator[None]:
    """The names can be imported as ``cvat_sdk``."""

    def shape(kind: str) -> Any:
        return lambda label_id, points: types.SimpleNamespace(type=kind, label_id=label_id, points=points)

    modules = {name: types.ModuleType(name) for name in ("", ".auto_annotation", ".masks", ".models")}
    names: dict[str, dict[str, Any]] = {
        ".auto_annotation": {
            "BadFunctionError": BadFunctionError,
            "DetectionAnnotation": object,
            "DetectionFunctionContext": object,
            "DetectionFunctionSpec": DetectionFunctionSpec,
            "InteractionFunctionContext": object,
            "InteractionFunctionSpec": InteractionFunctionSpec,
            "InteractionPrompts": object,
            "InteractionResultAttributes": types.SimpleNamespace(CONFIDENCE=0),
            "InteractionResultShape": InteractionResultShape,
            "label_spec": lambda name, id: types.SimpleNamespace(name=name, id=id),  # noqa: A006 -- the SDK's word
            "mask": shape("mask"),
            "polygon": shape("polygon"),
        },
        ".masks": {"encode_mask": encode_mask},
        ".models": {"AttributeValRequest": lambda **fields: types.SimpleNamespace(**fields)},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            vars(module).update(names.get(name, {}))
            patch.setitem(sys.modules, f"cvat_sdk{name}", module)
            if name:
                patch.setattr(modules[""], name[1:], module, raising=False)
        yield
