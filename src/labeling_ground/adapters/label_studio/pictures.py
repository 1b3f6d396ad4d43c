"""Where the pictures of Label Studio's tasks are, and with which credentials they are fetched."""

import asyncio
import base64
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from yarl import URL

from labeling_ground.errors import SourceFailed, SourceRefused
from labeling_ground.service.asks import ImageAnswer, ImageState
from labeling_ground.service.fetching import PRIVATE
from labeling_ground.service.sources import Link, Sources
from labeling_ground.settings import Settings

T = TypeVar("T")

_FILES = ("/data/", "/storage-data/", "/tasks/")
"""Where Label Studio has files. Nothing else is asked for with a user's token."""
_UPLOADS = "/data/upload/"
_STORES = {"s3": "s3", "gs": "gs", "azure-blob": "azure"}
"""Schemes of Label Studio for object storage, and what they are called here."""
_TOKEN_S = 240.0
"""Seconds for which an access token is used; it is good for 300."""
_MOST_SITES = 1000


@dataclass(slots=True)
class Site:
    """A Label Studio, and who we are there.

    Attributes:
        url: where it is, without a slash at the end.
        key: a personal access token, which is exchanged for access tokens, or a legacy token; empty: none.
    """

    url: str
    key: str = field(repr=False, default="")
    access: str = field(repr=False, default="", init=False)
    access_until: float = field(default=0.0, init=False)
    exchanging: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)


class Pictures:
    """Opens the pictures of Label Studio's tasks by what the tasks say of them.

    Args:
        sources: opens images from the hosts that the operator has named; Label Studio's own is added.
        settings: which Label Studio it is.
        clock: seconds, monotonic.
    """

    def __init__(self, sources: Sources, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uploads_fresh_s = settings.idle_s
        self._site: Site | None = None
        own: list[str] = []
        if settings.label_studio_url is not None:
            address = URL(settings.label_studio_url)
            key = settings.label_studio_api_key
            self._site = Site(settings.label_studio_url.rstrip("/"), key.get_secret_value() if key else "")
            host = f"[{address.host}]" if ":" in (address.host or "") else address.host
            own.append(f"{PRIVATE}{host}:{address.port}")
        self._told: OrderedDict[tuple[str, str], Site] = OrderedDict()
        """What /setup said, by tenant and project."""
        self._sources = sources.also(own)
        self._fetcher = self._sources.fetcher

    def remember(self, tenant: str, project: str, url: str | None, token: str | None) -> None:
        """Take down what Label Studio says of itself at the setup of a project, for want of better.

        It counts only where the operator has named its host: who may call setup could otherwise have us fetch from
        anywhere.
        """
        if not url or not self._fetcher.allows(url):
            return
        site = Site(url.rstrip("/"), token or "")
        if self._site is not None and (self._site.key or URL(self._site.url).origin() != URL(url).origin()):
            return
        if (known := self._told.get((tenant, project))) is not None and (known.url, known.key) == (site.url, site.key):
            return
        self._told[tenant, project] = site
        if len(self._told) > _MOST_SITES:
            self._told.popitem(last=False)

    async def open(self, whose: Link, project: str, value: str, task_id: object) -> ImageState | ImageAnswer:
        """The picture of a task, fetched and encoded unless it is known; ``whose`` is a link without its address.

        Raises:
            LabelingGroundError: see ``Sources.locate``.
        """
        return await self._with_credentials(whose, project, value, task_id, self._sources.locate)

    async def prefetch(self, whose: Link, project: str, value: str, task_id: object) -> None:
        """Fetch the picture of a task and queue it to be encoded.

        Raises:
            LabelingGroundError: see ``Sources.prefetch``.
        """
        await self._with_credentials(whose, project, value, task_id, self._sources.prefetch)

    async def aclose(self) -> None:
        """Call off what is being fetched, and close the connections."""
        await self._sources.aclose()

    async def _with_credentials(
        self, whose: Link, project: str, value: str, task_id: object, work: Callable[[Link], Awaitable[T]]
    ) -> T:
        """Do the work with the picture's address, credentials where it is Label Studio's, and how long it is fresh."""
        site = self._told.get((whose.tenant, project), self._site)
        try:
            url = self._address(site, value, task_id)
            is_own = site is not None and URL(url).origin() == URL(site.url).origin()
        except ValueError:
            raise SourceRefused("The task's data has no address of a picture that this server can fetch.") from None
        if site is None or not is_own:
            return await work(replace(whose, url=url))
        fresh_s = self._uploads_fresh_s if _UPLOADS in URL(url).path else None  # their names are random
        link = replace(whose, url=url, fresh_s=fresh_s)
        try:
            return await work(replace(link, headers=await self._credentials(site)))
        except SourceFailed as error:
            if error.status != 401:
                raise
        site.access_until = 0.0  # the token may have been revoked, or Label Studio's clock be another
        try:
            return await work(replace(link, headers=await self._credentials(site)))
        except SourceFailed as error:
            if error.status != 401:
                raise
            raise SourceFailed(
                f"Label Studio at {site.url} does not give the picture to this server (401). Set LABEL_STUDIO_API_KEY "
                "to a personal access token of a user who may see it; legacy tokens are switched off in new "
                "installations.",
                401,
            ) from error

    def _address(self, site: Site | None, value: str, task_id: object) -> str:
        """Where the picture is that a task's data names.

        Raises:
            SourceRefused: it is nowhere that pictures are fetched from.
            ValueError: it is no address.
        """
        scheme, separator, rest = value.partition("://")
        if separator and scheme in _STORES:
            direct = f"{_STORES[scheme]}://{rest}"
            if site is None or self._fetcher.allows(direct):
                return direct
            name = base64.urlsafe_b64encode(value.encode()).decode("ascii")
            return f"{site.url}/tasks/{task_id}/presign/?fileuri={name}"
        if value.startswith("/") and not value.startswith("//"):
            if site is None:
                raise SourceRefused(
                    "The picture is in Label Studio, and this server does not know where that is. Set LABEL_STUDIO_URL "
                    "and LABEL_STUDIO_API_KEY where this server is started."
                )
            base = URL(site.url)
            below = base.path.rstrip("/")
            path = value if below and value.startswith(f"{below}/") else f"{below}{value}"
            url = URL(f"{base.origin()}{path}")
            if not url.path.removeprefix(below).startswith(_FILES) or ".." in url.path.split("/"):
                raise SourceRefused(f"Label Studio has no pictures at {url.path!r}.")
            return str(url)
        return value

    async def _credentials(self, site: Site) -> dict[str, str]:
        """Headers by which Label Studio knows us; none where there is no key."""
        if not site.key:
            return {}
        if site.key.count(".") != 2:  # a personal access token is a JSON Web Token
            return {"Authorization": f"Token {site.key}"}
        async with site.exchanging:
            if self._clock() >= site.access_until:
                status, answer = await self._fetcher.post(f"{site.url}/api/token/refresh/", {"refresh": site.key})
                access = answer.get("access") if isinstance(answer, dict) else None
                if status != 200 or not isinstance(access, str):
                    raise SourceFailed(
                        f"Label Studio at {site.url} does not take the personal access token in LABEL_STUDIO_API_KEY "
                        f"({status}): make a new one in its account settings.",
                        status,
                    )
                site.access, site.access_until = access, self._clock() + _TOKEN_S
        return {"Authorization": f"Bearer {site.access}"}
