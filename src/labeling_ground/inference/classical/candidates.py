"""Candidates for what is meant: nodes of the merge tree, edits of a region by clicks, and cuts that sharpen them."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from labeling_ground.inference.classical import regions
from labeling_ground.inference.classical.cut import from_sorted, minimum_cut
from labeling_ground.inference.classical.features import FloatArray
from labeling_ground.inference.classical.regions import BoolArray
from labeling_ground.inference.classical.scene import Nodes, Scene
from labeling_ground.inference.classical.seeds import Seeds

STEP = 1.1
"""A node is worth a look if its parent is larger by this factor: of a run of near-equals the last one stands."""

EDIT_STEP = 1.25
"""The same for what a click adds or removes, where there are many more to look at."""

BOXED = 6
"""Nodes of each tree that a box is compared with in full."""

PRIOR = 1.0
"""Pull of the unsharpened region on each superpixel, in units of a log-likelihood ratio."""

SMOOTH = 5.0
"""Cost of a border as long as a superpixel's side where there is no edge at all, in the same units."""

COLOUR_CLIP = 3.0
"""Most that a superpixel's colours may say for or against the object, in the same units."""

ROUNDS = 1
"""Cuts in a row, each with colour models of the one before; a second one changed nothing worth its time."""


def path(tree: Nodes, leaf: int, step: float) -> list[int]:
    """Nodes that hold a superpixel, from itself to the root, without those that soon grow by little."""
    parent, area = tree.parent, tree.area
    nodes, node = [leaf], leaf
    while (up := int(parent[node])) >= 0:
        if area[up] > step * area[node] and node != leaf:
            nodes.append(node)
        node = up
    if node != leaf:
        nodes.append(node)
    return nodes


def members(tree: Nodes, nodes: list[int]) -> BoolArray:
    """The superpixels of some nodes: ``bool [k, n]``."""
    x = np.zeros((len(nodes), len(tree.leaves)), np.bool_)
    for row, node in enumerate(nodes):
        x[row, tree.leaves[tree.first[node] : tree.first[node] + tree.count[node]]] = True
    return x


def around(scene: Scene, seeds: Seeds) -> BoolArray:
    """All nodes that hold a positive click, of all trees."""
    found = []
    for tree in scene.trees:
        nodes = {node for leaf in seeds.positive.tolist() for node in path(tree, leaf, STEP)}
        found.append(members(tree, sorted(nodes)))
    return np.concatenate(found)


