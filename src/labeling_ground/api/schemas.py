"""The JSON of the API, as people read it at /docs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Coordinate = Annotated[float, Field(allow_inf_nan=False)]
PREDICTION_ID = r"^[0-9a-f]{32}$"


class _In(BaseModel):
    """What machines send: strict, so that a misspelt field is an error and not a silently different mask."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PointIn(_In):
    """One click, in pixels of the original image."""

    x: Coordinate = Field(examples=[412])
    y: Coordinate = Field(examples=[301])
    label: int = Field(1, ge=0, le=1, description="1 on the object, 0 off it.")


class MaskRef(_In):
    """A candidate of an earlier prediction, as the mask to start from."""

    prediction_id: str = Field(pattern=PREDICTION_ID, description="`prediction_id` of that answer.")
    index: int = Field(0, ge=0, le=2, description="Which of its masks; 0 is the best.")


class PromptIn(_In):
    """One object: points, at most one box, and optionally an earlier mask to start from."""

    points: list[PointIn] = Field(default_factory=list)
    box: list[Coordinate] | None = Field(
        None, min_length=4, max_length=4, description="Two opposite corners, `[x0, y0, x1, y1]`."
    )
    mask_input: MaskRef | str | None = Field(
        None,
        description="By reference to an earlier prediction; or by value: base64 of 256 × 256 little-endian "
        "float16 or float32 low-res logits.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> "PromptIn":
        if type(self) is PromptIn and not self.says_something:
            raise ValueError("the prompt is empty: give points, a box or a mask_input")
        return self

    @property
    def says_something(self) -> bool:
        """Whether there is anything to go by."""
        return bool(self.points) or self.box is not None or self.mask_input is not None


class MasksRequest(PromptIn):
    """One prompt directly in the body, or several under `prompts`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"points": [{"x": 412, "y": 301, "label": 1}]},
                {
                    "box": [120, 80, 640, 560],
                    "points": [{"x": 200, "y": 500, "label": 0}],
                    "format": "png",
                },
                {
                    "prompts": [
                        {"points": [{"x": 412, "y": 301, "label": 1}]},
                        {"box": [10, 10, 90, 60]},
                    ]
                },
            ]
        }
    )

    prompts: list[PromptIn] | None = Field(None, min_length=1, description="Several objects in one request.")
    multimask: bool = Field(True, description="Up to three nested candidates for each prompt, or the best one.")
    format: Literal["rle", "png", "polygons"] = Field(
        "rle", description="COCO RLE, base64 of a 1-bit PNG, or polygons."
    )
    model: str | None = Field(None, description="A model id of `/v1/models`; the default one if left out.")

    @model_validator(mode="after")
    def _one_way(self) -> "MasksRequest":
        if self.prompts is not None and self.says_something:
            raise ValueError("give one prompt directly, or several under 'prompts', not both")
        if self.prompts is None and not self.says_something:
            raise ValueError("the prompt is empty: give points, a box or a mask_input")
        return self


class Answered(BaseModel):
    """What every answer of a model says about where it came from."""

    image_id: str = Field(description="SHA-256 of the image file.")
    model: str
    model_version: str = Field(description="Model, weights, preprocessing and precision: part of every cache key.")
    outcome: Literal["hit", "joined", "recomputed", "miss"] = Field(
        description="`hit`: it was in the cache. `joined`: waited for another's computation. `recomputed`: it was "
        "evicted and computed again from the kept image. `miss`: computed for this ask."
    )
    seconds: float = Field(description="From the ask to the answer, inside the server.")
    note: str | None = Field(None, description="What to know of this model's quality.")


class ImageOut(Answered):
    """An image that is encoded."""

    width: int
    height: int


class ImageQueued(BaseModel):
    """A prefetch that was taken on."""

    image_id: str
    model: str
    model_version: str
    queued: bool = Field(description="False: it was encoded already.")
    note: str | None = None


class ImageStateOut(BaseModel):
    """What is known of an image."""

    image_id: str
    known: Literal[True] = True
    encoded: bool = Field(description="Whether the next click needs no encoder.")
    width: int
    height: int
    model: str
    model_version: str
    note: str | None = None


class MaskOut(BaseModel):
    """One candidate, in the format that was asked for."""

    score: float = Field(description="Predicted IoU, 0 to 1.")
    area: int = Field(description="Pixels.")
    bbox: list[int] = Field(description="COCO style: x, y, width, height.")
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

    prediction_id: str = Field(description="Names this prediction as a `mask_input` of later prompts.")
    outcome: Literal["hit", "joined", "recomputed", "miss"]
    masks: list[MaskOut] = Field(description="Best first.")
    scores: list[float]
    timing: TimingOut


class MasksOut(Answered):
    """One answer a prompt under `predictions`; a single prompt's masks and scores stand at the top as well."""

    width: int
    height: int
    predictions: list[PredictionOut] | None = None
    prediction_id: str | None = None
    masks: list[MaskOut] | None = None
    scores: list[float] | None = None
    timing: TimingOut


class Purged(BaseModel):
    """What a purge did."""

    deleted: int = Field(description="Entries that went, counted once per tier.")


class ModelOut(BaseModel):
    """One model that is served."""

    id: str
    version: str
    default: bool
    note: str | None = None


class ModelsOut(BaseModel):
    """All models that are served."""

    models: list[ModelOut]


class Health(BaseModel):
    """Alive or ready, and if not, why."""

    status: Literal["ok", "degraded", "starting"]
    checks: dict[str, str] = Field(default_factory=dict)


# --- session style: lenient about extra fields, which existing pages send ---------------------------------------


class _Session(BaseModel):
    model_config = ConfigDict(extra="ignore")

    session_id: str = Field(min_length=1, max_length=512, examples=["annotator-7/photo-12"])


class SessionImage(_Session):
    """Open an image in a session."""

    image: str = Field(min_length=1, description="The image file in base64, with or without a `data:` prefix.")


class SessionClick(_Session):
    """Add a click, or several."""

    points: list[Coordinate] | list[list[Coordinate]] = Field(
        min_length=1, examples=[[412, 301]], description="`[x, y]`, or several pairs."
    )
    labels: list[int] | None = Field(
        None,
        examples=[[1]],
        description="One for each pair: 1 on the object (the default), 0 off it.",
    )


class SessionRect(_Session):
    """Draw a box. Field names are those of the existing labeling page."""

    startX: Coordinate = Field(examples=[120])  # noqa: N815
    startY: Coordinate = Field(examples=[80])  # noqa: N815
    endX: Coordinate = Field(examples=[640])  # noqa: N815
    endY: Coordinate = Field(examples=[560])  # noqa: N815


class SessionOnly(_Session):
    """Just the session."""


class SessionImageOut(BaseModel):
    """The image is open."""

    message: str = "Images received successfully"
    image_id: str
    width: int
    height: int
    model: str
    model_version: str
    outcome: str
    note: str | None = None


class SessionPoint(BaseModel):
    """One click of a session."""

    x: float
    y: float
    label: int


class SessionMaskOut(BaseModel):
    """The mask for the session's clicks so far."""

    masks: str = Field(description="Base64 of a 1-bit PNG in the image's size; white is the object.")
    message: str = "Images processed successfully"
    points: list[SessionPoint]
    box: list[float] | None
    score: float | None
    outcome: str | None
    image_id: str
    prediction_id: str | None
    model: str
    model_version: str
    note: str | None = None


class SessionDone(BaseModel):
    """The clicks are forgotten; the image stays open."""

    message: str = "Finish successfully"
    points: list[SessionPoint] = Field(default_factory=list)
