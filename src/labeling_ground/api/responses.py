"""Results → JSON. Answers on the fast path are built as plain dictionaries and written once."""

import base64
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi.responses import Response
from PIL import Image as Pillow
from pydantic_core import to_json

from labeling_ground.api.state import RANKS
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.records import CachedMask, CachedPrediction
from labeling_ground.pools import Pool
from labeling_ground.sam.masks import unit_score
from labeling_ground.service.asks import MaskAnswer, Timing
from labeling_ground.types import Image, ModelVersion, Outcome

_SMALL = 1_000_000
"""Masks of up to so many pixels together are turned into PNG on the spot; more, and polygons, in a thread."""
_RLE_AT_ONCE = 64
"""Masks whose run lengths are written in one piece of work; of what has to be drawn a piece is one mask."""


def as_json(body: dict[str, Any], status: int = 200) -> Response:
    """A JSON response, without fields that are ``None``."""
    return Response(b"{%b}" % fields(body), status, media_type="application/json")


def origin(version: ModelVersion, *notes: str) -> dict[str, Any]:
    """Which model version an answer comes from, and what to know of the model and of the image."""
    return {"model": version.model, "model_version": str(version), "note": " ".join(filter(None, notes)) or None}


def of_embedding(is_int8: bool) -> dict[str, Any]:
    """What an answer says of the embedding that it was made of: nothing, unless that was rounded."""
    return {"embedding_precision": "int8"} if is_int8 else {}


