"""Label Studio's run lengths of a mask («brush RLE»): a bit stream of runs over the pixels' RGBA bytes, row by row."""

import numpy as np
from numpy.typing import NDArray

_CHANNELS = 4
_LENGTH_BITS = np.array([3, 4, 8, 16], np.int64)
"""In how many bits a run's length less one can be written; a run names which of the four it uses."""
_LONGEST = 1 << 16
_WORD_BITS = 8
_HEADER_BITS = 32 + 5 + 4 * len(_LENGTH_BITS)


def to_brush_rle(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask as Label Studio's brush RLE. Lossless.

    Args:
        mask: ``bool [height, width]``.

    Returns:
        The bytes, which stand in Label Studio's JSON as a list of numbers.
    """
    line = np.ascontiguousarray(mask).reshape(-1)
    edges = np.flatnonzero(line[1:] != line[:-1]) + 1
    starts = np.concatenate(([0], edges))
    lengths = np.diff(starts, append=line.size) * _CHANNELS
    values = line[starts].astype(np.int64) * 255
    # Runs that are too long are written as several.
    pieces = -(-lengths // _LONGEST)
    is_last = np.zeros(int(pieces.sum()), np.bool_)
    is_last[np.cumsum(pieces) - 1] = True
    rest = lengths - (pieces - 1) * _LONGEST
    lengths = np.where(is_last, np.repeat(rest, pieces), _LONGEST)
    values = np.repeat(values, pieces)
    which = np.searchsorted(1 << _LENGTH_BITS, lengths)
    bits = _LENGTH_BITS[which]
    # 1 (a value that repeats), which number of bits, the length less one, the value
    codes = (((4 | which) << bits | (lengths - 1)) << _WORD_BITS) | values
    widths = 3 + bits + _WORD_BITS
    header = line.size * _CHANNELS
    for value, width in ((_WORD_BITS - 1, 5), *((int(each) - 1, 4) for each in _LENGTH_BITS)):
        header = header << width | value
    return np.packbits(np.concatenate((_bits([header], [_HEADER_BITS]), _bits(codes, widths)))).tobytes()


def _bits(codes: "NDArray[np.int64] | list[int]", widths: "NDArray[np.int64] | list[int]") -> NDArray[np.uint8]:
    """Each code's lowest bits, as many as its width says, highest first, one after the other."""
    codes, widths = np.asarray(codes, np.int64), np.asarray(widths, np.int64)
    ends = np.cumsum(widths)
    shift = np.repeat(ends, widths) - 1 - np.arange(int(ends[-1]))
    return (np.repeat(codes, widths) >> shift & 1).astype(np.uint8)
