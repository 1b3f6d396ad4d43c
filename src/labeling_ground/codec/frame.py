"""The frame: how a cached value looks as bytes, in every tier.

=========  =====================================================================================
offset     content
=========  =====================================================================================
0          magic ``LGF1``
4          checksum: the first 16 bytes of SHA-256 over everything from offset 20 on
20         length of the header in bytes, ``uint32`` little-endian
24         header: JSON with ``key``, ``kind``, ``cost``, ``created``, ``meta`` and the tensors' layout
aligned    tensors, raw and little-endian, each starting at a multiple of 64 bytes
=========  =====================================================================================

A value carries its own key, so that bytes which a store hands out under a wrong name are found out. Reading copies
nothing: the arrays are views on the bytes. There is no pickle anywhere.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import DamagedEntry
from labeling_ground.types import Entry, Kind

MAGIC = b"LGF1"
_PREFIX = struct.Struct("<4s16sI")
_SUM = slice(4, 20)
_SUMMED_FROM = 20
_ALIGN = 64
_FP16_MAX = 65504.0
_DTYPES = ("uint8", "int8", "int16", "uint16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")

Precision = Literal["fp16", "fp32"]


@dataclass(frozen=True, slots=True)
class OpenedFrame:
    """An opened value: what ``seal`` was given, tensors as read-only views on the bytes."""

    key: str
    kind: Kind
    cost: float
    created: float
    meta: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]
    digest: str
    """The checksum, in hex: values of equal digest are equal."""


def seal(
    key: str,
    kind: Kind,
    *,
    cost: float,
    created: float,
    meta: Mapping[str, Any] | None = None,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    precision: Precision = "fp32",
) -> Entry:
    """Turn a result into the entry that stores keep.

    Args:
        key: the key that it will be stored under.
        kind: what it is.
        cost: seconds that computing it took.
        created: seconds since 1970.
        meta: anything JSON can hold.
        tensors: arrays of integers or floats, by name.
        precision: ``fp16`` keeps floats in half the bytes. A tensor with a finite value that half precision cannot
            hold stays as it is: infinities where there were none would be a wrong mask.
    """
    layout: list[tuple[str, str, list[int], int]] = []
    parts: list[bytes | memoryview] = []
    offset = 0
    for name, tensor in (tensors or {}).items():
        stored = _stored(np.asarray(tensor), precision)
        layout.append((name, stored.dtype.name, list(stored.shape), offset))
        gap = -stored.nbytes % _ALIGN
        parts += stored.ravel().data, bytes(gap)
        offset += stored.nbytes + gap
    body = (*_head(key, kind, cost, created, meta or {}, layout), *parts)
    return Entry(kind, b"".join((MAGIC, _checksum(*body), *body)), cost, created)


def size_of_one(
    key: str, kind: Kind, name: str, dtype: str, shape: Sequence[int], *, cost: float, created: float
) -> int:
    """Bytes of the entry that ``seal`` makes of one tensor without meta, before there is one."""
    head = _head(key, kind, cost, created, {}, [(name, dtype, [*shape], 0)])
    stored = math.prod(shape) * np.dtype(dtype).itemsize
    return _SUMMED_FROM + sum(map(len, head)) + stored + -stored % _ALIGN


def _head(
    key: str, kind: Kind, cost: float, created: float, meta: Mapping[str, Any], layout: Sequence[Any]
) -> tuple[bytes, bytes, bytes]:
    """What stands between an entry's checksum and its tensors."""
    facts = {"key": key, "kind": kind, "cost": cost, "created": created, "meta": meta, "tensors": layout}
    header = json.dumps(facts, separators=(",", ":")).encode()
    return struct.pack("<I", len(header)), header, bytes(-(_PREFIX.size + len(header)) % _ALIGN)


def unseal(value: bytes, key: str) -> OpenedFrame:
    """Open a value that was verified before, or that never left this process.

    Raises:
        DamagedEntry: it is no frame, or it was stored under another key.
    """
    header, start = _header(value)
    if header["key"] != key:
        raise DamagedEntry(f"The value under {key} belongs to another key.")
    try:
        tensors: dict[str, NDArray[Any]] = {}
        for name, dtype, shape, offset in header["tensors"]:
            if dtype not in _DTYPES or min(shape, default=0) < 0:
                raise DamagedEntry(f"The value under {key} holds a tensor of type {dtype} and shape {shape}.")
            count = int(np.prod(shape, dtype=np.int64))
            tensors[name] = np.frombuffer(
                value, dtype=np.dtype(dtype).newbyteorder("<"), count=count, offset=start + offset
            ).reshape(shape)
        return OpenedFrame(
            header["key"],
            Kind(header["kind"]),
            header["cost"],
            header["created"],
            header["meta"],
            tensors,
            value[_SUM].hex(),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedEntry(f"The value under {key} has a damaged header.") from error


def verify(value: bytes, key: str) -> OpenedFrame:
    """Check that a value is complete, unchanged and the one that belongs to the key, and open it.

    Raises:
        DamagedEntry: it is not.
    """
    if len(value) < _PREFIX.size:
        raise DamagedEntry(f"The value under {key} is cut short.")
    magic, checksum, _ = _PREFIX.unpack_from(value)
    if magic != MAGIC:
        raise DamagedEntry(f"The value under {key} is no frame.")
    if _checksum(memoryview(value)[_SUMMED_FROM:]) != checksum:
        raise DamagedEntry(f"The checksum of the value under {key} does not match.")
    return unseal(value, key)


def entry_of(value: bytes, key: str) -> Entry:
    """The entry that a sealed value stands for, for stores that keep bytes only.

    Raises:
        DamagedEntry: it is no frame, or it was stored under another key.
    """
    frame = unseal(value, key)
    return Entry(frame.kind, value, frame.cost, frame.created)


def _header(value: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors start."""
    try:
        magic, _, length = _PREFIX.unpack_from(value)
        if magic != MAGIC:
            raise DamagedEntry("The value is no frame.")
        header = json.loads(value[_PREFIX.size : _PREFIX.size + length])
    except (struct.error, ValueError, RecursionError) as error:
        raise DamagedEntry("The value has no readable header.") from error
    if not isinstance(header, dict) or "key" not in header:
        raise DamagedEntry("The value has no readable header.")
    return header, _PREFIX.size + length + (-(_PREFIX.size + length) % _ALIGN)


def _stored(tensor: NDArray[Any], precision: Precision) -> NDArray[Any]:
    if precision == "fp16" and tensor.dtype.name in ("float32", "float64"):
        # Two plain passes; only a tensor that holds an infinity or no number at all needs the slow look.
        largest = max(tensor.max(), -tensor.min()) if tensor.size else 0.0
        if not np.isfinite(largest):
            largest = np.max(np.abs(tensor), initial=0.0, where=np.isfinite(tensor))
        if largest <= _FP16_MAX:
            tensor = tensor.astype(np.float16)
    if tensor.dtype.name not in _DTYPES:
        raise TypeError(f"a frame holds no tensors of type {tensor.dtype}")
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)


def _checksum(*body: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    return digest.digest()[:16]
