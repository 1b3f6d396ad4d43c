"""Images that came whole in base64: a text that was sent before is known again, and neither decoded nor hashed."""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenImage:
    """An image that was opened here: its id, and its width and height in pixels."""

    image_id: str
    width: int
    height: int


class KnownTexts:
    """Which image a base64 text is, for each tenant.

    The texts that were used last are known, so many for each tenant. Knowing one saves decoding its base64 and hashing
    the file; it does not say that the image is still in the cache.

    Args:
        most: texts that are known for one tenant.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[str, OrderedDict[bytes, OpenImage]] = {}

    def find(self, tenant: str, digest: bytes) -> OpenImage | None:
        """The image of a text; ``None`` where it is not known."""
        known = self._of.get(tenant, OrderedDict())
        if digest in known:
            known.move_to_end(digest)
        return known.get(digest)

    def add(self, tenant: str, digest: bytes, image: OpenImage) -> None:
        """Know a text from now on."""
        known = self._of.setdefault(tenant, OrderedDict())
        known[digest] = image
        known.move_to_end(digest)
        if len(known) > self._most:
            known.popitem(last=False)