def in_box(scene: Scene, seeds: Seeds) -> BoolArray:
    """Nodes whose own box is much like the given one, the box itself, and ellipses in it."""
    x0, y0, x1, y1 = seeds.need_box()
    found = []
    for tree in scene.trees:
        left, top, right, bottom = tree.box.T
        tight = regions.box_overlap(left, top, right, bottom, (x0, y0, x1, y1))
        found.append(members(tree, np.argsort(-tight, kind="stable")[:BOXED].tolist()))
    away = ((scene.centre[:, 0] - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2 + (
        (scene.centre[:, 1] - (y0 + y1) / 2) / ((y1 - y0) / 2)
    ) ** 2
    limit = allowed(scene, seeds)
    shapes = np.stack([away < 1, away < 0.5, limit])
    x = np.concatenate([*found, shapes]) & limit
    return x[x.any(axis=1)]


def allowed(scene: Scene, seeds: Seeds) -> BoolArray:
    """Superpixels that may be object: all, or with a box those that lie in it for the most part."""
    if seeds.box is None:
        return np.ones(scene.size, np.bool_)
    x0, y0, x1, y1 = seeds.box
    w = np.clip(np.minimum(scene.box[:, 2], x1) - np.maximum(scene.box[:, 0], x0), 0, None)
    h = np.clip(np.minimum(scene.box[:, 3], y1) - np.maximum(scene.box[:, 1], y0), 0, None)
    full = (scene.box[:, 2] - scene.box[:, 0]) * (scene.box[:, 3] - scene.box[:, 1])
    inside = w * h > 0.4 * full
    if not inside.any():
        inside = w * h >= (w * h).max()
    return np.asarray(inside)


def edits(scene: Scene, x: BoolArray, leaf: int, seeds: Seeds) -> BoolArray:
    """Ways to make a region agree with a click on ``leaf``, which it does not.

    Returns:
        The regions that result: ``bool [k, n]``, at least one.
    """
    add = not x[leaf]
    nodes = members(scene.trees[0], path(scene.trees[0], leaf, EDIT_STEP))
    others = seeds.negative if add else seeds.positive
    if len(others):
        nodes = nodes[~nodes[:, others].any(axis=1)]
    results = nodes | x if add else x & ~nodes
    sizes, size = results @ scene.area, float(x @ scene.area)
    fit = sizes <= max(3.0 * size, sizes[0]) if add else sizes >= min(0.3 * size, sizes[0])
    return np.asarray(results[fit])


def edit_figures(scene: Scene, x: BoolArray, results: BoolArray, leaf: int) -> FloatArray:
    """Figures of edits: of the result, of what is added or removed, and of the change in size.

    Args:
        scene: the image.
        x: ``bool [k, n]`` or ``[n]``, the region that each edit is made to.
        results: ``bool [k, n]``, the regions that result.
        leaf: the superpixel that was clicked.
    """
    place = scene.centre[leaf][None]
    k = len(results)
    change = results ^ x
    both = regions.figures(scene, np.concatenate([results, change]), place)
    size = np.maximum(np.broadcast_to(x @ scene.area, k), 1.0)
    changed = np.log((change @ scene.area) / size + 0.01)
    both[:k, -3:] = regions.UNPLACED  # the click says where the change is, not where the thing is
    return np.concatenate([both[:k, 1:], both[k:, 1:], changed[:, None], changed[:, None] ** 2 / 10], axis=1).astype(
        np.float32
    )


def mend(scene: Scene, many: BoolArray, seeds: Seeds) -> BoolArray:
    """Make regions agree with all clicks, one click after the other: ``bool [k, n]`` to the same."""
    many = many.copy()
    for leaf in (*seeds.positive.tolist(), *seeds.negative.tolist()):
        wanted = leaf in seeds.positive
        rows = [row for row in range(len(many)) if not seeds.settled(many[row], leaf, wanted)]
        if not rows:
            continue
        found = [edits(scene, many[row], leaf, seeds) for row in rows]
        results = np.concatenate(found)
        counts = [len(result) for result in found]
        before = np.repeat(many[rows], counts, axis=0)
        weights = regions.ADD if wanted else regions.REMOVE
        scores = edit_figures(scene, before, results, leaf) @ weights
        end = 0
        for row, count in zip(rows, counts, strict=True):
            many[row] = results[end + int(scores[end : end + count].argmax())]
            end += count
    return many


def refine(scene: Scene, many: BoolArray, seeds: Seeds) -> BoolArray:
    """Move regions' borders to where colours and edges ask for it: ``bool [k, n]`` to the same."""
    return np.stack([_refine(scene, x, seeds) for x in many])


def _refine(scene: Scene, x: BoolArray, seeds: Seeds) -> BoolArray:
    if not x.any():
        return x
    fixed = np.where(allowed(scene, seeds), np.int8(0), np.int8(-1))
    pad = 3 * scene.cell + 0.2 * float(np.sqrt(x @ scene.area))
    b = scene.box[x]
    near = (
        (scene.centre[:, 0] > b[:, 0].min() - pad)
        & (scene.centre[:, 1] > b[:, 1].min() - pad)
        & (scene.centre[:, 0] < b[:, 2].max() + pad)
        & (scene.centre[:, 1] < b[:, 3].max() + pad)
    )
    fixed[~near] = -1
    fixed[seeds.negative[~x[seeds.negative]]] = -1
    fixed[seeds.positive[x[seeds.positive]]] = 1
    weight = scene.area / scene.area.mean()
    pairwise = SMOOTH * scene.length / scene.cell * np.exp(-scene.cost / (2 * scene.typical))
    prior = np.where(x, np.float32(PRIOR), np.float32(-PRIOR))
    now = x
    for _ in range(ROUNDS):
        inside = (now * scene.area) @ scene.histogram
        outside = ((near & ~now) * scene.area) @ scene.histogram
        if inside.sum() <= 0 or outside.sum() <= 0:
            break
        ratio = np.log((inside / inside.sum() + 2e-3) / (outside / outside.sum() + 2e-3))
        unary = np.clip(scene.histogram @ ratio, -COLOUR_CLIP, COLOUR_CLIP) + prior
        new = minimum_cut((unary * weight).astype(np.float32), scene.ends, pairwise, fixed)
        if not new.any() or (new == now).all():
            break
        now = new
    now = tidy(scene, now, seeds)
    return now if now.any() else x


def tidy(scene: Scene, x: BoolArray, seeds: Seeds) -> BoolArray:
    """Keep the parts that were clicked (or the large ones), and fill small holes."""
    u, v = scene.ends[:, 0], scene.ends[:, 1]
    same = x[u] == x[v]
    n = scene.size
    linked = from_sorted(u[same], v[same], np.ones(int(same.sum()), np.int8), n)
    count, part = connected_components(linked, directed=False)
    sizes = np.bincount(part, scene.area, count)
    inside = np.zeros(count, np.bool_)
    inside[part[x]] = True
    if not inside.any():
        return x
    if len(seeds.positive):
        kept = np.zeros(count, np.bool_)
        kept[part[seeds.positive]] = True
        kept &= inside
    else:
        kept = np.zeros(count, np.bool_)
    if not kept.any():
        kept = inside & (sizes >= 0.2 * sizes[inside].max())
    hole = ~inside & (sizes < 0.1 * sizes[kept].sum())
    hole[part[scene.rim > 0]] = False
    hole[part[seeds.negative]] = False
    # A hole has no neighbour but the body: every edge that leaves it ends in a kept part.
    for here, there in ((u, v), (v, u)):
        leaving = hole[part[here]] & ~same & ~kept[part[there]]
        hole[part[here[leaving]]] = False
    return np.asarray((kept | hole)[part])


def overlap(scene: Scene, a: BoolArray, b: BoolArray) -> float:
    """IoU of two regions."""
    either = float((a | b) @ scene.area)
    return float((a & b) @ scene.area) / either if either else 1.0


def distinct(scene: Scene, x: BoolArray, scores: NDArray[np.floating], count: int, most: float) -> list[int]:
    """Rows by falling score, at most ``count``, none with an IoU of ``most`` or above with a better one."""
    chosen: list[int] = []
    for row in np.argsort(-scores, kind="stable").tolist():
        if all(overlap(scene, x[row], x[other]) < most for other in chosen):
            chosen.append(row)
            if len(chosen) == count:
                break
    return chosen
