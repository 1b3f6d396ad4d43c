"""Bytes of the API to numpy arrays: COCO run lengths, PNG masks, safetensors."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

_TYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64,
    "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64,
    "F16": np.float16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip
"""The types of safetensors that numpy has."""
_LONGEST = 7
"""Characters of the longest run in COCO's code that a mask of 2³¹ pixels can need."""


def decode_rle(size: Sequence[int], counts: str | bytes) -> NDArray[np.bool_]:
    """Decode COCO compressed run lengths.

    Args:
        size: height and width in pixels.
        counts: the runs down the columns, background first, in COCO's ASCII code.

    Returns:
        ``bool [height, width]``.

    Raises:
        ValueError: the runs are malformed, or do not add up to the size.
    """
    height, width = (int(side) for side in size)
    runs = _runs(counts.encode("ascii") if isinstance(counts, str) else counts)
    if height < 1 or width < 1 or (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(f"The run lengths do not add up to a mask of {height} × {width} pixels.")
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height)
    return np.ascontiguousarray(columns.T)


def _runs(counts: bytes) -> NDArray[np.int64]:
    """Run lengths from COCO's code.

    A character holds 5 bits (low ones first) and, with 32, whether another one follows; 16 in the last one is the sign.
    From the fourth run on it is the difference to the run two before.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    lengths = np.diff(ends, prepend=-1)
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63 or lengths.max() > _LONGEST:
        raise ValueError("The run lengths are not in COCO's compressed form.")
    starts = ends - lengths + 1
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return np.asarray(runs, np.int64)


def decode_png(file: bytes) -> NDArray[np.bool_]:
    """Decode a mask from a PNG: what is lighter than mid-grey belongs to the object.

    Returns:
        ``bool [height, width]``.

    Raises:
        ValueError: the bytes are no PNG.
    """
    try:
        with Pillow.open(io.BytesIO(file), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("L")) > 127
    except (OSError, SyntaxError) as error:
        raise ValueError(f"The mask is not a whole PNG: {error}") from error


def decode_safetensors(file: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Decode a safetensors file: its tensors by name, which can be written to, and its metadata.

    Raises:
        ValueError: the bytes are no safetensors, or of a type that numpy has not.
    """
    try:
        start = 8 + int.from_bytes(file[:8], "little")
        header = json.loads(file[8:start])
        metadata = header.pop("__metadata__", {})
        data = bytearray(file[start:])
        tensors = {}
        for name, about in header.items():
            begin, end = about["data_offsets"]
            kind = np.dtype(_TYPES[about["dtype"]]).newbyteorder("<")
            tensors[name] = np.frombuffer(memoryview(data)[begin:end], kind).reshape(about["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"This is not a safetensors file that numpy can hold: {error!r}") from error
    return tensors, metadata
