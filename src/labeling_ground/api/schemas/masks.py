"""The JSON of clicks and masks."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from labeling_ground.api.schemas.common import (
    EXAMPLE_PREDICTION,
    PREDICTION_ID,
    Answered,
    Coordinate,
    EmbeddingPrecision,
    MaskFormat,
    ModelId,
    Outcome,
    Sized,
    Strict,
)

_EMPTY = "the prompt is empty: give points, a box or a mask_input"


class PointIn(Strict):
    """One click, in pixels of the original image."""

    x: Coordinate = Field(examples=[32], description="Column; 0 is the left edge, and it is less than the width.")
    y: Coordinate = Field(examples=[24], description="Row; 0 is the upper edge, and it is less than the height.")
    label: int = Field(1, ge=0, le=1, description="1 on the object, 0 off it.")


class MaskRef(Strict):
    """A candidate of an earlier prediction, or an instance of a concept, as the mask to start from."""

    prediction_id: Annotated[str, AfterValidator(str.lower)] = Field(
        pattern=PREDICTION_ID, description="`prediction_id` of that answer.", examples=[EXAMPLE_PREDICTION]
    )
    index: int = Field(0, ge=0, le=9999, description="Which of its masks, or of its instances; 0 is the best.")


class RleIn(Strict):
    """COCO RLE, compressed, as answers hold it."""

    size: list[int] = Field(min_length=2, max_length=2, description="`[height, width]`: the image's own.")
    counts: str = Field(description="COCO's text of the run lengths.")


class MaskIn(Strict):
    """Any mask in the image's pixels, as the mask to start from: one that was fixed by hand, for example."""

    rle: RleIn | None = None
    png: str | None = Field(None, description="Base64 of a gray PNG in the image's size; 0 is off the object.")

    @model_validator(mode="after")
    def _check(self) -> "MaskIn":
        if (self.rle is None) == (self.png is None):
            raise ValueError("give the mask as rle or as png, and not both")
        return self


def _kind(value: Any) -> str:
    """Which form of ``mask_input`` is meant, so that what is wrong is said of that form only."""
    if isinstance(value, dict):
        return "MaskIn" if "rle" in value or "png" in value else "MaskRef"
    return type(value).__name__ if isinstance(value, MaskIn | MaskRef) else "str"


MaskInput = Annotated[
    Annotated[MaskRef, Tag("MaskRef")] | Annotated[MaskIn, Tag("MaskIn")] | Annotated[str, Tag("str")],
    Discriminator(_kind),
]


class PromptIn(Strict):
    """One object: points, at most one box, and optionally an earlier mask to start from."""

    points: Annotated[list[PointIn], Field(fail_fast=True)] = Field(
        default_factory=list, description="In any order. Without a box or a mask, one at least has label 1."
    )
    box: list[Coordinate] | None = Field(
        None,
        min_length=4,
        max_length=4,
        examples=[[10, 8, 54, 40]],
        description="Two opposite corners, `[x0, y0, x1, y1]`. What reaches over the image's edge is cut off.",
    )
    mask_input: MaskInput | None = Field(
        None,
        description="The mask to start from. By reference to an earlier prediction; as any mask in the image's pixels; "
        "or as base64 of 256 × 256 little-endian float16 or float32 low-res logits.",
    )

    @model_validator(mode="after")
    def _check(self) -> "PromptIn":
        if not self.points and self.box is None and self.mask_input is None:
            raise ValueError(_EMPTY)
        return self


class MasksRequest(PromptIn):
    """One prompt directly in the body, or several under `prompts`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"points": [{"x": 32, "y": 24, "label": 1}]},
                {
                    "box": [10, 8, 54, 40],
                    "points": [{"x": 12, "y": 10, "label": 0}],
                    "format": "png",
                },
                {
                    "prompts": [
                        {"points": [{"x": 32, "y": 24, "label": 1}]},
                        {"box": [10, 8, 54, 40]},
                    ]
                },
            ]
        }
    )

    prompts: Annotated[list[PromptIn], Field(fail_fast=True)] | None = Field(
        None, min_length=1, description="Several objects in one request."
    )
    multimask: bool = Field(True, description="Up to three nested candidates for each prompt, or the best one.")
    format: MaskFormat = "rle"
    model: ModelId = None

    @model_validator(mode="after")
    def _check(self) -> "MasksRequest":  # in place of the one prompt's
        is_empty = not self.points and self.box is None and self.mask_input is None
        if self.prompts is not None and not is_empty:
            raise ValueError("give one prompt directly, or several under 'prompts', not both")
        if self.prompts is None and is_empty:
            raise ValueError(_EMPTY)
        return self


class MaskOut(BaseModel):
    """One candidate, in the format that was asked for."""

    score: float = Field(description="Predicted IoU, 0 to 1: the model's own guess.", examples=[0.93])
    area: int = Field(description="Pixels.", examples=[877])
    bbox: list[int] = Field(description="COCO style: x, y, width, height.", examples=[[13, 11, 39, 27]])
    rle: dict[str, Any] | None = Field(None, description='COCO RLE: `{"size": [height, width], "counts": "…"}`.')
    png: str | None = Field(None, description="Base64 of a 1-bit PNG in the image's size.")
    polygons: list[list[list[float]]] | None = Field(
        None,
        description="Rings of `[x, y]` along pixel edges, within 1 pixel: outer ones clockwise on screen, holes "
        "counter-clockwise.",
    )


class TimingOut(BaseModel):
    """Seconds; `encode` and `decode` are there when the model had to work."""

    lookup: float | None = None
    encode: float | None = None
    decode: float | None = None


class PredictionOut(BaseModel):
    """The answer to one prompt."""

    prediction_id: str = Field(
        description="Names this prediction as a `mask_input` of later prompts.", examples=[EXAMPLE_PREDICTION]
    )
    outcome: Outcome
    masks: list[MaskOut] = Field(description="Best first.")
    scores: list[float]
    timing: TimingOut
    embedding_precision: EmbeddingPrecision = None


class MasksOut(Sized, Answered):
    """One answer a prompt under `predictions`; a single prompt's masks and scores stand at the top as well."""

    predictions: list[PredictionOut] | None = None
    prediction_id: str | None = None
    masks: list[MaskOut] | None = None
    scores: list[float] | None = None
    timing: TimingOut
    embedding_precision: EmbeddingPrecision = None
