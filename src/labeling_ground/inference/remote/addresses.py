"""Where the engines of one half are: addresses as the settings name them, and names that DNS knows several for."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from labeling_ground.errors import BadSettings, shown_url

log = logging.getLogger(__name__)

DNS = "dns+"
"""Before ``http://``: an address whose name is resolved again from time to time, each answer being one engine."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and a port to IP addresses. Raises ``OSError`` where there are none."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where one half of the model is.

    Attributes:
        half: which, for sentences.
        url: ``http://host:port`` of its inference port.
        name: what the model is called there.
        management_url: of its management port; empty: one above the inference port, as with TorchServe.
    """

    half: str
    url: str = field(repr=False)
    name: str
    management_url: str = field(default="", repr=False)

    def __str__(self) -> str:
        return shown_url(self.url, path=False)

    @property
    def predictions(self) -> str:
        """Where asks go."""
        return f"{self.url.rstrip('/')}/predictions/{self.name}"

    @property
    def management(self) -> str:
        """Where workers and queue are told."""
        base = self.management_url
        if not base:
            parts = urlsplit(self.url)
            base = _with_host(parts._replace(path="").geturl(), parts.hostname or "", (parts.port or 80) + 1)
        return f"{base.rstrip('/')}/models/{self.name}"


class Addresses:
    """The addresses of the engines of one half, as they are now.

    Args:
        half: which.
        urls: ``http://host:port``, or ``dns+http://name:port``.
        name: what the model is called there.
        management_urls: of their management ports, one for each of ``urls``; none: one port above.
        resolve: looks names up.

    Raises:
        BadSettings: there is not one management address for each address.
    """

    def __init__(
        self,
        half: str,
        urls: Sequence[str],
        name: str,
        management_urls: Sequence[str] = (),
        resolve: Resolve | None = None,
    ) -> None:
        if management_urls and len(management_urls) != len(urls):
            raise BadSettings(
                f"{half}_url has {len(urls)} addresses and {half}_management_url {len(management_urls)}: give one for "
                "each, in the same order, or none where it is one port above."
            )
        self.half = half
        self._name = name
        self._urls = dict(zip(urls, management_urls or [""] * len(urls), strict=True))
        self._resolve = resolve or look_up
        self._last: dict[str, list[str]] = {}

    def __str__(self) -> str:
        return f"{self._name} at {', '.join(shown_url(url, path=False) for url in self._urls)}"

    @property
    def changes(self) -> bool:
        """Whether any of them is looked up by name."""
        return any(url.startswith(DNS) for url in self._urls)

    async def now(self) -> list[Address]:
        """The engines' addresses. Of a name that cannot be looked up now, those of the last time."""
        found: dict[str, Address] = {}
        for url, management in self._urls.items():
            for one, told in await self._resolved(url, management) if url.startswith(DNS) else [(url, management)]:
                found.setdefault(one, Address(self.half, one, self._name, told))
        return list(found.values())

    async def _resolved(self, url: str, management: str) -> list[tuple[str, str]]:
        base, managed = url.removeprefix(DNS), management.removeprefix(DNS)
        parts = urlsplit(base)
        try:
            hosts = sorted(await self._resolve(parts.hostname or "", parts.port or 80))
        except OSError as error:
            hosts = []
            log.warning("%s cannot be looked up: %s", shown_url(url, path=False), error.strerror or error)
        if hosts:  # else its engines are asked whether they still answer: DNS may be what has failed
            self._last[url] = hosts
        return [
            (
                _with_host(base, host, parts.port or 80),
                _with_host(managed, host, urlsplit(managed).port or 80) if managed else "",
            )
            for host in self._last.get(url, [])
        ]


async def look_up(host: str, port: int) -> list[str]:
    """The IP addresses of a host name.

    Raises:
        OSError: it has none, or nobody answers.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})


def _with_host(url: str, host: str, port: int) -> str:
    parts = urlsplit(url)
    shown = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=f"{shown}:{port}").geturl()