def dearest(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of several prompts together: what the costliest of them needed."""
    return max(outcomes, key=RANKS.__getitem__)


def timing(times: Timing) -> dict[str, float]:
    """Seconds, rounded to microseconds, of what happened."""
    pairs = {"lookup": times.lookup, "encode": times.encode, "decode": times.decode}
    return {name: round(seconds, 6) for name, seconds in pairs.items() if seconds is not None}


def merged_timing(times: Sequence[Timing]) -> dict[str, float]:
    """The longest of each: prompts of one request run side by side."""
    merged: dict[str, float] = {}
    for one in times:
        for name, seconds in timing(one).items():
            merged[name] = max(merged.get(name, 0.0), seconds)
    return merged


async def drawn_masks(found: Sequence[MaskAnswer], form: str, pool: Pool) -> list[bytes]:
    """Each prompt's masks, drawn in a form other than ``rle``, as fields for ``as_object``.

    What takes long is drawn in the pool, one mask after the other: in between others have their turn, and a caller that
    is cancelled has no more drawn.
    """
    pixels = sum(len(answer.prediction.masks) * answer.prediction.height * answer.prediction.width for answer in found)
    in_pool = form == "polygons" or pixels > _SMALL
    answers = []
    for answer in found:
        cached = answer.prediction
        pieces = [partial(_drawn, cached, index, form) for index in range(len(cached.masks))]
        masks = [await pool.run(piece) if in_pool else piece() for piece in pieces]
        answers.append(_masks_and_scores(cached, masks))
    return answers


def masks_answer(
    image_id: str, found: Sequence[MaskAnswer], drawn: Sequence[bytes] | None, *, is_alone: bool
) -> Response:
    """The JSON response to prompts on an image.

    What an earlier answer with the same prediction said too is not written again.

    Args:
        image_id: the image.
        found: the prompts' answers, in their order.
        drawn: their masks from ``drawn_masks``; ``None``: as run lengths.
        is_alone: whether there was one prompt, not in a list.
    """
    first = found[0]

    def about(cached: CachedPrediction) -> bytes:
        size = {"width": cached.width, "height": cached.height}
        return fields({"image_id": image_id, **origin(first.version, first.model_note), **size})

    def alone(cached: CachedPrediction) -> bytes:
        return about(cached) + b"," + _as_rle(cached)

    if is_alone and drawn is None:
        rest = first.opened.text(f"alone {first.model_note}", alone)
        return as_object(b'"seconds":%.6f' % first.timing.total, _outcome(first), rest)
    seconds = b'"seconds":%.6f' % max(answer.timing.total for answer in found)
    shared = about(first.opened.prediction)
    masks = drawn if drawn is not None else [answer.opened.text("rle", _as_rle) for answer in found]
    if is_alone:
        return as_object(seconds, shared, _outcome(first), masks[0])
    together = fields(
        {
            "outcome": dearest([answer.outcome for answer in found]),
            "timing": merged_timing([answer.timing for answer in found]),
        }
    )
    listed = b",".join(b"{%b,%b}" % (_outcome(answer), each) for answer, each in zip(found, masks, strict=True))
    return as_object(seconds, shared, together, b'"predictions":[' + listed + b"]")


def _outcome(answer: MaskAnswer) -> bytes:
    """How an answer was come by, as fields for ``as_object``."""
    times = answer.timing
    if times.encode is None and times.decode is None and times.lookup is not None:
        took = b'"lookup":%.6f' % times.lookup
    else:
        took = fields(timing(times))
    return b'"prediction_id":"%b","outcome":"%b","timing":{%b}%b' % (
        answer.prediction_id.encode(),
        answer.outcome.encode(),
        took,
        b',"embedding_precision":"int8"' if answer.is_int8 else b"",
    )


def fields(values: dict[str, Any]) -> bytes:
    """The fields of a JSON object, without those that are ``None``; for ``as_object``."""
    return to_json({name: value for name, value in values.items() if value is not None})[1:-1]


def as_object(*parts: bytes) -> Response:
    """A JSON response: the object of all these fields, which are written already."""
    return Response(b"{" + b",".join(parts) + b"}", media_type="application/json")


def session_mask(answer: MaskAnswer, about: dict[str, Any]) -> bytes:
    """The best mask of an answer as a session's client gets it, as fields for ``as_object``: PNG and score.

    Args:
        answer: the answer.
        about: what is also to be said of it, and is the same each time.
    """

    def write(cached: CachedPrediction) -> bytes:
        mask = {"masks": base64.b64encode(cached.png).decode("ascii"), "score": cached.masks[0].score}
        return fields({**about, **origin(answer.version, answer.model_note), **mask})

    return answer.opened.text(f"session {answer.model_note}", write)


def _as_rle(cached: CachedPrediction) -> bytes:
    return _masks_and_scores(cached, [_drawn(cached, index, "rle") for index in range(len(cached.masks))])


def _masks_and_scores(cached: CachedPrediction, masks: list[dict[str, Any]]) -> bytes:
    return fields({"masks": masks, "scores": [mask.score for mask in cached.masks]})


Listed = Sequence[tuple[dict[str, Any], CachedMask]]
"""Masks, each with fields of its own after those that every mask has."""


async def found(masks: Listed, size: tuple[int, int], form: str, pool: Pool) -> list[bytes]:
    """Any number of masks in the form that was asked for, as pieces of JSON for ``with_masks``.

    They are drawn in the pool as background, piece by piece: clicks go first, and a caller that is cancelled has no
    more drawn.
    """
    at_once = _RLE_AT_ONCE if form == "rle" else 1
    parts = [masks[start : start + at_once] for start in range(0, len(masks), at_once)]
    return [await pool.run(_found, part, size, form, background=True) for part in parts]


def with_masks(values: dict[str, Any], masks: Sequence[bytes], name: str = "masks") -> bytes:
    """The JSON object of the values that are not ``None``, of which there are some, and of the masks, copied once."""
    return b"".join((b"{", fields(values), b',"%b":[' % name.encode(), b",".join(masks), b"]}"))


def _found(masks: Listed, size: tuple[int, int], form: str) -> bytes:
    listed = [
        {**_head(mask), "score": unit_score(mask.score), **about, **_shown(mask, size, form)} for about, mask in masks
    ]
    return to_json(listed)[1:-1]


def drawn(image: Image, form: str) -> bytes:
    """A decoded image as a file: ``png`` gives every pixel as it is, ``jpeg`` nearly so in a fraction of the bytes.

    Blocking.
    """
    out = io.BytesIO()
    picture = Pillow.fromarray(image.pixels)
    if form == "jpeg":
        picture.save(out, "JPEG", quality=92, subsampling=0)
    else:
        picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def empty_png(height: int, width: int) -> str:
    """Base64 of a mask with nothing in it."""
    return base64.b64encode(mask_codec.to_png(np.zeros((height, width), dtype=np.bool_))).decode("ascii")


def _head(mask: CachedMask) -> dict[str, Any]:
    return {"score": mask.score, "area": mask.area, "bbox": list(mask.bbox)}


def _shown(mask: CachedMask, size: tuple[int, int], form: str) -> dict[str, Any]:
    if form == "rle":
        return {"rle": {"size": list(size), "counts": mask.counts}}
    pixels = mask_codec.from_rle(size, mask.counts)
    if form == "polygons":
        return {"polygons": mask_codec.to_polygons(pixels)}
    return {"png": base64.b64encode(mask_codec.to_png(pixels)).decode("ascii")}


def _drawn(cached: CachedPrediction, index: int, form: str) -> dict[str, Any]:
    mask = cached.masks[index]
    if form == "png" and index == 0:  # kept as such
        return {**_head(mask), "png": base64.b64encode(cached.png).decode("ascii")}
    return {**_head(mask), **_shown(mask, (cached.height, cached.width), form)}
