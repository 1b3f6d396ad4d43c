"""What each kind of cached value holds: results ↔ entries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec import frame, int8
from labeling_ground.codec.mask import area, bbox, to_png, to_rle
from labeling_ground.errors import DamagedEntry
from labeling_ground.types import (
    Box,
    Concept,
    Embedding,
    Entry,
    Exemplar,
    ImageFacts,
    Kind,
    Mask,
    Point,
    Prediction,
    Prompt,
)


@dataclass(frozen=True, slots=True)
class CachedMask:
    """One candidate as it is cached: COCO RLE instead of pixels.

    Attributes:
        counts: COCO's compressed run lengths; the size stands in ``CachedPrediction``.
        score: predicted IoU, 0..1.
        area: pixels of the object.
        bbox: ``(x, y, width, height)`` in pixels; all 0 for an empty mask.
    """

    counts: str
    score: float
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a cached prediction was asked with: enough to compute it (and its logits) once more.

    ``parent`` names the prediction whose logits were the mask input, and which of its candidates. A mask input that
    was sent by value is not kept: ``repeatable`` is false then.
    """

    points: tuple[Point, ...]
    box: Box | None
    multimask: bool
    parent: tuple[str, int] | None
    repeatable: bool


@dataclass(frozen=True, slots=True)
class CachedPrediction:
    """Masks and scores for one prompt, best first."""

    height: int
    width: int
    masks: tuple[CachedMask, ...]
    origin: Origin
    png: bytes
    """The best mask as a 1-bit PNG: what session clients get on every click, so it is made once."""


@dataclass(frozen=True, slots=True)
class FoundMask:
    """A mask that «segment everything» found.

    Attributes:
        id: its candidate's number: three times its point's number in the grid, plus 0 to 2.
        point: x and y of the point, in pixels of the image.
        stability: how little the mask depends on the threshold, 0..1.
        mask: the mask and its score, here as the model gave it: it may lie a little above 1.
    """

    id: int
    point: tuple[float, float]
    stability: float
    mask: CachedMask


@dataclass(frozen=True, slots=True)
class CachedEverything:
    """All masks that a grid of so many points gave, in the order in which they were kept: best first."""

    height: int
    width: int
    points: int
    masks: tuple[FoundMask, ...]


@dataclass(frozen=True, slots=True)
class FoundInstance:
    """An instance of a concept: its mask and score, and the model's own box around it."""

    mask: CachedMask
    box: Box


@dataclass(frozen=True, slots=True)
class CachedDetections:
    """All instances of a concept that a model found, best first, and what was asked: enough to find them once more."""

    height: int
    width: int
    concept: Concept
    instances: tuple[FoundInstance, ...]


def seal_image(
    key: str, file: bytes, width: int, height: int, *, cost: float, created: float, use_preview: bool = False
) -> Entry:
    """An image file as an entry, byte for byte."""
    return frame.seal(
        key,
        Kind.IMAGE,
        cost=cost,
        created=created,
        meta={"width": width, "height": height, "use_preview": use_preview},
        tensors={"file": np.frombuffer(file, dtype=np.uint8)},
    )


def open_image(entry: Entry, key: str) -> tuple[bytes, int, int]:
    """The image file, its width and its height.

    Raises:
        DamagedEntry: the entry is something else.
    """
    with _opened(entry, key) as opened:
        return opened.tensors["file"].tobytes(), int(opened.meta["width"]), int(opened.meta["height"])


def seal_embedding(
    key: str,
    embedding: Embedding,
    *,
    cost: float,
    created: float,
    precision: frame.Precision,
    kind: Kind = Kind.EMBEDDING,
    note: str = "",
    use_preview: bool = False,
) -> Entry:
    """An embedding, or a trunk, as an entry, its floats in the given precision.

    ``note`` and ``use_preview`` are those of the image that was encoded.
    """
    return frame.seal(
        key,
        kind,
        cost=cost,
        created=created,
        meta={"width": embedding.width, "height": embedding.height, "note": note, "use_preview": use_preview},
        tensors=embedding.tensors,
        precision=precision,
    )


def open_facts(entry: Entry, key: str) -> ImageFacts:
    """What the entry of an image file, of an embedding or of a trunk says of its image.

    Raises:
        DamagedEntry: the entry is something else.
    """
    with _opened(entry, key) as opened:
        meta = opened.meta
        return ImageFacts(
            int(meta["width"]), int(meta["height"]), str(meta.get("note", "")), bool(meta.get("use_preview"))
        )


def open_embedding(entry: Entry, key: str) -> Embedding:
    """The embedding, or the trunk, its tensors as views on the entry's bytes.

    Raises:
        DamagedEntry: the entry is something else.
    """
    with _opened(entry, key) as opened:
        height, width = int(opened.meta["height"]), int(opened.meta["width"])
        return Embedding(opened.tensors, height, width, opened.digest)


