"""The JSON of concepts: all instances of what a phrase names, or of what is like exemplars."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from labeling_ground.api.schemas.common import (
    EXAMPLE_PREDICTION,
    Answered,
    Coordinate,
    MaskFormat,
    ModelId,
    Outcome,
    Sized,
    Strict,
)
from labeling_ground.api.schemas.masks import MaskOut, TimingOut


class ExemplarIn(Strict):
    """A box around one object of the same image, as an example."""

    box: list[Coordinate] = Field(
        min_length=4,
        max_length=4,
        examples=[[10, 8, 54, 40]],
        description="Two opposite corners, `[x0, y0, x1, y1]`. What reaches over the image's edge is cut off.",
    )
    positive: bool = Field(True, description="Whether objects like this one are meant; false leaves them out.")


class ConceptsRequest(Strict):
    """What to find: a phrase, or several; exemplars; or each phrase together with the exemplars."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "screw"},
                {"phrases": ["screw", "hex nut"], "score_threshold": 0.3, "format": "polygons"},
                {"exemplars": [{"box": [10, 8, 54, 40]}, {"box": [2, 2, 9, 9], "positive": False}]},
            ]
        }
    )

    text: str | None = Field(
        None, description="One phrase: a noun with what tells it from others, as in `red screw`.", examples=["screw"]
    )
    phrases: list[str] | None = Field(None, min_length=1, description="Several, each answered for itself.")
    exemplars: list[ExemplarIn] = Field(
        default_factory=list, description="With no phrase, one at least is positive. In any order."
    )
    score_threshold: Coordinate = Field(
        0.5, ge=0, le=1, description="Instances of at least this score. Moving it computes nothing anew."
    )
    max_instances: int | None = Field(None, ge=1, le=10_000, description="At most so many of each phrase, the best.")
    format: MaskFormat = "rle"
    model: ModelId = None

    @model_validator(mode="after")
    def _check(self) -> "ConceptsRequest":
        if self.text is not None and self.phrases is not None:
            raise ValueError("give one phrase as text, or several as phrases, not both")
        if self.text is None and self.phrases is None and not self.exemplars:
            raise ValueError("say what to find: give text, phrases or exemplars")
        return self


class InstanceOut(MaskOut):
    """One object that was found, in the format that was asked for. `score`: how sure the model is that it is one."""

    index: int = Field(description="Names it in a `mask_input`, with the concept's `prediction_id`.", examples=[0])
    box: list[float] = Field(
        description="The model's own box around it, `[x0, y0, x1, y1]` in pixels.", examples=[[12.6, 10.9, 51.8, 38.2]]
    )


class ConceptOut(BaseModel):
    """What was found of one phrase, or of the exemplars alone."""

    phrase: str | None = Field(
        None, description="As it was looked for: in lower case, with single spaces.", examples=["screw"]
    )
    prediction_id: str = Field(
        description="Names this answer: with an instance's `index` it is a `mask_input` of clicks that refine it.",
        examples=[EXAMPLE_PREDICTION],
    )
    outcome: Outcome
    found: int = Field(description="Instances of any score; those below `score_threshold` are not listed.")
    instances: list[InstanceOut] = Field(description="Best first.")
    timing: TimingOut


class ConceptsOut(Sized, Answered):
    """One answer a phrase, in their order. `outcome` is the dearest of them."""

    concepts: list[ConceptOut]
    timing: TimingOut


class ConceptsLine(BaseModel):
    """One line of the stream. Which fields it has depends on `event`."""

    model_config = ConfigDict(extra="allow")

    event: Literal["start", "concept", "end", "problem"] = Field(
        description="`start`: which model, and the image's size. `concept`: what was found of one phrase. `end`: all "
        "were answered. `problem`: it failed; the fields are those of a problem body."
    )
    number: int | None = Field(None, description="Which of the phrases a `concept` answers, counted from 0.")
