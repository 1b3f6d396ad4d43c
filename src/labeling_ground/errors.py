"""Everything that can go wrong, as one tree.

Nothing here knows HTTP: ``api/errors.py`` has the one table from these classes to a status and a problem body.

::

    LabelingGroundError
    ├── BadInput                 the caller's data is at fault; sending it again will not help
    │   ├── BadTrace             a file that is no trace of accesses, or cannot be read or written
    │   ├── BadImage             the bytes are no image that we can use
    │   │   ├── UnsupportedImage     a format or a pixel layout that we do not read
    │   │   └── DamagedImage         truncated or corrupted
    │   ├── BadPrompt            points, box or mask input that make no sense for this image
    │   ├── TooLarge             over a limit that the operator has set
    │   └── SourceRefused        an address that images are not fetched from
    ├── NotFound
    │   ├── UnknownImage         never seen, or no longer kept: send it again
    │   │   ├── NoRoom               the cache is too small to keep this one: sending it again is no use
    │   │   └── UnreachableImage     the tier that would have it does not answer: try again, or send it again
    │   ├── UnknownSession
    │   ├── UnknownModel
    │   └── UnknownPrediction    a mask input refers to a prediction that is not kept any more
    │       └── UnreachablePrediction    the tier that would have it does not answer: try again
    ├── NotAllowed               an API key is missing, or it is not one of ours
    │   └── Forbidden            the key is one of ours, but not for this
    ├── NotOffered               something that no model served here can do
    ├── ModelTooLarge            a model for which there is no memory, whatever else is unloaded
    ├── Overloaded               a queue is full; ``retry_after`` says when to come back
    ├── BackendFailed            the model did not answer, or answered nonsense
    ├── SourceFailed             another host did not give an image that was to be fetched there
    ├── PullFailed               a model's files could not be had, or not be kept
    ├── DamagedEntry             a cached value is not what was stored (a miss to the caller)
    ├── StoreFailed              a tier did not do what was asked of it (a miss to the caller)
    └── BadSettings              the configuration cannot work; said once, at start
"""

from urllib.parse import urlsplit


def shown_url(url: str, *, path: bool = True) -> str:
    """What sentences and log lines may repeat of a URL: scheme, host, port and path; nothing that can be a key.

    Args:
        url: the URL.
        path: whether to repeat its path.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path if path else ''}"


class LabelingGroundError(Exception):
    """The root. ``str(error)`` is a sentence that says what was wrong and what to do."""


class BadInput(LabelingGroundError):  # noqa: N818 -- named for what the caller did, as in the tree above
    """The caller's data is at fault; sending it again will not help."""


class BadImage(BadInput):
    """The bytes are no image that we can use."""


class UnsupportedImage(BadImage):
    """An image format, or a pixel layout, that we do not read."""


class DamagedImage(BadImage):
    """The image is truncated or corrupted."""


class BadPrompt(BadInput):
    """Points, a box or a mask input that make no sense for this image."""


class TooLarge(BadInput):
    """Over a limit that the operator has set."""


class SourceRefused(BadInput):
    """An address that images are not fetched from: the operator has not named its host, or it is none."""


class BadTrace(BadInput):
    """A file that is no trace of accesses, or one that cannot be read or written."""


class NotFound(LabelingGroundError):  # noqa: N818
    """What was asked for is not here."""


class UnknownImage(NotFound):
    """The image was never seen or is no longer kept. The remedy is to send it again."""

    def __init__(self, image_id: str) -> None:
        super().__init__(
            f"Image {image_id} is not known here, or is no longer kept. "
            "Send it again with POST /v1/images, then repeat this request."
        )
        self.image_id = image_id


class NoRoom(UnknownImage):
    """No tier has kept the image or its embedding: the budgets are too small. Sending it again is no use."""

    def __init__(self, image_id: str, embedding_bytes: int, file_bytes: int) -> None:
        Exception.__init__(
            self,
            f"The cache of this server is too small for image {image_id}: it keeps neither its embedding "
            f"({embedding_bytes} bytes) nor its file ({file_bytes} bytes), so nothing can be asked about it. Sending "
            "it again does not help: the operator must give the cache more room (memory_bytes, disk_bytes).",
        )
        self.image_id = image_id


class UnreachableImage(UnknownImage):
    """The tier that stores image files does not answer now: whether it has this one is not known."""

    def __init__(self, image_id: str) -> None:
        Exception.__init__(
            self,
            f"The cache tier that stores image files does not answer now, so whether image {image_id} is still kept is "
            "not known. Repeat this request after Retry-After seconds, or send the image again with POST /v1/images.",
        )
        self.image_id = image_id


class UnknownSession(NotFound):
    """No such session, or it was idle for too long."""


class UnknownModel(NotFound):
    """No model of that name is served here."""


class UnknownPrediction(NotFound):
    """A mask input refers to a prediction that is not kept any more."""


class UnreachablePrediction(UnknownPrediction):
    """The tier that stores predictions does not answer now: whether it has this one is not known."""

    def __init__(self, prediction_id: str) -> None:
        super().__init__(
            f"The cache tier that stores predictions does not answer now, so whether {prediction_id} is still kept is "
            "not known. Repeat this request after Retry-After seconds, or ask for its prompt again, then refer to it."
        )


class NotOffered(LabelingGroundError):  # noqa: N818
    """Something that no model served here can do, such as finding what a text names."""


class ModelTooLarge(LabelingGroundError):  # noqa: N818
    """There is no memory for the model beside the default one. Trying again is no use."""


class NotAllowed(LabelingGroundError):  # noqa: N818
    """An API key is missing, or it is not one of ours."""


class Forbidden(NotAllowed):
    """The API key is one of ours, but not for this; or no key is."""


class Overloaded(LabelingGroundError):  # noqa: N818
    """A queue is full. ``retry_after`` is the number of seconds after which trying again makes sense."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendFailed(LabelingGroundError):  # noqa: N818
    """The model did not answer, or answered nonsense."""


class ForeignTensors(BackendFailed):
    """A model was given tensors that another one has made."""


class SourceFailed(LabelingGroundError):  # noqa: N818
    """Another host did not give an image that was to be fetched there.

    ``status`` is its HTTP status, if it has answered.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PullFailed(LabelingGroundError):  # noqa: N818
    """A model's files could not be had, or not be kept: the network, the host, or this machine's disk."""


class DamagedEntry(LabelingGroundError):  # noqa: N818
    """A cached value is not what was stored. To the caller this is a miss."""


class StoreFailed(LabelingGroundError):  # noqa: N818
    """A tier did not do what was asked of it. To the caller this is a miss."""


class StoreFull(StoreFailed):
    """A tier has no room and makes none. It still serves what it has: no reason to leave it alone."""


class BadSettings(LabelingGroundError):  # noqa: N818
    """The configuration cannot work."""
