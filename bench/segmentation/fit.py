"""Fit the three short lists of weights in ``regions.py``, on the photos for tuning only.

``python -m bench.segmentation.fit`` prints them. Each is a ridge regression of the IoU that a candidate has with the
thing that was meant, on the candidate's figures; every click, edit or box counts the same however many candidates
it has.
"""

import sys
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.segmentation.judge import deepest, jittered_box, through_cache
from bench.segmentation.photos import TUNE, Photo, Thing, split
from labeling_ground.inference.classical import candidates, regions
from labeling_ground.inference.classical.engine import encode_image
from labeling_ground.inference.classical.scene import Scene, unpack
from labeling_ground.inference.classical.seeds import read
from labeling_ground.key import canonical
from labeling_ground.types import Point

Rows = list[tuple[NDArray[np.float32], NDArray[np.float32], str]]
BoolArray = NDArray[np.bool_]

CLICKS = 6
RIDGE = 3.0


def main() -> int:
    """Collect candidates, fit, and print weights and how much of the best possible choice they get."""
    clicks: Rows = []
    sets: Rows = []
    adds: Rows = []
    cuts: Rows = []
    boxes: Rows = []
    rng = np.random.default_rng(7)
    for photo in (view for whole in split(TUNE) for view in _views(whole, rng)):
        scene = unpack(through_cache(encode_image(photo.pixels)))
        for thing in photo.things:
            _collect(photo, thing.mask, scene, rng, clicks, sets, adds, cuts, boxes, thing.name)
    for name, rows, centred in (
        ("CLICK", clicks, False),
        ("SET", sets, False),
        ("ADD", adds, True),
        ("REMOVE", cuts, True),
        ("BOX", boxes, False),
    ):
        weights = _ridge(rows, centred=centred)
        chosen = [float(t[int((f @ weights).argmax())]) for f, t, _ in rows]
        held = _held_out(rows, centred=centred)
        best = [float(t.max()) for _, t, _ in rows]
        figures = f"chosen {np.mean(chosen):.3f}, one photo held out {held:.3f}, best {np.mean(best):.3f}"
        print(f"# {name}: {len(rows)} choices, {figures}")
        print(f"{name} = [" + ", ".join(f"{w:.3f}" for w in weights) + "]")
    return 0


def _views(photo: Photo, rng: np.random.Generator) -> list[Photo]:
    """The photo, and two random crops of it, so that sizes and places in the image vary more than five photos do."""
    views = [photo]
    height, width = photo.pixels.shape[:2]
    for share in (0.75, 0.55):
        h, w = int(height * share), int(width * share)
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        window = (slice(y, y + h), slice(x, x + w))
        kept = [
            Thing(thing.name, np.ascontiguousarray(thing.mask[window]))
            for thing in photo.things
            if thing.mask[window].sum() >= 0.8 * thing.mask.sum()
        ]
        views.append(Photo(photo.name, np.ascontiguousarray(photo.pixels[window]), tuple(kept)))
    return views


def _collect(
    photo: Photo, truth: BoolArray, scene: Scene, rng: np.random.Generator,
    clicks: Rows, sets: Rows, adds: Rows, cuts: Rows, boxes: Rows, name: str,
) -> None:  # fmt: skip
    measure = _measure(scene, truth)
    h, w = scene.labels.shape
    places = [deepest(truth)] + [_near_middle(truth, rng) for _ in range(CLICKS - 1)]
    for place in places:
        seeds = read(scene, canonical([Point(*place, 1)]))
        x = candidates.around(scene, seeds)
        x = np.concatenate([x, *(candidates.refine(scene, x[i : i + 1], seeds) for i in range(1, len(x), 3))])
        ious = measure(x)
        clicks.append((regions.figures(scene, x, seeds.anchors), ious, photo.name))
        # Errors to mend: from good, fair and poor starts alike.
        for row in rng.choice(len(x), 3, p=(ious + 0.02) / (ious + 0.02).sum()):
            mask = x[row][scene.labels]
            small = np.asarray(_resize(truth, h, w))
            missed, extra = small & ~mask, mask & ~small
            sides = [(missed, 1), (extra, 0)]
            error, label = max(sides, key=lambda side: float(_depth(side[0])))
            if error.sum() < 4:
                continue
            px, py = deepest(error)
            leaf = int(scene.labels[int(py), int(px)])
            if bool(x[row][leaf]) == (label == 1) or leaf in seeds.positive:
                continue
            also = seeds.with_leaf(leaf, label)
            results = candidates.edits(scene, x[row], leaf, also)
            if len(results) < 2:
                continue
            figures = candidates.edit_figures(scene, x[row], results, leaf)
            (adds if label else cuts).append((figures, measure(results), photo.name))
    for place in places[:3]:
        _several(photo.name, truth, scene, rng, place, sets)
    for number in range(4):
        seeds = read(scene, canonical(box=jittered_box(truth, f"{name}{number}")))
        x = candidates.in_box(scene, seeds)
        x = np.concatenate([x, *(candidates.refine(scene, x[i : i + 1], seeds) for i in range(0, len(x), 2))])
        boxes.append((regions.box_figures(scene, x, seeds.need_box()), measure(x), photo.name))


