"""What goes to the server and what comes back."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from labeling_ground_client.decode import decode_png, decode_rle, decode_safetensors

Outcome = Literal["hit", "joined", "recomputed", "miss"]
Point = Sequence[float] | NDArray[Any]
"""``(x, y)``, on the object, or ``(x, y, label)`` with 1 on the object and 0 off it. In pixels."""
Points = Sequence[Point] | NDArray[Any]
Box = Sequence[float] | NDArray[Any]
"""Two opposite corners, ``(x0, y0, x1, y1)``, in pixels."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What points at one object, in pixels of the image.

    Attributes:
        points: ``(x, y)`` or ``(x, y, label)`` each; label 1, the default, is on the object and 0 off it.
        box: two opposite corners, ``(x0, y0, x1, y1)``.
        mask_input: the mask to start from: an earlier prediction (its best candidate), ``(prediction, index)`` for
            another one of its candidates, an instance that was found, any mask in the image's pixels
            (``bool [height, width]``), or low-res logits ``[256, 256]``.
    """

    points: Points = ()
    box: Box | None = None
    mask_input: "MaskInput | None" = None

    @property
    def refined(self) -> "Prediction | Instance | None":
        """The earlier prediction, or the instance, that ``mask_input`` refers to, if it does."""
        if isinstance(self.mask_input, tuple):
            return self.mask_input[0]
        return self.mask_input if isinstance(self.mask_input, Prediction | Instance) else None

    def as_json(self) -> dict[str, Any]:
        """The prompt as the API has it.

        Raises:
            ValueError: a point, the box or the logits have another shape than they should.
        """
        body: dict[str, Any] = {}
        if len(self.points):
            body["points"] = [_point(point) for point in self.points]
        if self.box is not None:
            if len(self.box) != 4:
                raise ValueError(f"A box has four numbers, (x0, y0, x1, y1), and this one {len(self.box)}.")
            body["box"] = [float(side) for side in self.box]
        if isinstance(self.mask_input, np.ndarray):
            is_mask = self.mask_input.dtype == np.bool_
            body["mask_input"] = {"png": _png(self.mask_input)} if is_mask else _logits(self.mask_input)
        elif (refined := self.refined) is not None:
            index = self.mask_input[1] if isinstance(self.mask_input, tuple) else getattr(refined, "index", 0)
            body["mask_input"] = {"prediction_id": refined.id, "index": index}
        return body


def _point(point: Point) -> dict[str, Any]:
    if len(point) not in (2, 3):
        raise ValueError(f"A point is (x, y) or (x, y, label), and this one has {len(point)} numbers.")
    label = {"label": int(point[2])} if len(point) == 3 else {}
    return {"x": float(point[0]), "y": float(point[1]), **label}


def _png(mask: NDArray[Any]) -> str:
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"A mask_input in pixels has the image's height and width, not shape {mask.shape}.")
    file = io.BytesIO()
    Pillow.fromarray(mask).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _logits(logits: NDArray[Any]) -> str:
    if logits.shape != (256, 256):
        raise ValueError(
            f"mask_input has 256 × 256 low-res logits, not shape {logits.shape}; a mask in pixels is bool."
        )
    kind = "<f2" if logits.dtype == np.float16 else "<f4"
    return base64.b64encode(np.ascontiguousarray(logits, kind).tobytes()).decode("ascii")


@dataclass(frozen=True, eq=False)
class MaskCandidate:
    """One mask, as the server sent it; decoded when ``mask`` is first read.

    Attributes:
        score: the model's own guess of its IoU, 0 to 1.
        area: pixels of the object.
        bbox: x, y, width and height in pixels.
        encoded: the answer's fields; under ``rle`` COCO run lengths, or under ``png`` a file in base64.
    """

    score: float
    area: int
    bbox: tuple[int, int, int, int]
    encoded: Mapping[str, Any] = field(repr=False)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The object's pixels, ``bool [height, width]``."""
        if "png" in self.encoded:
            return decode_png(base64.b64decode(self.encoded["png"]))
        return decode_rle(self.encoded["rle"]["size"], self.encoded["rle"]["counts"])


