"""The embedding's tensors: written by the encoder, made ready for the decoder.

Floats are half precision from the start, as the cache keeps them, so that a mask does not depend on whether its
embedding has been stored. Whatever can outgrow the range of half precision is an integer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.classical.features import Features, FloatArray, IntArray
from labeling_ground.inference.classical.graph import Graph
from labeling_ground.inference.classical.tree import RECIPES, Tree
from labeling_ground.types import Embedding

COLOUR_IN_COST = 0.5
"""Weight of the colour difference of two superpixels against the gradient between them."""


WEAK = 0.6
"""A border of less than this share of the median cost is a weak one."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """A merge tree as the decoder needs it: see ``Tree``, and ``area``, ``float32 [2n-1]``, pixels of each node."""

    parent: IntArray
    leaves: IntArray
    first: IntArray
    count: IntArray
    box: FloatArray
    area: FloatArray


@dataclass(frozen=True, slots=True)
class Scene:
    """What a decode works on: an embedding with its floats widened and the figures that all prompts need.

    Attributes:
        height: rows of the original image.
        width: columns of the original image.
        labels: ``int16 [h, w]``, superpixel of every work pixel.
        lightness: ``uint8 [h, w]``, L of the work image, 0..255.
        chroma: ``uint8 [⌈h/2⌉, ⌈w/2⌉, 2]``, its a and b, 128 is neutral.
        area, colour, histogram, rim, box: per superpixel, as in ``Graph``; ``area`` and ``rim`` as floats.
        centre: ``float32 [n, 2]``, x and y of the middle of each superpixel's box, work pixels.
        ends, length, strength: per edge, as in ``Graph``; ``length`` as floats.
        apart: ``float32 [e]``, colour difference over the edge, Lab units.
        cost: ``float32 [e]``, strength and colour difference together.
        typical: the median of ``cost``.
        sides: ``int16 [4, n]``, ``box`` by columns.
        weights: ``float32 [4, e]``, length, and length weighted by strength, by colour difference, and by whether the
            border is a weak one.
        sums: ``float32 [n, 6 + k]``, what adds up over a region: area, rim, area times x and y of the centre, length
            of all borders and the same weighted by strength, and area times the histogram.
        whole: ``float32 [k]``, the sum of area times histogram over the image.
        trees: the merge trees.
    """

    height: int
    width: int
    labels: NDArray[np.int16]
    lightness: NDArray[np.uint8]
    chroma: NDArray[np.uint8]
    area: FloatArray
    colour: FloatArray
    histogram: FloatArray
    rim: FloatArray
    box: FloatArray
    centre: FloatArray
    ends: IntArray
    length: FloatArray
    strength: FloatArray
    apart: FloatArray
    cost: FloatArray
    typical: float
    sides: NDArray[np.int16]
    weights: FloatArray
    sums: FloatArray
    whole: FloatArray
    trees: tuple[Nodes, ...]

    @property
    def size(self) -> int:
        """Number of superpixels."""
        return len(self.area)

    @property
    def cell(self) -> float:
        """Side of a typical superpixel, in work pixels."""
        return float(np.sqrt(self.area.mean()))


def pack(features: Features, graph: Graph, trees: Sequence[Tree], height: int, width: int) -> Embedding:
    """Lay an encoded image out as tensors.

    Args:
        features: measures of the work image.
        graph: its superpixels.
        trees: their merge trees.
        height: rows of the original image.
        width: columns of the original image.
    """
    half, short = np.float16, np.int16
    tensors: dict[str, NDArray[Any]] = {
        "labels": features.labels.astype(short),
        "lightness": np.clip(np.round(features.lab[:, :, 0] * 2.55), 0, 255).astype(np.uint8),
        "chroma": _chroma(features.lab),
        "area": graph.area,
        "colour": graph.colour.astype(half),
        "histogram": graph.histogram.astype(half),
        "rim": graph.rim.astype(short),
        "box": graph.box.astype(short),
        "ends": graph.ends.astype(short),
        "length": graph.length.astype(short),
        "strength": graph.strength.astype(half),
    }
    for number, tree in enumerate(trees):
        tensors[f"tree{number}_parent"] = tree.parent.astype(short)
        tensors[f"tree{number}_leaves"] = tree.leaves.astype(short)
        tensors[f"tree{number}_first"] = tree.first.astype(short)
        tensors[f"tree{number}_count"] = tree.count.astype(short)
        tensors[f"tree{number}_box"] = tree.box.astype(short)
    return Embedding(tensors, height, width)


def _chroma(lab: FloatArray) -> NDArray[np.uint8]:
    """a and b at half the size, as photo formats keep them: ``uint8 [⌈h/2⌉, ⌈w/2⌉, 2]``, 128 is neutral."""
    h, w = lab.shape[:2]
    size = (-(-w // 2), -(-h // 2))
    half = cv2.resize(np.ascontiguousarray(lab[:, :, 1:]), size, interpolation=cv2.INTER_AREA)
    return np.clip(np.round(half + 128), 0, 255).astype(np.uint8).reshape(size[1], size[0], 2)


def unpack(embedding: Embedding) -> Scene:
    """Make an embedding ready for decoding; about a millisecond.

    Raises:
        BackendFailed: a tensor is missing: the embedding is not one of this engine.
    """
    try:
        return _unpack(embedding)
    except KeyError as error:
        raise BackendFailed(f"The embedding has no tensor {error}: another engine made it.") from None


def _unpack(embedding: Embedding) -> Scene:
    t = embedding.tensors
    single = np.float32
    area = np.asarray(t["area"]).astype(single)
    colour = np.asarray(t["colour"]).astype(single)
    ends = np.asarray(t["ends"]).astype(np.int32).reshape(-1, 2)
    length = np.asarray(t["length"]).astype(single)
    strength = np.asarray(t["strength"]).astype(single)
    box = np.asarray(t["box"]).astype(single)
    apart = np.sqrt(((colour[ends[:, 0]] - colour[ends[:, 1]]) ** 2).sum(axis=1))
    cost = COLOUR_IN_COST * apart + strength
    n = len(area)
    typical = max(float(np.median(cost)), 1e-3) if len(cost) else 1.0
    rim = np.asarray(t["rim"]).astype(single)
    histogram = np.asarray(t["histogram"]).astype(single)
    centre = np.asarray((box[:, :2] + box[:, 2:]) / 2, single)
    weights = np.stack([length, length * strength, length * apart, length * (cost < WEAK * typical)])
    degrees = [np.bincount(ends.ravel(), np.repeat(w, 2), n) for w in weights[:2]]
    sums = np.empty((n, 6 + histogram.shape[1]), single)
    sums[:, :6] = np.stack([area, rim, area * centre[:, 0], area * centre[:, 1], *degrees], axis=1)
    sums[:, 6:] = area[:, None] * histogram
    return Scene(
        height=embedding.height,
        width=embedding.width,
        labels=np.asarray(t["labels"]),
        lightness=np.asarray(t["lightness"]),
        chroma=np.asarray(t["chroma"]),
        area=area,
        colour=colour,
        histogram=histogram,
        rim=rim,
        box=box,
        centre=centre,
        ends=ends,
        length=length,
        strength=strength,
        apart=apart,
        cost=cost,
        typical=typical,
        sides=np.ascontiguousarray(np.asarray(t["box"]).astype(np.int16).T),
        weights=weights,
        sums=sums,
        whole=sums[:, 6:].sum(axis=0),
        trees=tuple(_nodes(t, f"tree{number}", area) for number in range(len(RECIPES))),
    )


def _nodes(t: Mapping[str, NDArray[Any]], name: str, area: FloatArray) -> Nodes:
    leaves = np.asarray(t[f"{name}_leaves"]).astype(np.int32)
    first = np.asarray(t[f"{name}_first"]).astype(np.int32)
    count = np.asarray(t[f"{name}_count"]).astype(np.int32)
    summed = np.concatenate([[0.0], np.cumsum(area[leaves], dtype=np.float64)])
    return Nodes(
        parent=np.asarray(t[f"{name}_parent"]).astype(np.int32),
        leaves=leaves,
        first=first,
        count=count,
        box=np.asarray(t[f"{name}_box"]).astype(np.float32),
        area=(summed[first + count] - summed[first]).astype(np.float32),
    )


def shrink(mask_input: NDArray[np.float32], scene: Scene) -> FloatArray:
    """Low-res logits on the work image, ``float32 [h, w]``, cut out of SAM's padded frame."""
    rows, columns = frame(scene.height, scene.width)
    h, w = scene.labels.shape
    inner = np.ascontiguousarray(mask_input[:rows, :columns])
    return np.asarray(cv2.resize(inner, (w, h), interpolation=cv2.INTER_LINEAR), np.float32).reshape(h, w)


def frame(height: int, width: int) -> tuple[int, int]:
    """Rows and columns that the image takes of the 256 × 256 low-res frame."""
    scale = 256 / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
