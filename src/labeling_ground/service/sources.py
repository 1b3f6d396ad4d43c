"""Images that are named by their address: fetched once, then known by the digest of what was there."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from labeling_ground import key as keys
from labeling_ground.errors import Overloaded, UnknownImage
from labeling_ground.service.asks import ImageAnswer, ImageState, PrefetchAnswer
from labeling_ground.service.fetching import FetchedFile, Fetcher, Validators
from labeling_ground.service.once import Flights
from labeling_ground.service.predictor import Predictor
from labeling_ground.types import Stretch


@dataclass(slots=True)
class _Remembered:
    """What was found at an address: the file's digest, what tells whether it has changed, and until when not to ask."""

    digest: str
    validators: Validators
    fresh_until: float


@dataclass(frozen=True, slots=True)
class Link:
    """An image by its address, as somebody asks for it.

    Attributes:
        predictor: the model that is asked.
        tenant: whose namespace; addresses are remembered for each tenant alone.
        url: the address.
        stretch: how the file is read.
        client: who works on it now, if that is known.
        headers: credentials for the address's own host, of this tenant.
        fresh_s: seconds for which the file there is taken to be the same, in place of the usual ones.
    """

    predictor: Predictor
    tenant: str
    url: str
    stretch: Stretch | None = None
    client: str | None = None
    headers: Mapping[str, str] | None = None
    fresh_s: float | None = None

    @property
    def address(self) -> tuple[str, str]:
        """By what the address is remembered."""
        return self.tenant, self.url


class Sources:
    """Opens images by address. An address is never a key of the cache: it leads to a digest, for a while.

    For ``fresh_s`` nobody is asked again. After that, a host that sent an ``ETag`` or ``Last-Modified`` is asked
    whether the file has changed; any other host sends it anew.

    Args:
        fetcher: gets the files.
        most_addresses: so many addresses are remembered, those used last.
        fresh_s: seconds for which the file at an address is taken to be the same.
        most_bytes: so many bytes of fetched files are held at once, while they are encoded.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        most_addresses: int = 10_000,
        fresh_s: float = 60.0,
        most_bytes: int = 512 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fetcher = fetcher
        self._bytes_fetched = 0
        self._others: list[Sources] = []
        self._most_addresses = most_addresses
        self._fresh_s = fresh_s
        self._most_bytes = most_bytes
        self._clock = clock
        self._remembered: OrderedDict[tuple[str, str], _Remembered] = OrderedDict()
        self._flights: Flights[FetchedFile] = Flights()

    def digest_at(self, address: tuple[str, str]) -> str | None:
        """The SHA-256 of what was last found at an address, ``(tenant, url)``; ``None`` where nobody has looked."""
        found = self._remembered.get(address)
        return None if found is None else found.digest

    @property
    def bytes_fetched(self) -> int:
        """Bytes of fetched files that are being encoded, those of ``also`` included."""
        return self._bytes_fetched + sum(other.bytes_fetched for other in self._others)

    def also(self, sources: Sequence[str]) -> "Sources":
        """Another one with the same limits, which may open images from more sources. Its maker closes it."""
        other = Sources(
            self.fetcher.also(sources),
            most_addresses=self._most_addresses,
            fresh_s=self._fresh_s,
            most_bytes=self._most_bytes,
            clock=self._clock,
        )
        self._others.append(other)
        return other

    async def open_image(self, link: Link) -> ImageAnswer:
        """The image at an address, fetched unless it is known, and encoded.

        Raises:
            LabelingGroundError: see ``locate``.
        """
        found = await self.locate(link)
        if isinstance(found, ImageAnswer):
            return found
        _, answer = await link.predictor.embedding(link.tenant, found.image_id)
        return answer

    async def locate(self, link: Link) -> ImageState | ImageAnswer:
        """Which image is at an address, and its size; it is fetched and encoded unless it is known.

        An ``ImageState`` is the answer where no file was fetched: the image may have to be encoded again then.

        Raises:
            SourceRefused, SourceFailed, TooLarge, Overloaded: see ``Fetcher.get``.
            LabelingGroundError: see ``Predictor.open_image``.
        """
        known = await self._known(link)
        if known is not None and self._is_fresh(link):
            return known
        fetched = await self._fetch(link, known)
        if fetched.file is None and known is not None:
            return known
        file = fetched.file or b""
        self._bytes_fetched += len(file)
        try:
            image_id = keys.stretched(fetched.digest, link.stretch)
            return await link.predictor.open_image(link.tenant, file, image_id, client=link.client)
        finally:
            self._bytes_fetched -= len(file)

    async def prefetch(self, link: Link) -> tuple[str, PrefetchAnswer]:
        """Fetch the image at an address and queue it, unless it is encoded already: its id, and what became of it.

        Raises:
            LabelingGroundError: see ``locate``.
        """
        known = await self._known(link)
        if known is not None and not known.encoded:
            known = None  # its file is needed
        fetched = None
        if known is None or not self._is_fresh(link):
            fetched = await self._fetch(link, known)
        if known is not None and (fetched is None or fetched.file is None):
            return known.image_id, PrefetchAnswer(False, known.version, known.model_note)
        assert fetched is not None  # noqa: S101 -- for the type checker
        image_id = keys.stretched(fetched.digest, link.stretch)
        return image_id, await link.predictor.prefetch(link.tenant, fetched.file or b"", image_id, client=link.client)

    async def aclose(self) -> None:
        """Call off what is being fetched, and close the connections."""
        await self._flights.aclose()
        await self.fetcher.aclose()

    async def _known(self, link: Link) -> ImageState | None:
        found = self._remembered.get(link.address)
        if found is None:
            return None
        self._remembered.move_to_end(link.address)
        try:
            return await link.predictor.image_state(link.tenant, keys.stretched(found.digest, link.stretch))
        except UnknownImage:
            return None

    def _is_fresh(self, link: Link) -> bool:
        found = self._remembered.get(link.address)  # others may have taken its place meanwhile
        return found is not None and self._clock() < found.fresh_until

    async def _fetch(self, link: Link, known: ImageState | None) -> FetchedFile:
        """What is at the address now; without the file where that is known and has not changed."""
        if self.bytes_fetched >= self._most_bytes:
            raise Overloaded("Too many fetched images wait to be encoded. Try again.")
        before = self._remembered.get(link.address) if known is not None else None
        validators = before.validators if before is not None else None

        async def fetch(_: Callable[[], None]) -> FetchedFile:
            return await self.fetcher.get(link.url, headers=link.headers, validators=validators)

        # Who has the file and who has not wait for two different answers.
        fetched, _ = await self._flights.join(f"{link.tenant} {before is not None} {link.url}", fetch)
        digest = before.digest if fetched.file is None and before is not None else fetched.digest
        fresh_until = self._clock() + (self._fresh_s if link.fresh_s is None else link.fresh_s)
        self._remembered[link.address] = _Remembered(digest, fetched.validators, fresh_until)
        self._remembered.move_to_end(link.address)
        if len(self._remembered) > self._most_addresses:
            self._remembered.popitem(last=False)
        return fetched
