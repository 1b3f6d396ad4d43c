"""Image files from other hosts: only from those that the operator named, and only from addresses that may be asked."""

import asyncio
import hashlib
import importlib
import ipaddress
import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from labeling_ground.errors import BadSettings, Overloaded, SourceFailed, SourceRefused, TooLarge, shown_url
from labeling_ground.pools import Pool

SETTING = "LABELING_GROUND_SOURCES"
PRIVATE = "private:"
"""Stands before a host that may have an address of a private network."""
STORES = {"s3": "s3", "gs": "gs", "azure": "abfs"}
"""Object storage: the scheme of an address, and what fsspec calls it."""
_EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "azure": "adlfs"}
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE = 256 * 1024
_LONGEST_URL = 8192
_NUMBER = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*\.?")
"""Hosts that some programs take for an IPv4 address, written in another way than dotted decimals."""
_EMBEDS_IPV4 = ipaddress.ip_network("64:ff9b::/96")
"""NAT64: the last 32 bits are the IPv4 address that is reached."""


@dataclass(frozen=True, slots=True)
class AllowedSource:
    """Where images may be fetched from, as the operator wrote it in ``sources``.

    Attributes:
        scheme: ``http`` (which stands for ``https`` too), or one of ``STORES``.
        host: a host name, ``*.example.org`` for each name below it, ``*`` for any; or a bucket.
        port: the only port; ``None`` for the scheme's own one.
        prefix: what an object's name in a bucket begins with.
        is_private: whether the host may have an address that is not public.
    """

    scheme: str
    host: str
    port: int | None = None
    prefix: str = ""
    is_private: bool = False

    @classmethod
    def parse(cls, text: str) -> "AllowedSource":
        """The source that a text of the setting names: ``[private:]host[:port]`` or ``s3://bucket[/prefix]``."""
        scheme, _, rest = text.partition("://")
        if rest:
            bucket, _, prefix = rest.partition("/")
            return cls(scheme, bucket, prefix=prefix)
        address = URL(f"http://{text.removeprefix(PRIVATE)}")
        return cls("http", _host(address), address.explicit_port, is_private=text.startswith(PRIVATE))

    def covers(self, url: URL) -> bool:
        """Whether a web address is on this host and port."""
        if self.scheme != "http" or url.port != (self.port or _PORTS[url.scheme]):
            return False
        host = _host(url)
        return self.host in ("*", host) or (self.host.startswith("*.") and host.endswith(self.host[1:]))


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server said of a file, with which one can ask it later whether the file has changed."""

    etag: str = ""
    last_modified: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a conditional request."""
        pairs = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in pairs.items() if value}


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file, or that it has not changed.

    Attributes:
        file: its bytes; ``None``: unchanged since the validators that the caller gave.
        digest: SHA-256 in hex; empty where there is no file.
        validators: to ask again with.
    """

    file: bytes | None = field(repr=False)
    digest: str
    validators: Validators


class Fetcher:
    """Fetches files by their address, within limits, from sources that the operator named and from no other.

    A host's addresses are checked after its name is resolved, and the connection goes to one that was checked, so a
    name that leads elsewhere a moment later gains nothing. Redirects are followed by hand: each target is checked like
    a first address. Proxies of the environment are not used, cookies are not kept.

    Args:
        sources: the setting ``sources``.
        max_bytes: largest file.
        timeout_s: longest time for one file, in seconds, redirects and waiting for a turn included.
        redirects: most redirects of one request.
        at_once: most files that are fetched at the same time.

    Raises:
        BadSettings: a source is in an object storage whose package is not installed.
    """

    def __init__(
        self, sources: Sequence[str], *, max_bytes: int, timeout_s: float = 30.0, redirects: int = 5, at_once: int = 8
    ) -> None:
        self._named = tuple(sources)
        self._sources = tuple(AllowedSource.parse(text) for text in sources)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._redirects = redirects
        self._at_once = at_once
        self._turns = asyncio.Semaphore(at_once)
        self._session: aiohttp.ClientSession | None = None
        self._threads = Pool("sources", at_once)
        self._stores = {source.scheme: _store(source.scheme) for source in self._sources if source.scheme in STORES}

    async def get(
        self, url: str, *, headers: Mapping[str, str] | None = None, validators: Validators | None = None
    ) -> FetchedFile:
        """The file at an address: ``http``, ``https``, ``s3``, ``gs`` or ``azure``.

        Args:
            url: the address.
            headers: credentials, sent to this address's own scheme, host and port; not to where it redirects to.
            validators: of the file that the caller has.

        Raises:
            SourceRefused: nobody allowed this address, or it is none.
            SourceFailed: the host does not give the file.
            TooLarge: it is over the limit.
            Overloaded: too many files are being fetched.
        """
        scheme, validators = url[:_LONGEST_URL].partition(":")[0].lower(), validators or Validators()
        has_turn = False
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._turns:
                    has_turn = True
                    if scheme in STORES:
                        read = partial(self._read_object, scheme, self._object_path(scheme, url), url, validators)
                        return await self._threads.run(read)
                    return await self._get(url, dict(headers or {}), validators)
        except TimeoutError:
            if not has_turn:
                raise Overloaded("Too many images are being fetched from other hosts. Try again.") from None
            raise SourceFailed(f"{shown_url(url)} did not arrive within {self._timeout_s:g} seconds.") from None

    async def post(self, url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Status and JSON of an answer to a JSON body; ``None`` for a body that is no JSON. Redirects are not followed.

        Raises:
            SourceRefused, SourceFailed: as ``get``.
        """
        target = self._checked(url)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client().post(target, json=body, allow_redirects=False) as response,
            ):
                text = await response.content.read(_PIECE)
                try:
                    return response.status, json.loads(text)
                except ValueError:
                    return response.status, None
        except TimeoutError:
            raise SourceFailed(f"{shown_url(url)} did not answer within {self._timeout_s:g} seconds.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(url, error) from error

    def check(self, url: str) -> None:
        """See that the operator has named where an address leads to, as far as that can be told without asking.

        Raises:
            SourceRefused: the operator has not, or it is no address.
        """
        scheme = url[:_LONGEST_URL].partition(":")[0].lower()
        self._object_path(scheme, url) if scheme in STORES else self._checked(url)

    def also(self, sources: Sequence[str]) -> "Fetcher":
        """Another fetcher with the same limits, which may fetch from more sources.

        It has connections of its own: one to a private host must serve nobody for whom that host is not named.
        """
        return Fetcher(
            (*self._named, *sources),
            max_bytes=self._max_bytes,
            timeout_s=self._timeout_s,
            redirects=self._redirects,
            at_once=self._at_once,
        )

    def allows(self, url: str) -> bool:
        """Whether ``check`` lets an address pass."""
        try:
            self.check(url)
        except SourceRefused:
            return False
        return True

    async def aclose(self) -> None:
        """Close the connections."""
        self._threads.close()
        if self._session is not None:
            await self._session.close()

    async def _get(self, url: str, headers: dict[str, str], validators: Validators) -> FetchedFile:
        target = self._checked(url)
        try:
            for _ in range(self._redirects + 1):
                sent = {"Accept-Encoding": "identity", **validators.headers, **headers}
                async with self._client().get(target, headers=sent, allow_redirects=False) as response:
                    if response.status not in _REDIRECTS:
                        return await self._read(target, response, validators)
                    onward = self._redirected(target, response.headers.get("Location", ""))
                if onward.origin() != target.origin():
                    headers = {}  # for good: also where it leads back
                target = onward
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(str(target), error) from error
        raise SourceFailed(f"{shown_url(url)} redirects more than {self._redirects} times.")

    async def _read(self, target: URL, response: aiohttp.ClientResponse, validators: Validators) -> FetchedFile:
        shown = shown_url(str(target))
        if response.status == 304 and validators.headers:
            return FetchedFile(None, "", validators)
        if response.status != 200:
            raise SourceFailed(f"{shown} answered {response.status}, and not with the image.", response.status)
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise SourceFailed(f"{shown} sends the image compressed, though it was asked not to.")
        too_large = TooLarge(f"The image at {shown} is larger than {self._max_bytes} bytes, this server's limit.")
        if (response.content_length or 0) > self._max_bytes:
            raise too_large
        digest, pieces, size = hashlib.sha256(), [], 0
        async for piece in response.content.iter_chunked(_PIECE):
            size += len(piece)
            if size > self._max_bytes:
                raise too_large
            digest.update(piece)
            pieces.append(piece)
        found = Validators(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
        return FetchedFile(b"".join(pieces), digest.hexdigest(), found)

    def _redirected(self, target: URL, location: str) -> URL:
        try:
            onward = target.join(URL(location))
        except ValueError:
            raise SourceFailed(f"{shown_url(str(target))} redirects to no address.") from None
        if not location:
            raise SourceFailed(f"{shown_url(str(target))} redirects to no address.")
        if target.scheme == "https" and onward.scheme != "https":
            raise SourceRefused(f"{shown_url(str(target))} redirects to an address without encryption.")
        return self._checked(str(onward))

    def _checked(self, text: str) -> URL:
        """An address that may be asked, as far as that can be told before its name is resolved."""
        if len(text) > _LONGEST_URL:
            raise SourceRefused(f"The address has {len(text)} characters; at most {_LONGEST_URL} are taken.")
        try:
            url = URL(text)
            known = url.scheme in _PORTS and bool(url.raw_host) and url.port is not None
        except ValueError:
            known = False
        if not known:
            raise SourceRefused(
                "The address is none that images are fetched from: it begins with https://, http://, s3://, gs:// or "
                "azure://, and a host or bucket follows."
            )
        if url.raw_user is not None or url.raw_password is not None:
            raise SourceRefused("The address has a user name or a password in it. Leave them out.")
        host = _host(url)
        covering = [source for source in self._sources if source.covers(url)]
        if not covering:
            raise _not_named(f"{host}:{url.port}" if url.port != _PORTS[url.scheme] else host)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if _NUMBER.fullmatch(host):
                raise SourceRefused(f"{host} is no host name, nor a usual way to write an address.") from None
        else:
            self._check_address(host, str(address), is_private=any(source.is_private for source in covering))
        return url

    def _check_address(self, host: str, address: str, *, is_private: bool) -> None:
        if not is_private and not is_public(address):
            raise SourceRefused(
                f"{host} leads to {address}, which is not a public address. If this server may fetch images from "
                f"there, the operator names it with '{PRIVATE}' before it in {SETTING}."
            )

    def may_be_private(self, host: str, port: int) -> bool:
        """Whether the operator lets a host have an address that is not public."""
        urls = [URL.build(scheme=scheme, host=host, port=port) for scheme in _PORTS]
        return any(source.is_private and source.covers(url) for source in self._sources for url in urls)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=_CheckedResolver(self), use_dns_cache=False),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"User-Agent": "labeling-ground", "Accept": "image/*, */*;q=0.5"},
            )
        return self._session

    def _object_path(self, scheme: str, url: str) -> str:
        bucket, _, name = url.partition("://")[2].partition("/")
        sources = [source for source in self._sources if (source.scheme, source.host) == (scheme, bucket)]
        if not name or not any(name.startswith(source.prefix) for source in sources):
            raise _not_named(f"{scheme}://{bucket}")
        return f"{bucket}/{name}"

    def _read_object(self, scheme: str, path: str, url: str, validators: Validators) -> FetchedFile:
        try:
            store = self._stores[scheme]
            unchanged = Validators(store.ukey(path))
            if unchanged == validators:
                return FetchedFile(None, "", validators)
            file = store.cat_file(path, start=0, end=self._max_bytes + 1)
        except Exception as error:  # each storage's package has errors of its own
            raise SourceFailed(f"{shown_url(url)} cannot be read: {type(error).__name__}.") from error
        if len(file) > self._max_bytes:
            raise TooLarge(
                f"The image at {shown_url(url)} is larger than {self._max_bytes} bytes, this server's limit."
            )
        return FetchedFile(file, hashlib.sha256(file).hexdigest(), unchanged)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet; also of those that carry an IPv4 address within."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        within = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in _EMBEDS_IPV4:
            within = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if within is not None:
            return is_public(str(within))
    return found.is_global and not found.is_multicast and not found.is_reserved


