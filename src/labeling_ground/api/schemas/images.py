"""The JSON of images."""

from pydantic import Field

from labeling_ground.api.schemas.common import Answered, EmbeddingPrecision, OfImage, Sized, Strict


class ImageAtUrl(Strict):
    """An image that the server shall fetch."""

    url: str = Field(
        min_length=1,
        max_length=8192,
        description="Address of the image file, at a host that the operator has named (`sources`).",
        examples=["https://images.example.org/cat.jpg"],
    )


class Shown(Sized):
    """How an image is shown."""

    use_preview: bool = Field(
        description="Whether browsers may draw the file in another way than it is segmented (orientation, frames, "
        "transparency), or not at all (TIFF): a page then shows `GET /v1/images/{image_id}/preview`."
    )


class ImageOut(Shown, Answered):
    """An image that is encoded."""

    embedding_precision: EmbeddingPrecision = None


class ImageQueued(OfImage):
    """A prefetch that was taken on."""

    queued: bool = Field(description="`false`: it was encoded already.")


class ImageStateOut(Shown, OfImage):
    """What is known of an image."""

    known: bool = Field(True, description="Always `true`: of an image that is not known the answer is 404.")
    encoded: bool = Field(description="Whether the next click needs no encoder.")
    embedding_precision: EmbeddingPrecision = None
    encoding: bool = Field(description="Whether it is being encoded by this server now, or waits for its turn.")
    place: int | None = Field(
        None, description="Where it waits in the encoder's queue: 1 is the next. Left out where it does not wait."
    )
    seconds_expected: float | None = Field(
        None,
        description="After so many seconds it is probably encoded. Left out where that is not under way, or not "
        "known yet.",
    )
