"""Several asks in one request, each as ``wire`` writes it, and what a request says of itself at its head."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec.tensors import pack, unpack
from labeling_ground.errors import BadInput
from labeling_ground.inference.remote.wire import MOST_TOGETHER, PROTOCOL, SAME_RELEASE
from labeling_ground.types import Priority

_LONGEST_HEAD = 1 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """What a request says of itself, to be known before it is read whole.

    Attributes:
        ask: ``describe``, ``encode``, ``decode`` or ``several``; empty where it cannot be read.
        asks: how many asks it holds.
        priority: their class; interactive where it does not say.
    """

    ask: str = ""
    asks: int = 1
    priority: Priority = Priority.INTERACTIVE


def write_several(bodies: Sequence[bytes], priority: Priority = Priority.INTERACTIVE) -> bytes:
    """Several asks as one request, to an engine that says it takes as many ``together``."""
    words = {"protocol": PROTOCOL, "ask": "several", "asks": str(len(bodies)), "priority": priority.label}
    return pack(_numbered(bodies), words)


def read_several(data: bytes) -> list[bytes]:
    """The asks of a request that holds several, not read themselves.

    Raises:
        BadInput: it cannot be read, or holds none.
    """
    tensors, words = unpack(data)
    if words.get("protocol") != PROTOCOL:
        raise BadInput(
            f"The asks are of protocol {words.get('protocol')!r}; this engine speaks {PROTOCOL}. {SAME_RELEASE}"
        )
    return _bodies(tensors, len(tensors))


def write_replies(replies: Sequence[tuple[int, bytes]]) -> bytes:
    """The answers to several asks: status and body of each."""
    return pack(_numbered([body for _, body in replies]), {"status": ",".join(str(status) for status, _ in replies)})


def read_replies(data: bytes, count: int) -> list[tuple[int, bytes]]:
    """The answers to so many asks, in their order: status and body of each, not read themselves.

    Raises:
        BadInput: these are not so many.
    """
    tensors, words = unpack(data)
    statuses = words.get("status", "").split(",")
    if len(statuses) != count or not all(re.fullmatch("[1-5][0-9][0-9]", status) for status in statuses):
        raise BadInput(f"{','.join(statuses)[:100]!r} are no {count} statuses.")
    return list(zip(map(int, statuses), _bodies(tensors, count), strict=True))


def read_head(data: bytes) -> Head:
    """What a request says of itself. Cheap: no tensor is read, and nothing is checked that the reader checks."""
    try:
        length = int.from_bytes(data[:8], "little")
        words = json.loads(data[8 : 8 + min(length, _LONGEST_HEAD)]).get("__metadata__", {})
        asks, label = str(words.get("asks", "1")), words.get("priority")
        return Head(
            str(words.get("ask", "")),
            min(int(asks), MOST_TOGETHER) if re.fullmatch("[1-9][0-9]{0,3}", asks) else 1,
            next((one for one in Priority if one.label == label), Priority.INTERACTIVE),
        )
    except (ValueError, AttributeError, RecursionError):
        return Head()


def _numbered(bodies: Sequence[bytes]) -> dict[str, NDArray[np.uint8]]:
    return {str(number): np.frombuffer(body, np.uint8) for number, body in enumerate(bodies)}


def _bodies(tensors: Mapping[str, NDArray[Any]], count: int) -> list[bytes]:
    if not 1 <= count <= MOST_TOGETHER:
        raise BadInput(f"{count} asks are in the request; 1 to {MOST_TOGETHER} can be.")
    if set(tensors) != set(map(str, range(count))):
        raise BadInput("The asks of a request are numbered from 0, without a gap.")
    bodies = [tensors[str(number)] for number in range(count)]
    if any(body.dtype != np.uint8 or body.ndim != 1 for body in bodies):
        raise BadInput("An ask among several must be its bytes, uint8 [length].")
    return [body.tobytes() for body in bodies]
