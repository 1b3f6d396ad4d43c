"""How our keys are called in Redis. This is the one place that knows."""

import re
from dataclasses import dataclass

from labeling_ground.errors import BadSettings

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Names:
    """Redis' names for what belongs to us. All start with the prefix, so that a server can be shared with others.

    The image id, third part of every key, stands in braces: ``lg:v1/public/{3fa9…}/mask/sam-vit-h@…/…``. Redis Cluster
    hashes only what is in braces, so everything about one image lies in one slot and may be used together in one
    transaction or script, whichever key it is about.

    Raises:
        BadSettings: the prefix holds a character that means something to Redis.
    """

    prefix: str = "lg"

    def __post_init__(self) -> None:
        if _PREFIX.fullmatch(self.prefix) is None:
            raise BadSettings("The setting redis_prefix takes 1 to 64 letters, digits, '.', '_' and '-'.")

    def redis_key(self, key: str) -> bytes:
        """Where the value of one of our keys lies."""
        return f"{self.prefix}:{_tagged(key)}".encode()

    def name_for(self, key: str, what: str) -> bytes:
        """A name for something else about a key (a lease, a channel), in the same slot, and never the name of a value.

        A purge does not touch it.
        """
        return f"{self.prefix}.{what}:{_tagged(key)}".encode()

    def ours(self, what: str) -> bytes:
        """A name for something that is about no image (the log of purges)."""
        return f"{self.prefix}.{what}".encode()

    def key_of(self, redis_key: bytes) -> str | None:
        """The key whose value lies there; ``None`` where that is not one of ours."""
        start = f"{self.prefix}:"
        text = redis_key.decode(errors="replace")
        if not text.startswith(start):
            return None
        parts = text.removeprefix(start).split("/", 3)
        if len(parts) >= 3:
            parts[2] = parts[2].removeprefix("{").removesuffix("}")
        return "/".join(parts)

    def glob(self, pattern: str) -> bytes:
        """What to let Redis scan for, given one of our patterns.

        It may find more than is meant (a ``*`` of ours also stands for a ``/``, and braces may stand beside one), never
        less: a scan tests each ``key_of`` with ``key.matcher``.
        """
        literal, star, rest = pattern.partition("*")
        if not star:
            return _escaped(f"{self.prefix}:{_tagged(pattern)}")
        head = literal.split("/", 3)
        if len(head) >= 3:
            head[2] = f"{{{head[2]}" if len(head) == 3 else f"{{{head[2]}}}"
        # What follows the last star may be followed by a brace.
        loose = _escaped(f"{star}{rest}*").replace(b"\\*", b"*").replace(b"/", b"*/*")
        return _escaped(f"{self.prefix}:{'/'.join(head)}") + re.sub(rb"\*+", b"*", loose)


def _tagged(key: str) -> str:
    parts = key.split("/", 3)
    if len(parts) >= 3:
        parts[2] = f"{{{parts[2]}}}"
    return "/".join(parts)


def _escaped(text: str) -> bytes:
    return re.sub(r"([\\*?\[\]^])", r"\\\1", text).encode()
