"""The JSON of the lists of upcoming images."""

from typing import Annotated

from pydantic import Field

from labeling_ground.api.schemas.common import EXAMPLE_ID, IMAGE_ID, ModelId, Strict

ImageName = Annotated[str, Field(pattern=rf"{IMAGE_ID}|^[A-Za-z0-9]+://[^\x00-\x20\x7f]+$", max_length=8192)]


class UpcomingIn(Strict):
    """The images that a client will open next, the next one first."""

    images: list[ImageName] = Field(
        description="Image ids, or addresses at hosts that the operator has named (`sources`). An empty list takes "
        "the one before back.",
        examples=[[EXAMPLE_ID]],
    )
    model: ModelId = None


class UpcomingOut(Strict):
    """What became of a list."""

    listed: int = Field(description="Images that the list has now, each counted once.", examples=[1])
    ahead: int = Field(
        description="So many of the first ones are encoded while nobody waits. 0 until an image from the list's "
        "beginning was opened, and again when others are opened instead.",
        examples=[0],
    )
    unknown: list[str] = Field(
        description="Of the first ids, those of which neither the file nor an embedding is stored: send these files.",
        json_schema_extra={"items": {"type": "string", "pattern": IMAGE_ID}},
        examples=[[]],
    )
