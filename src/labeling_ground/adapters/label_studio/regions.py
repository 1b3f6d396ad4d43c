"""Label Studio's regions, in percent of a picture: what an annotator marked, to prompts; masks, to what it draws."""

import math
import uuid
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat

from labeling_ground.adapters.images import box_on, objects_of, point_on
from labeling_ground.adapters.label_studio.config import Config
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.brush import to_brush_rle
from labeling_ground.codec.records import CachedMask
from labeling_ground.errors import BadPrompt, TooLarge
from labeling_ground.service.asks import PromptAsk
from labeling_ground.service.known_texts import OpenImage

_POINTS = frozenset({"keypointlabels", "keypoint"})
_BOXES = frozenset({"rectanglelabels", "rectangle"})
_FAR = 1e6
"""Percent of a picture: what lies further off makes no difference, and larger numbers would not stay finite."""


class Region(BaseModel):
    """One result of what an annotator did: a key point, a rectangle, something that is said of one with its id, a text.

    Its ``item_index`` says which picture it is on, where several have the name ``to_name`` together.
    """

    id: str | None = None
    type: str
    to_name: str
    value: dict[str, Any]
    is_positive: bool | None = None
    original_width: int | None = Field(None, ge=1)
    original_height: int | None = Field(None, ge=1)
    image_rotation: FiniteFloat = 0
    item_index: int | None = Field(None, ge=0)

    @property
    def label(self) -> str | None:
        """The label that was chosen; ``None`` where the tool has none."""
        for name in (self.type, "labels"):
            labels = self.value.get(name)
            if isinstance(labels, list) and labels and isinstance(labels[0], str):
                return labels[0]
        return None

    def numbers(self, *names: str) -> list[float]:
        """Numbers of the value, in percent of the picture; those that are far off it are brought nearer.

        Raises:
            BadPrompt: one of them is missing, or none.
        """
        found = []
        for name in names:
            number = self.value.get(name)
            if not isinstance(number, int | float) or number != number:  # the last: NaN
                raise BadPrompt(f"A region of the type {self.type} has no number under {name!r}.")
            found.append(float(min(max(number, -_FAR), _FAR)))
        return found


def text_of(regions: Sequence[Region]) -> str:
    """What was typed into text areas, with commas between several texts; empty where something was marked."""
    if any(each.type != "textarea" for each in regions):
        return ""  # a text that is said of a mark
    typed = [each.value.get("text") for each in regions]
    return ",".join(text for texts in typed if isinstance(texts, list) for text in texts if isinstance(text, str))


def marks_of(regions: Sequence[Region]) -> list[Region]:
    """The key points and rectangles among the regions, each with its label.

    Where labels are a control of their own, a mark's label is another region of the same id; and so are its choices.

    Raises:
        BadPrompt: a region is neither a mark nor said of one.
    """
    marks = [each for each in regions if each.type in _POINTS | _BOXES]
    known = {each.id for each in marks} - {None}
    for each in regions:
        if each.type not in _POINTS | _BOXES and each.id not in known:
            raise BadPrompt(
                f"Regions of the type {each.type!r} mean nothing to the model: mark the object with KeyPointLabels or "
                "RectangleLabels, or say in a TextArea what to find."
            )
    labels = {each.id: each.value["labels"] for each in regions if each.type == "labels" and "labels" in each.value}
    return [
        mark.model_copy(update={"value": mark.value | {"labels": labels[mark.id]}}) if mark.id in labels else mark
        for mark in marks
    ]


def prompts_of(marks: Sequence[Region], image: OpenImage) -> list[PromptAsk]:
    """The prompts that the marks stand for, in pixels of the image; see ``objects_of``. None, if all are off it.

    Raises:
        BadPrompt: a mark is not complete.
    """
    points, boxes = [], []
    for region in marks:
        if region.type in _POINTS:
            x, y = region.numbers("x", "y")
            label = 0 if region.is_positive is False else 1
            points.append(point_on(image, x * image.width / 100, y * image.height / 100, label))
        else:
            boxes.append(box_on(image, *_corners(region, image)))
    prompts = objects_of(points, boxes)
    return [each for each in prompts if each.box is not None or any(point.label for point in each.points)]


def _corners(region: Region, image: OpenImage) -> tuple[float, float, float, float]:
    """The upright box around a rectangle, which may be turned round its upper left corner."""
    x, y, width, height = region.numbers("x", "y", "width", "height")
    angle = math.radians(region.numbers("rotation")[0] if region.value.get("rotation") else 0.0)
    left, top = x * image.width / 100, y * image.height / 100
    across, down = width * image.width / 100, height * image.height / 100
    columns = [0.0, across * math.cos(angle), -down * math.sin(angle)]
    rows = [0.0, across * math.sin(angle), down * math.cos(angle)]
    columns.append(columns[1] + columns[2])
    rows.append(rows[1] + rows[2])
    return left + min(columns), top + min(rows), left + max(columns), top + max(rows)


def to_regions(
    mask: CachedMask, size: tuple[int, int], marked: Region, label: str | None, config: Config, max_pixels: int
) -> list[dict[str, Any]]:
    """A mask as Label Studio draws it: one brush region, or a polygon for each of its parts; none for an empty mask.

    Args:
        mask: the mask.
        size: height and width of the picture.
        marked: what the annotator marked or typed first, with the size by which Label Studio knows the picture.
        label: the label of the regions.
        config: what the project has to draw with.
        max_pixels: largest picture.

    Raises:
        BadInput: the project has nothing to draw a mask with.
        TooLarge: Label Studio knows the picture by a size over the limit.
    """
    rows, columns = size
    width, height = marked.original_width or columns, marked.original_height or rows
    if width * height > max_pixels:
        raise TooLarge(f"The picture has {width} × {height} pixels in Label Studio; at most {max_pixels} are taken.")
    outline = config.outline_for(marked.to_name, label)
    pixels = mask_codec.from_rle(size, mask.counts)
    if not pixels.any():
        return []
    if outline.tag.startswith("Brush"):
        values: list[dict[str, Any]] = [_brush(pixels, width, height)]
    else:
        values = [
            {
                "points": [[100 * x / columns, 100 * y / rows] for x, y in ring],
                "closed": True,
            }
            for ring in _outer(mask_codec.to_polygons(pixels))
        ]
    region = {
        "from_name": outline.name,
        "to_name": marked.to_name,
        "type": outline.type,
        "original_width": width,
        "original_height": height,
        "image_rotation": marked.image_rotation,
        "score": mask.score,
        "readonly": False,
    }
    if marked.item_index is not None:
        region["item_index"] = marked.item_index
    labels = {outline.type: [label]} if outline.tag.endswith("Labels") and label is not None else {}
    return [region | {"id": uuid.uuid4().hex[:10], "value": value | labels} for value in values]


def _brush(pixels: NDArray[np.bool_], width: int, height: int) -> dict[str, Any]:
    if pixels.shape != (height, width):  # the page draws the mask in its own size
        pixels = cv2.resize(pixels.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return {"format": "rle", "rle": list(to_brush_rle(pixels))}


def _outer(rings: Sequence[mask_codec.Ring]) -> list[mask_codec.Ring]:
    """Rings of outer edges, which go clockwise: Label Studio's polygons have no holes."""
    return [ring for ring in rings if _signed_area(ring) > 0]


def _signed_area(ring: mask_codec.Ring) -> float:
    x, y = np.array(ring).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
