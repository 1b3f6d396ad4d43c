"""From the setting ``redis_url`` to an address."""

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from labeling_ground.errors import BadSettings

_PORT = 6379
"""Where a Redis listens unless it is told otherwise, ..."""
_SENTINEL_PORT = 26379
"""... and a sentinel."""
_FORMS = (
    "redis://host:port/db, rediss://host:port/db, unix:///path/to/redis.sock, redis+cluster://host:port,host:port "
    "or redis+sentinel://host:port,host:port/service/db (rediss+… with TLS), each with user:password@ before the host"
)


class Shape(StrEnum):
    """How the servers hang together."""

    SINGLE = "single"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Address and credentials of Redis. Neither ``str`` nor ``repr`` tells a password.

    Attributes:
        shape: one server, a cluster, or servers that sentinels watch.
        hosts: host and port of the server, of some nodes of the cluster, or of the sentinels.
        path: the Unix socket, in place of hosts.
        tls: whether connections are encrypted.
        db: number of the database; a cluster has 0 only.
        service: name under which the sentinels know the servers.
        username, password: for the servers.
        sentinel_username, sentinel_password: for the sentinels, where those want some.
    """

    shape: Shape
    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    tls: bool = False
    db: int = 0
    service: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        scheme = "unix" if self.path else f"redis{'s' if self.tls else ''}"
        if self.shape is not Shape.SINGLE:
            scheme += f"+{self.shape}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        service = f"/{self.service}" if self.service else ""
        database = "" if self.shape is Shape.CLUSTER else f"?db={self.db}" if self.path else f"/{self.db}"
        return f"{scheme}://{self.path or hosts}{service}{database}"


def parse(url: str) -> RedisAddress:
    """Read the setting.

    User and password may hold any character if it is written as ``%`` and two hex digits.

    Raises:
        BadSettings: it is none of the forms. The sentence does not repeat the setting, which may hold a password.
    """
    try:
        parts = urlsplit(url)
        scheme, _, extra = parts.scheme.partition("+")
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise _bad("it is no URL") from error
    if parts.fragment:
        raise _bad("it holds a '#': write %23 for one in a password")
    username, password, places = _split(parts)
    if scheme == "unix" and not extra:
        if not parts.path or places:
            raise _bad("a Unix socket is given as unix:///path/to/redis.sock")
        found = RedisAddress(
            Shape.SINGLE,
            path=unquote(parts.path),
            db=_number(options.pop("db", "0"), "db"),
            username=options.pop("username", username),
            password=options.pop("password", password),
        )
        return _done(found, options)
    if scheme not in ("redis", "rediss") or extra not in ("", "cluster", "sentinel"):
        raise _bad(f"it begins with {parts.scheme or 'nothing'}")
    shape = Shape(extra or "single")
    hosts = _hosts(places, _SENTINEL_PORT if shape is Shape.SENTINEL else _PORT)
    if shape is Shape.SINGLE and len(hosts) > 1:
        raise _bad("several hosts are a cluster (redis+cluster://) or sentinels (redis+sentinel://)")
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = ""
    if shape is Shape.SENTINEL:
        if not path:
            raise _bad("the service's name is missing: redis+sentinel://host:port,host:port/service")
        service = path.pop(0)
    db = _number(options.pop("db", path.pop(0) if path else "0"), "db")
    if path:
        raise _bad("its path has too many parts")
    if shape is Shape.CLUSTER and db:
        raise _bad("a cluster has the database 0 only")
    found = RedisAddress(
        shape,
        hosts=hosts,
        tls=scheme == "rediss",
        db=db,
        service=service,
        username=username,
        password=password,
        sentinel_username=options.pop("sentinel_username", None) if shape is Shape.SENTINEL else None,
        sentinel_password=options.pop("sentinel_password", None) if shape is Shape.SENTINEL else None,
    )
    return _done(found, options)


def _split(parts: SplitResult) -> tuple[str | None, str | None, str]:
    """User, password, and the rest of what stands between ``//`` and the path."""
    credentials, at, places = parts.netloc.rpartition("@")
    if not at:
        return None, None, places
    username, colon, password = credentials.partition(":")
    return unquote(username) or None, unquote(password) if colon else None, places


def _hosts(places: str, port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for place in places.split(","):
        bracketed, bracket, rest = place.partition("]")
        host, colon, number = rest.rpartition(":") if bracket else place.rpartition(":")
        if bracket:
            host = bracketed.removeprefix("[")
        elif not colon:
            host, number = place, ""
        if not host:
            raise _bad("a host is missing")
        hosts.append((host, _number(number, "port") if number else port))
    return tuple(hosts)


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise _bad(f"its {what} is no number")
    return int(text)


def _done(found: RedisAddress, left: dict[str, str]) -> RedisAddress:
    if left:
        raise _bad(f"there is no option {', '.join(sorted(left))}")
    return found


def _bad(why: str) -> BadSettings:
    return BadSettings(f"The setting redis_url cannot be used: {why}. It is one of {_FORMS}.")