def _several(
    name: str, truth: BoolArray, scene: Scene, rng: np.random.Generator, place: tuple[float, float], sets: Rows
) -> None:
    """Sets of two to five clicks, each click at an error of what the earlier ones gave."""
    measure = _measure(scene, truth)
    h, w = scene.labels.shape
    small = _resize(truth, h, w)
    scale = np.asarray([truth.shape[1] / w, truth.shape[0] / h])
    points = [Point(*place, 1)]
    seeds = read(scene, canonical(points))
    x = candidates.around(scene, seeds)
    now = x[int((regions.figures(scene, x, seeds.anchors) @ regions.CLICK + rng.normal(0, 0.1, len(x))).argmax())]
    for _ in range(4):
        mask = now[scene.labels]
        label = int(_depth(small & ~mask) >= _depth(mask & ~small))
        error = small & ~mask if label else mask & ~small
        if error.sum() < 4:
            return
        at = np.asarray(deepest(error)) * scale
        points.append(Point(float(at[0]), float(at[1]), label))
        seeds = read(scene, canonical(points))
        starts = candidates.around(scene, seeds)
        ious = measure(starts)
        tried = np.argsort(-(ious + rng.random(len(ious)) * 0.7))[:8]
        results = candidates.mend(scene, starts[tried], seeds)
        wrong = seeds.wrong(starts[tried])
        figures = regions.set_figures(scene, results, seeds.anchors, wrong, seeds.spread(scene))
        target = measure(results)
        sets.append((figures, target, name))
        now = results[int(np.argsort(-target)[int(rng.integers(min(4, len(results))))])]


def _measure(scene: Scene, truth: BoolArray) -> Callable[[BoolArray], NDArray[np.float32]]:
    h, w = scene.labels.shape
    small = _resize(truth, h, w)
    share = np.bincount(scene.labels.ravel(), small.ravel(), scene.size).astype(np.float32)

    def measure(x: BoolArray) -> NDArray[np.float32]:
        both = x @ share
        return np.asarray(both / (x @ scene.area + share.sum() - both), np.float32)

    return measure


def _resize(mask: BoolArray, height: int, width: int) -> BoolArray:
    rows = (np.arange(height) + 0.5) * mask.shape[0] / height
    columns = (np.arange(width) + 0.5) * mask.shape[1] / width
    return np.asarray(mask[rows.astype(int)][:, columns.astype(int)])


def _depth(mask: BoolArray) -> float:
    return float(np.max(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)))


def _near_middle(mask: BoolArray, rng: np.random.Generator) -> tuple[float, float]:
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.nonzero(depth >= 0.55 * depth.max())
    pick = int(rng.integers(len(x)))
    return float(x[pick]) + 0.5, float(y[pick]) + 0.5


def _ridge(rows: Rows, *, centred: bool) -> NDArray[np.float64]:
    width = rows[0][0].shape[1]
    gram, moment = np.zeros((width, width)), np.zeros(width)
    for figures, ious, _ in rows:
        f, t = figures.astype(np.float64), ious.astype(np.float64)
        weight = t - t.min() + 0.1
        weight /= weight.sum()
        if centred:
            f, t = f - weight @ f, t - weight @ t
        gram += f.T @ (weight[:, None] * f)
        moment += f.T @ (weight * t)
    scale = np.sqrt(np.diag(gram) / len(rows)) + 1e-3
    penalty = np.diag(scale**2) * RIDGE
    if not centred:
        penalty[0, 0] = 0
    return np.asarray(np.linalg.solve(gram + penalty, moment))


def _held_out(rows: Rows, *, centred: bool) -> float:
    names = sorted({name for _, _, name in rows})
    got: list[float] = []
    for name in names:
        weights = _ridge([row for row in rows if row[2] != name], centred=centred)
        got += [float(t[int((f @ weights).argmax())]) for f, t, n in rows if n == name]
    return float(np.mean(got))


if __name__ == "__main__":
    sys.exit(main())
