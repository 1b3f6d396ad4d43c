"""The JSON of the API, as people read it at /docs: a module for each resource."""

from labeling_ground.api.schemas.cache import CacheSettingsIn
from labeling_ground.api.schemas.concepts import ConceptsLine, ConceptsRequest
from labeling_ground.api.schemas.everything import EverythingLine, EverythingRequest
from labeling_ground.api.schemas.images import ImageAtUrl
from labeling_ground.api.schemas.masks import MasksRequest
from labeling_ground.api.schemas.session import SessionClick, SessionImage, SessionOnly, SessionRect
from labeling_ground.api.schemas.upcoming import UpcomingIn

READ_BY_HAND = (
    ImageAtUrl,
    MasksRequest,
    EverythingRequest,
    EverythingLine,
    ConceptsRequest,
    ConceptsLine,
    CacheSettingsIn,
    UpcomingIn,
    SessionImage,
    SessionClick,
    SessionRect,
    SessionOnly,
)
"""Bodies that routes parse themselves (limits first, and off the event loop when large): no signature names them."""