@dataclass(frozen=True, eq=False)
class FoundMask(MaskCandidate):
    """A mask of «segment everything».

    Attributes:
        id: names the mask within one stream.
        stability: how little the mask depends on its threshold, 0 to 1.
        point: the grid's point that gave it, in pixels.
    """

    id: int
    stability: float
    point: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one prompt.

    Attributes:
        id: names the prediction on the server.
        candidates: up to three masks, best first.
        outcome: ``hit`` (from the cache), ``joined`` (another caller's computation), ``recomputed`` or ``miss``.
        model: short name of the model.
        model_version: the version that made it.
        note: what the server says of this model's quality; ``None`` where it says nothing.
        seconds: from the ask to the answer, inside the server.
        prompt: what was asked.
        multimask: whether several candidates were asked for.
        is_int8: whether it was made of an embedding that the server has rounded to int8, for want of room.
    """

    id: str
    candidates: tuple[MaskCandidate, ...]
    outcome: Outcome
    model: str
    model_version: str
    note: str | None
    seconds: float
    prompt: Prompt = field(repr=False)
    multimask: bool = field(repr=False)
    is_int8: bool = False

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The best candidate's pixels, ``bool [height, width]``."""
        return self.candidates[0].mask

    @property
    def score(self) -> float:
        """The best candidate's score, 0 to 1."""
        return self.candidates[0].score

    @property
    def masks(self) -> NDArray[np.bool_]:
        """All candidates' pixels, best first, ``bool [candidates, height, width]``."""
        return np.stack([candidate.mask for candidate in self.candidates])

    @property
    def scores(self) -> list[float]:
        """All candidates' scores, best first."""
        return [candidate.score for candidate in self.candidates]


@dataclass(frozen=True, eq=False)
class Instance(MaskCandidate):
    """An object that was found: one of all that a phrase names, or that are like the exemplars.

    Attributes:
        id: names the answer that it is part of, on the server.
        index: its place in that answer; 0 is the best.
        box: the model's own box around it, ``(x0, y0, x1, y1)`` in pixels.
        asked: what was asked, as the API has it.
    """

    id: str
    index: int
    box: tuple[float, float, float, float]
    asked: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of one phrase, or of exemplars.

    Attributes:
        phrase: as it was looked for, in lower case; ``None`` where exemplars alone said what is meant.
        instances: those that were asked for, best first.
        found: how many there are of any score.
        outcome: ``hit`` (from the cache), ``joined`` (another caller's computation), ``recomputed`` or ``miss``.
        model: short name of the model.
        model_version: the version that found them.
        note: what the server says of this model's quality; ``None`` where it says nothing.
        seconds: from the ask to the answer, inside the server.
    """

    phrase: str | None
    instances: tuple[Instance, ...]
    found: int
    outcome: Outcome
    model: str
    model_version: str
    note: str | None
    seconds: float

    @property
    def masks(self) -> list[NDArray[np.bool_]]:
        """The instances' pixels, best first, each ``bool [height, width]``."""
        return [instance.mask for instance in self.instances]


MaskInput = Prediction | tuple[Prediction, int] | Instance | NDArray[Any]
"""A mask to start from: the best candidate of a prediction, another one by its index, an instance that was found,
``bool [height, width]`` in the image's pixels, or logits ``[256, 256]``."""


class Embedding(dict[str, NDArray[Any]]):
    """An image's embedding: the model's tensors by name.

    Attributes:
        metadata: ``width``, ``height``, ``image_id``, ``model`` and ``model_version``, as text.
    """

    def __init__(self, safetensors: bytes) -> None:
        tensors, self.metadata = decode_safetensors(safetensors)
        super().__init__(tensors)


class EverythingOptions(TypedDict, total=False):
    """Options of «segment everything», those of Segment Anything's automatic mask generator. Left out: the model's own.

    Attributes:
        points_per_side: points of the grid along each side.
        pred_iou_thresh: a mask is kept if its score is above this, 0 to 1.
        stability_score_thresh: a mask is kept if moving its threshold leaves at least this share of its area, 0 to 1.
        stability_score_offset: by so much the threshold on logits is moved for that.
        box_nms_thresh: of two masks whose boxes have a larger IoU than this, the better-scored one stays.
        min_mask_region_area: holes and islands of fewer pixels are filled and removed.
    """

    points_per_side: int
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    min_mask_region_area: int


def candidate_from(body: Mapping[str, Any]) -> MaskCandidate:
    """A mask of a prediction, from its JSON."""
    return MaskCandidate(body["score"], body["area"], tuple(body["bbox"]), body)


def found_mask_from(body: Mapping[str, Any]) -> FoundMask:
    """A mask of «segment everything», from its JSON."""
    x, y = body["point"]
    return FoundMask(
        body["score"], body["area"], tuple(body["bbox"]), body, id=body["id"], stability=body["stability"], point=(x, y)
    )


def found_from(body: Mapping[str, Any], origin: Mapping[str, Any], asked: Mapping[str, Any]) -> Found:
    """What was found of one phrase, from its JSON, that of the answer that it stands in, and what was asked."""
    instances = tuple(
        Instance(
            one["score"],
            one["area"],
            tuple(one["bbox"]),
            one,
            id=body["prediction_id"],
            index=one["index"],
            box=tuple(one["box"]),
            asked=asked,
        )
        for one in body["instances"]
    )
    return Found(
        phrase=body.get("phrase"),
        instances=instances,
        found=body["found"],
        outcome=body["outcome"],
        model=origin["model"],
        model_version=origin["model_version"],
        note=origin.get("note"),
        seconds=origin["seconds"],
    )


def prediction_from(
    body: Mapping[str, Any], prompt: Prompt, origin: Mapping[str, Any], *, multimask: bool
) -> Prediction:
    """A prediction from its JSON, and from that of the answer that it stands in."""
    return Prediction(
        id=body["prediction_id"],
        candidates=tuple(candidate_from(one) for one in body["masks"]),
        outcome=body["outcome"],
        model=origin["model"],
        model_version=origin["model_version"],
        note=origin.get("note"),
        seconds=origin["seconds"],
        prompt=prompt,
        multimask=multimask,
        is_int8=body.get("embedding_precision") == "int8",
    )