def seal_int8(entry: Entry, key: str, int8_key: str) -> Entry:
    """A stored embedding in int8: an entry of its own kind, under a key of its own, as dear and as old as the other.

    Raises:
        DamagedEntry: the entry is no embedding; one that is in int8 already is not rounded again.
    """
    if entry.kind is not Kind.EMBEDDING:
        raise DamagedEntry(f"The value under {key} is no embedding that could be rounded.")
    opened = frame.unseal(entry.value, key)
    facts: dict[str, Any] = {"cost": entry.cost, "created": entry.created, "meta": opened.meta}
    return frame.seal(int8_key, Kind.EMBEDDING_INT8, tensors=int8.to_int8(opened.tensors), **facts)


def open_int8(entry: Entry, key: str) -> Embedding:
    """The embedding that is stored in int8, its tensors in ``float32``. Takes a millisecond for each MiB.

    Raises:
        DamagedEntry: the entry is something else.
    """
    with _opened(entry, key) as opened:
        height, width = int(opened.meta["height"]), int(opened.meta["width"])
        return Embedding(int8.from_int8(opened.tensors), height, width, opened.digest)


def seal_prediction(
    key: str,
    prediction: Prediction,
    prompt: Prompt,
    parent: tuple[str, int] | None,
    *,
    cost: float,
    created: float,
) -> Entry:
    """A prediction's masks and scores as an entry: a few KB."""
    height, width = prediction.masks[0].pixels.shape
    described = [_described(mask) for mask in prediction.masks]
    meta = {
        "size": [int(height), int(width)],
        "masks": described,
        "points": [[p.x, p.y, p.label] for p in prompt.points],
        "box": None if prompt.box is None else [prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1],
        "multimask": prompt.multimask,
        "parent": parent,
        "repeatable": prompt.mask_input is None or parent is not None,
    }
    png = np.frombuffer(to_png(prediction.masks[0].pixels, described[0][-1]), dtype=np.uint8)
    return frame.seal(key, Kind.MASK, cost=cost, created=created, meta=meta, tensors={"png": png})


def seal_logits(key: str, logits: Sequence[NDArray[np.float32]], *, cost: float, created: float) -> Entry:
    """The low-res logits of a prediction's candidates, or of instances, as an entry: 128 KiB each."""
    stacked: NDArray[Any] = np.stack(logits)
    stacked.clip(-60000.0, 60000.0, out=stacked)
    return frame.seal(key, Kind.LOGITS, cost=cost, created=created, tensors={"logits": stacked}, precision="fp16")


def logits_bytes(key: str, logits: Sequence[NDArray[np.float32]], *, cost: float, created: float) -> int:
    """Bytes of the entry that ``seal_logits`` makes of them."""
    shape = len(logits), *logits[0].shape
    return frame.size_of_one(key, Kind.LOGITS, "logits", "float16", shape, cost=cost, created=created)


def open_prediction(entry: Entry, key: str) -> CachedPrediction:
    """The cached masks.

    Raises:
        DamagedEntry: the entry is something else.
    """
    with _opened(entry, key) as opened:
        meta = opened.meta
        height, width = meta["size"]
        masks = tuple(
            CachedMask(counts, score, size, (box[0], box[1], box[2], box[3]))
            for counts, score, size, box in meta["masks"]
        )
        return CachedPrediction(height, width, masks, _origin(meta), opened.tensors["png"].tobytes())


def seal_everything(key: str, found: CachedEverything, *, cost: float, created: float) -> Entry:
    """All masks of an image as one entry."""
    meta = {"size": [found.height, found.width], "points": found.points}
    masks = [(one.id, one.mask, (one.stability, *one.point)) for one in found.masks]
    return frame.seal(key, Kind.EVERYTHING, cost=cost, created=created, meta=meta, tensors=_masks_table(masks))


def open_everything(entry: Entry, key: str) -> CachedEverything:
    """All masks of an image.

    Raises:
        DamagedEntry: the entry is something else.
    """
    with _opened(entry, key) as opened:
        height, width = opened.meta["size"]
        masks = tuple(FoundMask(number, (x, y), stable, mask) for number, mask, (stable, x, y) in _masks_in(opened))
        return CachedEverything(int(height), int(width), int(opened.meta["points"]), masks)


def seal_tensors(
    key: str,
    kind: Kind,
    tensors: Mapping[str, NDArray[Any]],
    *,
    cost: float,
    created: float,
    precision: frame.Precision = "fp16",
) -> Entry:
    """What a model made of a phrase or of exemplars, as an entry of this kind: a few KB."""
    return frame.seal(key, kind, cost=cost, created=created, tensors=tensors, precision=precision)


def open_tensors(entry: Entry, key: str) -> Mapping[str, NDArray[Any]]:
    """What a model made of a phrase or of exemplars, as views on the entry's bytes.

    Raises:
        DamagedEntry: the entry is something else.
    """
    tensors = frame.unseal(entry.value, key).tensors
    if not tensors:
        raise DamagedEntry(f"The value under {key} holds no tensor.")
    return tensors


