"""Which names the server answers to, and what other web sites' pages may do with it.

The rules and their reasons are in ``docs/decisions/0012-names-and-web-sites.md``.
"""

from collections.abc import Collection, Mapping
from ipaddress import ip_address

from labeling_ground.api.errors import CrossSite, UnknownHost

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
"""On every answer: its type is what it says, and no page of another origin embeds or frames it."""
ANY = "*"
"""As a host name or an origin: all of them."""


class OriginCheck:
    """Refuses requests to a host name that is not the server's (421), and those of another web site's page (403).

    Programs other than browsers send none of the headers that the second check reads, and pass it.

    Args:
        hosts: names besides ``localhost`` and IP addresses: ``name``, ``*.domain`` for each name below it, or ``*``.
        origins: other web origins whose pages may use the server, as browsers write them; or ``*``.
    """

    def __init__(self, *, hosts: Collection[str], origins: Collection[str]) -> None:
        self._answers_any = ANY in hosts
        self._hosts = frozenset(hosts) | {"localhost"}
        self._domains = (".localhost", *(host[1:] for host in hosts if host.startswith("*.")))
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """See that a request with these headers may be answered.

        Raises:
            UnknownHost: it is for another server.
            CrossSite: it comes from another web site's page.
        """
        host = headers.get(b"host")
        if not self._answers_any and host is not None and not self._knows(host):  # without one it is no browser
            raise UnknownHost(
                f"This server does not answer to the name {_shown(_name_of(host))}. Use localhost or an IP "
                "address, or have the operator add the name to LABELING_GROUND_ALLOWED_HOSTS."
            )
        if (b"sec-fetch-site" in headers or b"origin" in headers) and not self._may(method, headers):
            origin = headers.get(b"origin")
            whose = "another web site's page" if origin is None else f"a page of {_shown(origin.decode('latin-1'))}"
            raise CrossSite(
                f"The request comes from {whose}, which may not use this server. The operator lets an origin in "
                "with LABELING_GROUND_CORS_ORIGINS; a proxy in front of the server must pass the Host header on."
            )

    def _knows(self, host: bytes) -> bool:
        """Whether a ``Host`` header's name is the server's.

        Addresses are: what makes a foreign page's requests come here under the page's own origin is a name.
        """
        name = _name_of(host)
        if name in self._hosts or name.endswith(self._domains):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _may(self, method: str, read: Mapping[bytes, bytes]) -> bool:
        """Whether a browser's request is one of the server's own pages, of the user, or of an allowed origin."""
        site, origin = read.get(b"sec-fetch-site"), read.get(b"origin")
        if site in (b"same-origin", b"none"):
            return True
        if origin is not None and (origin in self._origins or ANY.encode() in self._origins):
            return True
        if site is None and origin is not None:
            # Browsers leave Sec-Fetch-Site out on plain http to another machine.
            authority = _without_port(origin.partition(b"://")[2])
            return any(
                authority == _without_port(read[name]) for name in (b"host", b"x-forwarded-host") if name in read
            )
        # A link on another site may lead here, to be seen in a tab of its own.
        is_link = read.get(b"sec-fetch-mode") == b"navigate" and read.get(b"sec-fetch-dest") == b"document"
        return is_link and method in ("GET", "HEAD")


def _name_of(host: bytes) -> str:
    """The name or address of a ``Host`` header, without its port, brackets and closing dot, in lower case."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")


def _without_port(authority: bytes) -> bytes:
    """An authority in lower case, without a port that its scheme implies: browsers leave those out."""
    return authority.lower().removesuffix(b":80").removesuffix(b":443")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")
