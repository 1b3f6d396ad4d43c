"""Prompts as clients send them, and the pure rules about where their points and boxes may lie."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec import mask as codec
from labeling_ground.errors import BadPrompt
from labeling_ground.key import STEP, canonical, prompt_digest
from labeling_ground.types import Box, Point, Prompt


@dataclass(frozen=True, slots=True)
class GivenMask:
    """A mask in the image's pixels to start from, as a client sent it: a gray PNG file, or COCO RLE.

    Attributes:
        width: of the mask, in pixels.
        height: of the mask.
        encoded: the PNG file, or the RLE's counts.
    """

    width: int
    height: int
    encoded: bytes | str

    def pixels(self) -> NDArray[np.bool_]:
        """The mask, ``bool [height, width]``.

        Raises:
            BadPrompt: it is malformed.
        """
        most = self.width * self.height
        if isinstance(self.encoded, bytes):
            return codec.from_png(self.encoded, max_pixels=most)
        return codec.from_rle([self.height, self.width], self.encoded, max_pixels=most)

    def check_size(self, width: int, height: int) -> None:
        """Refuse a mask of another size than the image.

        Raises:
            BadPrompt: it has another size.
        """
        if (self.width, self.height) != (width, height):
            raise BadPrompt(
                f"The mask_input is {self.width} × {self.height} pixels, and the image {width} × {height}. "
                "Send a mask of the image's own size."
            )


@dataclass(frozen=True, slots=True)
class PromptAsk:
    """A prompt as a client sends it, before it is canonical.

    ``mask_input`` is logits ``float32 [256, 256]``, a mask in the image's pixels, or a reference: an earlier
    prediction's id and the index of the candidate that is meant.
    """

    points: Sequence[Point] = ()
    box: Box | None = None
    mask_input: NDArray[np.float32] | GivenMask | tuple[str, int] | None = None
    multimask: bool = True
    _settled: tuple[Prompt, str] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def is_canonical(self) -> bool:
        """Whether it has one canonical form for all images and models: its mask input is logits, or there is none."""
        return self.mask_input is None or isinstance(self.mask_input, np.ndarray)

    def settled(self) -> tuple[Prompt, str]:
        """The prompt in canonical form and its digest, of one that ``is_canonical``; worked out once.

        Raises:
            BadPrompt: it makes no sense.
        """
        if self._settled is None:
            assert not isinstance(self.mask_input, tuple | GivenMask)  # noqa: S101 -- whoever asks has looked
            prompt = canonical(self.points, self.box, self.mask_input, multimask=self.multimask)
            object.__setattr__(self, "_settled", (prompt, prompt_digest(prompt)))
        assert self._settled is not None  # noqa: S101 -- it was set above
        return self._settled


def check_point(point: Point, width: int, height: int) -> None:
    """Refuse a point outside the image.

    Raises:
        BadPrompt: it is outside.
    """
    if not (0 <= point.x < width and 0 <= point.y < height):
        raise BadPrompt(
            f"The point ({point.x:g}, {point.y:g}) is outside the image, which is {width} × {height} pixels. "
            "Coordinates are pixels of the original image, with (0, 0) at its top left."
        )


def check_box(box: Box, width: int, height: int) -> None:
    """Refuse a box that does not overlap the image. One that reaches over the edge is fine: it is cut off there.

    Raises:
        BadPrompt: no part of it is on the image.
    """
    x0, x1 = sorted((box.x0, box.x1))
    y0, y1 = sorted((box.y0, box.y1))
    if not (x0 < width and y0 < height and x1 > 0 and y1 > 0):
        raise BadPrompt(
            f"The box ({x0:g}, {y0:g})–({x1:g}, {y1:g}) is outside the image, which is {width} × {height} pixels."
        )


def fit(prompt: Prompt, width: int, height: int) -> Prompt:
    """The prompt as the decoder gets it: what snapping or a box's corners put beyond the image's edge is moved onto it.

    Raises:
        BadPrompt: a point lies outside the image, or all of the box does.
    """
    points = tuple(Point(_within(p.x, width), _within(p.y, height), p.label) for p in prompt.points)
    for point in points:
        check_point(point, width, height)
    prompt = dataclasses.replace(prompt, points=points)
    if prompt.box is None:
        return prompt
    check_box(prompt.box, width, height)
    box = prompt.box
    return dataclasses.replace(
        prompt, box=Box(max(0.0, box.x0), max(0.0, box.y0), min(width, box.x1), min(height, box.y1))
    )


def _within(coordinate: float, size: int) -> float:
    """A click in the last half step before the edge snaps onto the edge: it is taken back by one step."""
    return size - STEP if coordinate == size else coordinate
