"""Lists of the images that clients will open next, followed as far as each has proved true."""

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from labeling_ground import key as keys
from labeling_ground.errors import LabelingGroundError
from labeling_ground.service.model_pool import ModelPool
from labeling_ground.service.presence import Presence
from labeling_ground.service.sources import Link, Sources
from labeling_ground.supervisor import Background


@dataclass(frozen=True, slots=True)
class Reader:
    """The client that a list belongs to.

    Attributes:
        tenant: in whose namespace they are.
        client: who it is, within that.
        model: by which model they are to be encoded; ``None``: the default one.
    """

    tenant: str
    client: str
    model: str | None = None

    @property
    def name(self) -> str:
        """As ``Presence`` knows the client."""
        return f"{self.tenant}/{self.client}"


_MOST_PROOFS = 64


class Images(Protocol):
    """What a list speaks of. An image is named by its id or its address."""

    def group(self, reader: Reader, image: str) -> str | None:
        """The group of the image's keys; ``None`` where it is not known what is at its address."""
        ...

    def fetch(self, reader: Reader, image: str) -> None:
        """Begin to encode the image while nobody waits for it."""
        ...


@dataclass(slots=True)
class _List:
    reader: Reader
    images: list[str] = field(default_factory=list)
    fetched: set[str] = field(default_factory=set)
    ahead: int = 0
    """So many of the list's first images are fetched: what it has proved to be worth."""
    proofs: int = 0
    needed: int = 1
    """Images that must be opened as listed, and those that were, while none is fetched."""

    def prove(self, most: int) -> None:
        """The list was right, and if the image was fetched, that was worth it."""
        if self.ahead:
            self.ahead = min(most, 2 * self.ahead)
            return
        self.proofs += 1
        if self.proofs >= self.needed:
            self.ahead, self.proofs = min(most, 1), 0

    def disprove(self) -> None:
        """The list was wrong, or fetching for it was in vain: each time that it has gone down to nothing, it takes
        twice as many proofs to begin again."""
        if self.ahead == 1:
            self.needed = min(_MOST_PROOFS, 2 * self.needed)
        self.ahead //= 2


class Upcoming:
    """Fetches the next images of each client's list ahead, and spares its next ones from the done hint.

    A list may be wrong, and the cache too small to fetch anything ahead; neither must cost more than no list would. So
    nothing is done for one before its client has opened its first image. Each that is opened in its turn then doubles
    how many are fetched ahead; it is halved by each that is opened out of its turn, and by each that was fetched and is
    gone from the cache when it is opened. A list that has come down to nothing takes more and more proofs to begin
    again. A new list of the same client inherits what the one before it has proved to be worth; an empty one in
    between changes nothing about that.

    Args:
        presence: told which images are spared, and tells which are opened.
        images: what the lists speak of.
        most_ahead: most images of one list that are fetched before they are opened.
        spared: most images of one list that are spared.
        most_listed: images of all lists together, and one more for each list; when there are more, the lists whose
            clients neither opened an image nor sent a list for longest are forgotten.
    """

    def __init__(
        self, presence: Presence, images: Images, *, most_ahead: int, spared: int, most_listed: int = 100_000
    ) -> None:
        self._presence = presence
        self._images = images
        self._most_ahead = most_ahead
        self._spared = spared
        self._most_listed = most_listed
        self._lists: OrderedDict[str, _List] = OrderedDict()
        self._count = 0
        presence.on_open = self._opened

    def __len__(self) -> int:
        """Images of all lists."""
        return self._count

    def announce(self, reader: Reader, images: Sequence[str]) -> int:
        """Put a client's list in the place of its earlier one, whose proved worth the new one inherits.

        An empty list takes the earlier one back, and leaves its worth to the next.

        Returns:
            How many of its images are fetched ahead by now.
        """
        listed = list(dict.fromkeys(images))
        found = self._lists.setdefault(reader.name, _List(reader))
        self._lists.move_to_end(reader.name)
        self._count += len(listed) - len(found.images)
        found.reader, found.images = reader, listed
        found.fetched.intersection_update(listed)
        while self._count + len(self._lists) > self._most_listed and len(self._lists) > 1:
            oldest, forgotten = self._lists.popitem(last=False)
            self._count -= len(forgotten.images)
            self._presence.spare(oldest, ())
        current = self._presence.current(reader.name)
        if listed and current is not None and self._images.group(reader, listed[0]) == current:
            self._opened(reader.name, current, False)  # the image on the screen counts as just opened
        else:
            self._follow(found)
        return min(found.ahead, len(found.images))

    def _opened(self, client: str, group: str, encoded: bool) -> None:
        """Compare what a client opened with its list, and go on from there.

        Args:
            client: who.
            group: of the image's keys.
            encoded: whether it had to be encoded for that.
        """
        found = self._lists.get(client)
        if found is None:
            return
        self._lists.move_to_end(client)
        if not found.images:  # a list that names no image is neither right nor wrong
            return
        place = self._place(found, group)
        if place == 0 and not (encoded and found.images[0] in found.fetched):
            found.prove(self._most_ahead)
        else:
            found.disprove()
        if place is not None:  # what comes before it was passed over
            found.fetched.difference_update(found.images[: place + 1])
            self._count -= place + 1
            del found.images[: place + 1]
        self._follow(found)

    def _place(self, found: _List, group: str) -> int | None:
        places = (place for place, image in enumerate(found.images) if self._images.group(found.reader, image) == group)
        return next(places, None)

    def _follow(self, found: _List) -> None:
        spared = self._spared * found.ahead // max(1, self._most_ahead)
        groups = [self._images.group(found.reader, image) for image in found.images[: max(spared, found.ahead)]]
        self._presence.spare(found.reader.name, [group for group in groups if group is not None])
        for image in itertools.islice(found.images, found.ahead):
            if image not in found.fetched:
                found.fetched.add(image)
                self._images.fetch(found.reader, image)


class ServedImages:
    """Images of this server's models: stored ones by their id, others by their address.

    Args:
        models: encode them.
        sources: fetch them.
        background: runs what nobody waits for.
    """

    def __init__(self, models: ModelPool, sources: Sources, background: Background) -> None:
        self._models = models
        self._sources = sources
        self._background = background

    def group(self, reader: Reader, image: str) -> str | None:
        """The group of the image's keys; ``None`` where it is not known what is at its address."""
        digest = image if keys.is_image_id(image) else self._sources.digest_at((reader.tenant, image))
        return None if digest is None else keys.ImageKeys(reader.tenant, digest).group

    def fetch(self, reader: Reader, image: str) -> None:
        """Begin to encode the image while nobody waits for it."""
        self._background.start(self._fetch(reader, image))

    async def _fetch(self, reader: Reader, image: str) -> None:
        with contextlib.suppress(LabelingGroundError):  # who opens it will be told
            served = await self._models.acquire(reader.model)
            try:
                if keys.is_image_id(image):
                    predictor = served.predictor
                    await predictor.prefetches.of_stored_file(predictor.model.bind(reader.tenant, image))
                else:
                    link = Link(served.predictor, reader.tenant, image, client=reader.client)
                    await self._sources.prefetch(link)
            finally:
                self._models.leave(served)
