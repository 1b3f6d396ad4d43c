"""The merge tree: neighbouring regions joined from most to least alike, until one is left."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.classical.features import FloatArray, IntArray
from labeling_ground.inference.classical.graph import Graph


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the cost of a merge is made of.

    Attributes:
        colour: weight of the difference in mean colour, per Lab unit.
        gradient: weight of the mean gradient along the common border, per Lab unit a pixel.
        histogram: weight of 1 − the Bhattacharyya coefficient of the colour histograms.
        size: exponent of the smaller area's share: 0 lets small regions live long, 1 swallows them at once.
    """

    colour: float
    gradient: float
    histogram: float
    size: float


RECIPES = (Recipe(0.5, 2.0, 40.0, 0.7), Recipe(0.25, 4.0, 20.0, 0.5))
"""Two trees, as no one order of merging is always right: one by what regions look like, one by the edges between."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A binary tree over ``n`` superpixels: nodes 0..n-1 are its leaves, node 2n-2 its root.

    Attributes:
        parent: ``int32 [2n-1]``, -1 at the root.
        level: ``float32 [2n-1]``, cost of the merge that made the node, 0 at leaves, never less than a child's.
        leaves: ``int32 [n]``, superpixels in an order in which each node's leaves are neighbours.
        first: ``int32 [2n-1]``, where a node's leaves begin in ``leaves``.
        count: ``int32 [2n-1]``, how many leaves it has.
        box: ``int32 [2n-1, 4]``, x0, y0, x1, y1 in work pixels, upper ends excluded.
    """

    parent: IntArray
    level: FloatArray
    leaves: IntArray
    first: IntArray
    count: IntArray
    box: IntArray


def build(graph: Graph, recipe: Recipe) -> Tree:
    """Join regions by rounds: in each, pairs that are one another's nearest neighbour merge.

    For a reducible merge cost such rounds give the tree of the one-by-one greedy algorithm (Murtagh, 1983) while each
    round is a handful of array operations, which matters in a process that serves an event loop too. Our cost is
    nearly reducible; the dearer half of a round's pairs waits, so that it may still find something better.
    """
    n = len(graph.area)
    total = 2 * n - 1
    area = np.zeros(total, np.float64)
    area[:n] = graph.area
    colour = np.zeros((total, 3), np.float32)
    colour[:n] = graph.colour
    histogram = np.zeros((total, graph.histogram.shape[1]), np.float32)
    histogram[:n] = graph.histogram
    root = np.sqrt(histogram)
    box = np.zeros((total, 4), np.int32)
    box[:n] = graph.box
    parent = np.full(total, -1, np.int32)
    level = np.zeros(total, np.float32)
    children = np.zeros((total, 2), np.int32)
    whole = float(graph.area.sum())

    def cost(ends: IntArray, strength: FloatArray) -> FloatArray:
        a, b = ends[:, 0], ends[:, 1]
        apart = np.sqrt(((colour[a] - colour[b]) ** 2).sum(axis=1))
        alike = np.einsum("ij,ij->i", root[a], root[b])  # Bhattacharyya coefficient
        unlike = recipe.colour * apart + recipe.gradient * strength + recipe.histogram * (1 - alike)
        share = np.minimum(area[a], area[b]) / whole
        return np.asarray(unlike * share**recipe.size, np.float32)

    ends = graph.ends
    length: NDArray[np.floating] = graph.length.astype(np.float64)
    pull: NDArray[np.floating] = graph.strength * length
    costs = cost(ends, graph.strength)
    made = n
    while made < total:
        chosen = _mutual(ends, costs, made)
        chosen = chosen[np.argsort(costs[chosen], kind="stable")]
        if len(chosen) > 2:
            chosen = chosen[: -(-len(chosen) // 2)]
        a, b = ends[chosen, 0], ends[chosen, 1]
        new = np.arange(made, made + len(chosen), dtype=np.int32)
        made += len(chosen)
        parent[a] = parent[b] = new
        children[new, 0], children[new, 1] = a, b
        level[new] = np.maximum(costs[chosen], np.maximum(level[a], level[b]))
        area[new] = area[a] + area[b]
        part = (area[a] / area[new]).astype(np.float32)[:, None]
        colour[new] = part * colour[a] + (1 - part) * colour[b]
        histogram[new] = part * histogram[a] + (1 - part) * histogram[b]
        root[new] = np.sqrt(histogram[new])
        box[new, :2] = np.minimum(box[a, :2], box[b, :2])
        box[new, 2:] = np.maximum(box[a, 2:], box[b, 2:])
        # The edges again, between the regions that there are now.
        now = np.arange(total, dtype=np.int64)
        now[a] = now[b] = new
        u, v = now[ends[:, 0]], now[ends[:, 1]]
        kept = u != v
        fresh = (u >= new[0]) | (v >= new[0])
        key = np.minimum(u, v) * total + np.maximum(u, v)
        pairs, where, inverse = np.unique(key[kept], return_index=True, return_inverse=True)
        length = np.bincount(inverse, length[kept], len(pairs)).astype(np.float64)
        pull = np.bincount(inverse, pull[kept], len(pairs)).astype(np.float64)
        costs, fresh = costs[kept][where], fresh[kept][where]
        ends = np.stack([pairs // total, pairs % total], axis=1).astype(np.int32)
        if fresh.any():
            costs[fresh] = cost(ends[fresh], (pull[fresh] / length[fresh]).astype(np.float32))
    leaves, first, count = _order(children, n)
    return Tree(parent, level, leaves, first, count, box)


def _mutual(ends: IntArray, costs: FloatArray, made: int) -> IntArray:
    """Edges that are the cheapest one at both of their ends; ties go to the lower edge number."""
    falling = np.argsort(costs, kind="stable")[::-1]
    best = np.full(made, -1, np.int64)
    best[ends[falling].ravel()] = np.repeat(falling, 2)  # the last write, the cheapest edge's, stays
    edge = np.arange(len(ends))
    return np.flatnonzero((best[ends[:, 0]] == edge) & (best[ends[:, 1]] == edge)).astype(np.int32)


def _order(children: IntArray, n: int) -> tuple[IntArray, IntArray, IntArray]:
    total = len(children)
    kids = children.tolist()
    count = [1] * total
    for node in range(n, total):
        a, b = kids[node]
        count[node] = count[a] + count[b]
    first = [0] * total
    for node in range(total - 1, n - 1, -1):
        a, b = kids[node]
        first[a] = first[node]
        first[b] = first[node] + count[a]
    leaves = np.empty(n, np.int32)
    leaves[np.asarray(first[:n])] = np.arange(n)
    return leaves, np.asarray(first, np.int32), np.asarray(count, np.int32)
