"""The JSON of «segment everything»."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from labeling_ground.api.schemas.common import Answered, Coordinate, MaskFormat, ModelId, Sized, Strict
from labeling_ground.api.schemas.masks import MaskOut, TimingOut


class EverythingRequest(Strict):
    """All of it is optional: without a body, the model's own defaults count."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"points_per_side": 8, "format": "polygons"}, {}]})

    points_per_side: int | None = Field(
        None,
        ge=1,
        le=256,
        examples=[8],
        description="The grid has so many points along each side; the server has a limit. Segment Anything: 32, "
        "`classical`: 16.",
    )
    pred_iou_thresh: Coordinate | None = Field(
        None,
        ge=0,
        le=1,
        description="A mask is kept if its score is above this; 0 lets all pass. SAM: 0.88, SAM 2: 0.8, `classical`, "
        "whose scores mean something else: 0.35.",
    )
    stability_score_thresh: Coordinate | None = Field(
        None,
        ge=0,
        le=1,
        description="A mask is kept if moving its threshold leaves at least this share of its area; 0 lets all pass. "
        "Segment Anything: 0.95, `classical`: 0.9.",
    )
    stability_score_offset: Coordinate | None = Field(
        None, ge=0, le=100, description="By so much the threshold on logits is moved up and down for that. 1."
    )
    box_nms_thresh: Coordinate | None = Field(
        None,
        ge=0,
        le=1,
        description="Of two masks whose boxes have a larger IoU than this, the better-scored one stays. 0.7.",
    )
    min_mask_region_area: int | None = Field(
        None,
        ge=0,
        le=1_000_000_000,
        description="Holes and islands of fewer pixels are filled and removed in the end; masks that then look alike "
        "are reduced to one. 0: masks stay as they are, which is the default.",
    )
    format: MaskFormat = "rle"
    model: ModelId = None


class FoundMaskOut(MaskOut):
    """A mask of «segment everything», in the format that was asked for."""

    id: int = Field(description="Names the mask within this answer or stream.", examples=[1536])
    stability: float = Field(description="How little the mask depends on its threshold, 0 to 1.", examples=[0.97])
    point: list[float] = Field(description="The grid's point that gave it, in pixels.", examples=[[32.5, 24.5]])


class EverythingOptionsOut(BaseModel):
    """The options that were in force."""

    points_per_side: int
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    min_mask_region_area: int


class EverythingOut(Sized, Answered):
    """All masks of an image, best first."""

    points: int = Field(description="Points of the grid.", examples=[1024])
    options: EverythingOptionsOut
    masks: list[FoundMaskOut]
    timing: TimingOut


class EverythingLine(BaseModel):
    """One line of the stream. Which fields it has depends on `event`."""

    model_config = ConfigDict(extra="allow")

    event: Literal["start", "progress", "end", "problem"] = Field(
        description="`start`: what is asked of which model. `progress`: the grid is done up to `done` points. `end`: "
        "the answer. `problem`: it failed; the fields are those of a problem body."
    )
    done: int | None = Field(None, description="Points that were looked at.")
    points: int | None = Field(None, description="Points of the grid.")
    masks: list[FoundMaskOut] | None = Field(
        None,
        description="Masks that were not sent before. In `end` also those that changed since, as their small regions "
        "went: they replace what was sent under the same `id`.",
    )
    standing: list[int] | None = Field(
        None,
        description="Ids of all masks that would be the answer if the grid ended here, best first. Provisional in "
        "`progress`: a better mask may still displace one, and one that was displaced may come back. Final in `end`.",
    )
