"""What the JSON of several resources has in common."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from labeling_ground import key as keys
from labeling_ground.types import Priority

Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Pair = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
Outcome = Annotated[
    Literal["hit", "joined", "recomputed", "miss"],
    Field(
        description="`hit`: it was in the cache. `joined`: waited for another's computation. `recomputed`: it was "
        "evicted and computed again from the kept image. `miss`: computed for this ask."
    ),
]
EmbeddingPrecision = Annotated[
    str | None,
    Field(
        description="`int8`: made of the image's embedding in int8, which is kept where there is no room for the full "
        "one (`int8_embeddings`). Left out where it was the full one."
    ),
]
MaskFormat = Annotated[
    Literal["rle", "png", "polygons"], Field(description="COCO RLE, base64 of a 1-bit PNG, or polygons.")
]
ModelId = Annotated[str | None, Field(description="A model id of `/v1/models`; the default one if left out.")]
STRETCH = r"^\d{1,3}(\.\d{1,2})?,\d{1,3}(\.\d{1,2})?$"
"""Two percentiles, as a client writes them."""
SHA256 = "^[0-9a-fA-F]{64}$"
"""Digests as they are taken; keys have them in lower case."""
IMAGE_ID = f"^{keys.IMAGE_ID.replace('a-f', 'a-fA-F')}$"
PREDICTION_ID = f"^[0-9a-fA-F]{{32}}({keys.INT8})?$"
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAAAwAQAAAACJMEGyAAAAYklEQVR4Ab2PwQ2AMAwDg3jwZISOmo7WUToCTx5IxkmEJwD6qE9JHLdmvxxHxazA"
    "TNqBM6EBV4IDNURFZ2kJGASayibYonKw9RZos0DpFlmdWeaEUGvPm/UL2ma2OFT60X0DEytubLVsroMAAAAASUVORK5CYII="
)
"""A PNG of 64 × 48 pixels, a white disc on black: small enough to stand in an example, so that all examples work."""
EXAMPLE_ID = "674a53aac44df050de90c9bb957a5f50c0f61fbba0b3e60e8ed61fd75d618c8c"
EXAMPLE_PREDICTION = "5f3c1d9be0a4478c9a62d0f7c1b8e344"
CLIENT_ID: dict[str, Any] = {
    "name": "X-Client-Id",
    "in": "header",
    "required": False,
    "description": "Who works: a tool, an annotator. The cache keeps what each works on, and answers stay the same.",
    "schema": {"type": "string"},
    "example": "annotator-7",
}
"""The header as a parameter of an operation. Read by hand, so it is added to the documentation by hand."""
PRIORITY: dict[str, Any] = {
    "name": "X-Priority",
    "in": "header",
    "required": False,
    "description": "How urgent it is, where it has to wait for the model: `interactive` goes before `prefetch`, that "
    "before `job`. Without it a request is of its route's class, and never of a better one: somebody waits for an "
    "image or a click (`interactive`); `wait=false` is a `prefetch`, and so are the clicks of an `everything`. Work in "
    "bulk should say `job`. What is asked for again more urgently is lifted.",
    "schema": {"type": "string", "enum": [priority.label for priority in sorted(Priority)]},
    "example": "job",
}
"""The same for the class of a request, which ``edge`` reads."""
MODEL: dict[str, Any] = {
    "name": "model",
    "in": "query",
    "required": False,
    "description": "A model id of `/v1/models`, where the body names none; without either it is the default one.",
    "schema": {"type": "string"},
}
"""The same for the model, where the body may name it too; see ``requests.model_named``. Without an example: the
documentation's page would send that, and a server need not have it."""


ADMIN_ONLY: dict[str, Any] = {"security": [{"bearer": []}, {"header": []}]}
"""The documentation of an operation that takes the admin key, as a part of its ``openapi_extra``."""


REFERRED: dict[type[BaseModel], None] = {}
"""Models that the documentation refers to though no signature names them: routes read and write these by hand."""


def reference(model: type[BaseModel]) -> dict[str, str]:
    """A reference to the schema of a model, which is added to the documentation."""
    REFERRED[model] = None
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def json_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """The documentation of a JSON body that a route reads by hand, as a part of its ``openapi_extra``."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": reference(model)}}}}


class Strict(BaseModel):
    """What machines send: strict, so that a misspelt field is an error and not a silently different mask."""

    model_config = ConfigDict(extra="forbid", strict=True)


class OfModel(BaseModel):
    """What everything that is said of a model names."""

    model: str = Field(examples=["classical"])
    model_version: str = Field(
        description="Model, weights, preprocessing and precision: part of every cache key.",
        examples=["classical@3f786850e387550f"],
    )
    note: str | None = Field(None, description="What to know of this model's quality, and of how the image was read.")


class OfImage(OfModel):
    """The same of an image and a model."""

    image_id: str = Field(description="SHA-256 of the image file.", examples=[EXAMPLE_ID])


class Answered(OfImage):
    """What every answer of a model says about where it came from."""

    outcome: Outcome
    seconds: float = Field(description="From the ask to the answer, inside the server.", examples=[0.0004])


class Sized(BaseModel):
    """The size of what is segmented."""

    width: int = Field(description="Columns of what is segmented: upright, EXIF orientation applied.")
    height: int = Field(description="Rows of it.")


class Purged(BaseModel):
    """What a purge did."""

    deleted: int = Field(description="Entries that went, counted once per tier.", examples=[4])