class _CheckedResolver(ThreadedResolver):
    """Gives aiohttp those addresses of a host that may be asked; it connects to one of these and no other."""

    def __init__(self, fetcher: Fetcher) -> None:
        super().__init__()
        self._fetcher = fetcher

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The host's addresses that may be asked.

        Raises:
            SourceRefused: there is none.
        """
        found = await super().resolve(host, port, family)
        if not found:
            raise OSError("the name leads to no address")
        if self._fetcher.may_be_private(host, port):
            return found
        public = [each for each in found if is_public(each["host"])]
        if not public:
            self._fetcher._check_address(host, found[0]["host"], is_private=False)
        return public


def _host(url: URL) -> str:
    return (url.raw_host or "").lower().removesuffix(".")


def _not_named(source: str) -> SourceRefused:
    return SourceRefused(
        f"This server fetches no images from {source}: the operator has not named it in {SETTING}. Send the image file "
        "itself, or ask the operator."
    )


def _failed(url: str, error: Exception) -> SourceFailed:
    return SourceFailed(f"{shown_url(url)} cannot be fetched: {type(error).__name__}.")


def _store(scheme: str) -> Any:
    """The file system of an object storage; its package finds keys where it always does (environment, files, roles)."""
    try:
        fsspec = importlib.import_module("fsspec")
        return fsspec.filesystem(STORES[scheme], skip_instance_cache=True, use_listings_cache=False)
    except ImportError:
        raise BadSettings(
            f"{SETTING} names {scheme}://…, which takes the package {_EXTRAS[scheme]}: in a checkout, "
            f"pip install -e '.[{scheme}]'."
        ) from None