def seal_detections(key: str, found: CachedDetections, *, cost: float, created: float) -> Entry:
    """All instances of a concept as one entry."""
    meta = {
        "size": [found.height, found.width],
        "phrase": found.concept.phrase,
        "exemplars": [[*_corners(one.box), one.positive] for one in found.concept.exemplars],
    }
    masks = [(number, one.mask, _corners(one.box)) for number, one in enumerate(found.instances)]
    return frame.seal(key, Kind.DETECTIONS, cost=cost, created=created, meta=meta, tensors=_masks_table(masks))


def open_detections(entry: Entry, key: str) -> CachedDetections:
    """All instances of a concept.

    Raises:
        DamagedEntry: the entry is something else.
    """
    with _opened(entry, key) as opened:
        height, width = opened.meta["size"]
        exemplars = tuple(Exemplar(Box(*corners), positive) for *corners, positive in opened.meta["exemplars"])
        instances = tuple(FoundInstance(mask, Box(*corners)) for _, mask, corners in _masks_in(opened))
        return CachedDetections(int(height), int(width), Concept(opened.meta["phrase"], exemplars), instances)


def open_logits(entry: Entry, key: str) -> NDArray[np.float16]:
    """The low-res logits of each candidate, ``float16 [candidates, 256, 256]``, as a view on the entry's bytes.

    Raises:
        DamagedEntry: the entry is something else.
    """
    with _opened(entry, key) as opened:
        return opened.tensors["logits"]


def check(entry: Entry, key: str) -> None:
    """Check that what a store handed out is complete, unchanged, and what its key says.

    Raises:
        DamagedEntry: it is not.
    """
    opened = frame.verify(entry.value, key)
    if key.split("/")[3:4] != [entry.kind] or opened.kind is not entry.kind:
        raise DamagedEntry(f"The value under {key} is of another kind.")
    _OPENERS[entry.kind](entry, key)


_OPENERS: Mapping[Kind, Callable[[Entry, str], object]] = {
    Kind.IMAGE: open_image,
    Kind.EMBEDDING: open_embedding,
    Kind.EMBEDDING_INT8: open_int8,
    Kind.MASK: open_prediction,
    Kind.LOGITS: open_logits,
    Kind.EVERYTHING: open_everything,
    Kind.TRUNK: open_embedding,
    Kind.TEXT: open_tensors,
    Kind.EXEMPLARS: open_tensors,
    Kind.DETECTIONS: open_detections,
}


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x0, box.y0, box.x1, box.y1


def _masks_table(masks: Sequence[tuple[int, CachedMask, Sequence[float]]]) -> dict[str, NDArray[Any]]:
    """Any number of masks as tensors: run lengths one after the other, and tables of each one's numbers.

    Args:
        masks: of each its own number, itself, and what else is known of it; of all as many.
    """
    runs = [mask.counts.encode("ascii") for _, mask, _ in masks]
    whole = [[number, len(run), mask.area, *mask.bbox] for run, (number, mask, _) in zip(runs, masks, strict=True)]
    real = [[mask.score, *more] for _, mask, more in masks]
    return {
        "counts": np.frombuffer(b"".join(runs), dtype=np.uint8),
        "whole": np.asarray(whole, np.int64).reshape(-1, 7),
        "real": np.asarray(real, np.float64).reshape(len(masks), len(real[0]) if real else 1),
    }


def _masks_in(opened: frame.OpenedFrame) -> Iterator[tuple[int, CachedMask, list[float]]]:
    """What ``_masks_table`` was given."""
    counts = opened.tensors["counts"].tobytes().decode("ascii")
    start = 0
    rows = zip(opened.tensors["whole"].tolist(), opened.tensors["real"].tolist(), strict=True)
    for (number, length, size, *box), (score, *more) in rows:
        mask = CachedMask(counts[start : start + length], score, size, (box[0], box[1], box[2], box[3]))
        yield number, mask, more
        start += length
    if start != len(counts):
        raise ValueError("the run lengths do not fill their place")


def _described(mask: Mask) -> list[Any]:
    box = bbox(mask.pixels, mask.within)
    return [to_rle(mask.pixels, box)["counts"], float(mask.score), area(mask.pixels, box), box]


def _origin(meta: Any) -> Origin:
    parent = meta["parent"]
    return Origin(
        points=tuple(Point(x, y, label) for x, y, label in meta["points"]),
        box=None if meta["box"] is None else Box(*meta["box"]),
        multimask=meta["multimask"],
        parent=None if parent is None else (parent[0], parent[1]),
        repeatable=meta["repeatable"],
    )


@contextmanager
def _opened(entry: Entry, key: str) -> Iterator[frame.OpenedFrame]:
    """The entry's frame. Whatever is missing or malformed inside is one error: the entry is damaged."""
    opened = frame.unseal(entry.value, key)
    try:
        yield opened
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedEntry(f"The value under {key} does not hold what its kind should.") from error
