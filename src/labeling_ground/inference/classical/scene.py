"""The embedding's tensors: written by the encoder, made ready for the decoder.

Floats are half precision from the start, as the cache keeps them, so that a mask does not depend on whether its
embedding has been stored. Whatever can outgrow the range of half precision is an integer.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.classical.features import Features, FloatArray, IntArray
from labeling_ground.inference.classical.graph import Graph
from labeling_ground.inference.classical.tree import Tree
from labeling_ground.types import Embedding

COLOUR_IN_COST = 0.5
"""Weight of the colour difference of two superpixels against the gradient between them."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a decode works on: an embedding with its floats widened and the figures that all prompts need.

    Attributes:
        height: rows of the original image.
        width: columns of the original image.
        labels: ``int16 [h, w]``, superpixel of every work pixel.
        lightness: ``uint8 [h, w]``, L of the work image, 0..255.
        area, colour, histogram, rim, box: per superpixel, as in ``Graph``; ``area`` and ``rim`` as floats.
        centre: ``float32 [n, 2]``, x and y of the middle of each superpixel's box, work pixels.
        ends, length, strength: per edge, as in ``Graph``; ``length`` as floats.
        apart: ``float32 [e]``, colour difference over the edge, Lab units.
        cost: ``float32 [e]``, strength and colour difference together.
        typical: the median of ``cost``.
        contact: ``[n, n]``, lengths of contact, symmetric.
        tree: the merge tree.
        node_area: ``float32 [2n-1]``, pixels of each node.
    """

    height: int
    width: int
    labels: NDArray[np.int16]
    lightness: NDArray[np.uint8]
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
    contact: csr_array
    tree: Tree
    node_area: FloatArray

    @property
    def size(self) -> int:
        """Number of superpixels."""
        return len(self.area)

    @property
    def cell(self) -> float:
        """Side of a typical superpixel, in work pixels."""
        return float(np.sqrt(self.area.mean()))


def pack(features: Features, graph: Graph, tree: Tree, height: int, width: int) -> Embedding:
    """Lay an encoded image out as tensors.

    Args:
        features: measures of the work image.
        graph: its superpixels.
        tree: their merge tree.
        height: rows of the original image.
        width: columns of the original image.
    """
    half, short = np.float16, np.int16
    return Embedding(
        {
            "labels": features.labels.astype(short),
            "lightness": np.clip(np.round(features.lab[:, :, 0] * 2.55), 0, 255).astype(np.uint8),
            "area": graph.area,
            "colour": graph.colour.astype(half),
            "histogram": graph.histogram.astype(half),
            "rim": graph.rim.astype(short),
            "box": graph.box.astype(short),
            "ends": graph.ends.astype(short),
            "length": graph.length.astype(short),
            "strength": graph.strength.astype(half),
            "tree_parent": tree.parent.astype(short),
            "tree_level": tree.level.astype(half),
            "tree_leaves": tree.leaves.astype(short),
            "tree_first": tree.first.astype(short),
            "tree_count": tree.count.astype(short),
            "tree_box": tree.box.astype(short),
        },
        height,
        width,
    )


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
    leaves = np.asarray(t["tree_leaves"]).astype(np.int32)
    first = np.asarray(t["tree_first"]).astype(np.int32)
    count = np.asarray(t["tree_count"]).astype(np.int32)
    summed = np.concatenate([[0.0], np.cumsum(area[leaves], dtype=np.float64)])
    n = len(area)
    rows = np.concatenate([ends[:, 0], ends[:, 1]])
    columns = np.concatenate([ends[:, 1], ends[:, 0]])
    return Scene(
        height=embedding.height,
        width=embedding.width,
        labels=np.asarray(t["labels"]),
        lightness=np.asarray(t["lightness"]),
        area=area,
        colour=colour,
        histogram=np.asarray(t["histogram"]).astype(single),
        rim=np.asarray(t["rim"]).astype(single),
        box=box,
        centre=(box[:, :2] + box[:, 2:]) / 2,
        ends=ends,
        length=length,
        strength=strength,
        apart=apart,
        cost=cost,
        typical=max(float(np.median(cost)), 1e-3) if len(cost) else 1.0,
        contact=csr_array((np.concatenate([length, length]), (rows, columns)), shape=(n, n)),
        tree=Tree(
            parent=np.asarray(t["tree_parent"]).astype(np.int32),
            level=np.asarray(t["tree_level"]).astype(single),
            leaves=leaves,
            first=first,
            count=count,
            box=np.asarray(t["tree_box"]).astype(np.int32),
        ),
        node_area=(summed[first + count] - summed[first]).astype(np.float32),
    )


def shrink(mask_input: NDArray[np.float32], scene: Scene) -> FloatArray:
    """Low-res logits on the work image: ``float32 [h, w]``, from SAM's frame (long side 256, padded right and below)."""
    rows, columns = frame(scene.height, scene.width)
    h, w = scene.labels.shape
    inner = np.ascontiguousarray(mask_input[:rows, :columns])
    return np.asarray(cv2.resize(inner, (w, h), interpolation=cv2.INTER_LINEAR), np.float32).reshape(h, w)


def frame(height: int, width: int) -> tuple[int, int]:
    """Rows and columns that the image takes of the 256 × 256 low-res frame."""
    scale = 256 / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
