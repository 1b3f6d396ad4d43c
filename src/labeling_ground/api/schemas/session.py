"""The JSON of the session-style API: lenient about extra fields, which existing pages send."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from labeling_ground.api.schemas.common import (
    EXAMPLE_IMAGE,
    EXAMPLE_PREDICTION,
    STRETCH,
    Coordinate,
    EmbeddingPrecision,
    ModelId,
    OfImage,
    Outcome,
    Pair,
    Sized,
)


class SessionOnly(BaseModel):
    """Just the session."""

    model_config = ConfigDict(extra="ignore")

    session_id: str = Field(
        min_length=1,
        max_length=512,
        examples=["annotator-7/photo-12"],
        description="Any name. Two people who use the same one share clicks, so put who works into it.",
    )
    model: ModelId = Field(
        None,
        max_length=512,
        description="A model id of `/v1/models`, also as `?model=`. The session remembers it until another is named; "
        "the default model answers where none ever was. An object with clicks is predicted anew from these.",
    )


class SessionImage(SessionOnly):
    """Open an image in a session."""

    image: str = Field(
        min_length=1,
        description="The image file in base64, padded or not, also URL-safe, with or without a `data:` prefix and line "
        "breaks.",
        examples=[EXAMPLE_IMAGE],
    )
    stretch: str | None = Field(
        None,
        pattern=STRETCH,
        examples=["0.5,99.5"],
        description="Two percentiles between which the image's values are spread over the full range: for dark 16-bit "
        "images.",
    )


class SessionClick(SessionOnly):
    """Add a click, or several."""

    points: Annotated[list[Coordinate], Field(fail_fast=True)] | Annotated[list[Pair], Field(fail_fast=True)] = Field(
        min_length=1,
        examples=[[32, 24]],
        description="`[x, y]` in pixels of the image, or several: `[x, y, x, y]` or `[[x, y], [x, y]]`.",
    )
    labels: Annotated[list[int], Field(fail_fast=True)] | None = Field(
        None,
        examples=[[1]],
        description="One for each pair: 1 on the object (the default), 0 off it.",
    )


class SessionRect(SessionOnly):
    """Draw a box. Field names are those of the existing labeling page."""

    startX: Coordinate = Field(examples=[10])  # noqa: N815
    startY: Coordinate = Field(examples=[8])  # noqa: N815
    endX: Coordinate = Field(examples=[54])  # noqa: N815
    endY: Coordinate = Field(examples=[40])  # noqa: N815


class SessionImageOut(Sized, OfImage):
    """The image is open."""

    message: str = Field(description="Always this sentence.", examples=["Images received successfully"])
    outcome: Outcome


class SessionPoint(BaseModel):
    """One click of a session."""

    x: float
    y: float
    label: int


class SessionMaskOut(OfImage):
    """The mask for the session's clicks so far."""

    masks: str = Field(description="Base64 of a 1-bit PNG in the image's size; white is the object.")
    message: str = Field(description="Always this sentence.", examples=["Images processed successfully"])
    points: list[SessionPoint] = Field(description="The session's clicks so far, in the order in which they came.")
    box: list[float] | None = Field(None, description="The session's box, if one was drawn.")
    score: float | None = Field(None, description="Left out, as is `outcome`, when nothing is pointed at.")
    outcome: Outcome | None = None
    prediction_id: str | None = Field(None, examples=[EXAMPLE_PREDICTION])
    embedding_precision: EmbeddingPrecision = None


class SessionDone(BaseModel):
    """The clicks are forgotten; the image stays open."""

    message: str = Field(description="Always this sentence.", examples=["Finish successfully"])
    points: list[SessionPoint] = Field(default_factory=list, description="None are left.")
