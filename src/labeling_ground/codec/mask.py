"""Masks to what travels, and back: COCO run lengths, 1-bit PNG, polygons.

A mask is ``bool`` or ``uint8`` of shape ``[height, width]``; whatever is not zero belongs to the
object.
"""

import functools
import struct
import zlib
from collections.abc import Sequence
from typing import TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BadPrompt, TooLarge

MAX_PIXELS = 100_000_000
"""Pixels of a mask that is read, unless the caller says otherwise."""

AnyMask = NDArray[np.bool_] | NDArray[np.uint8]
Ring = list[tuple[float, float]]


class RLE(TypedDict):
    """COCO's compressed run lengths, as they stand in JSON."""

    size: list[int]
    """Height and width, in pixels."""
    counts: str
    """Run lengths down the columns, background first, in COCO's own ASCII code."""


def _zeros_and_ones(mask: AnyMask) -> NDArray[np.uint8]:
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"a mask has two dimensions and at least one pixel, not shape {mask.shape}")
    found = mask if mask.dtype == np.bool_ else mask != 0
    return np.ascontiguousarray(found).view(np.uint8)


Box = tuple[int, int, int, int]
"""x, y, width and height in pixels."""


def area(mask: AnyMask, within: Box | None = None) -> int:
    """Pixels that belong to the object; only those in a box are looked at, where one is given."""
    left, top, across, down = (0, 0, mask.shape[1], mask.shape[0]) if within is None else within
    return int(cv2.countNonZero(_zeros_and_ones(mask)[top : top + down, left : left + across])) if across else 0


def bbox(mask: AnyMask, within: Box | None = None) -> Box:
    """The smallest box around the object: x, y, width, height in pixels; all 0 if there is none.

    Args:
        mask: the object.
        within: a box that it does not reach out of, where one is known already.
    """
    x, y, across, down = (0, 0, mask.shape[1], mask.shape[0]) if within is None else within
    # numpy finds a bool's rows and columns faster than OpenCV its box
    bits = _zeros_and_ones(mask).view(np.bool_)[y : y + down, x : x + across]
    rows = np.flatnonzero(bits.any(axis=1))
    if rows.size == 0:
        return 0, 0, 0, 0
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(bits[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return x + left, y + top, right - left, bottom - top


# -- run lengths ----------------------------------------------------------------------------------


def to_rle(mask: AnyMask, box: Box | None = None) -> RLE:
    """Encode as COCO compressed run lengths. Lossless.

    Only the object's box is looked at: on a large image the rest is where the time would go.

    Args:
        mask: the object.
        box: what ``bbox`` says of it, where that is known already.
    """
    bits = _zeros_and_ones(mask)
    height, width = bits.shape
    left, top, across, down = bbox(mask) if box is None else box
    if across == 0:
        return RLE(size=[height, width], counts=_ascii(np.array([height * width])))
    # The runs go down the columns. OpenCV transposes in blocks: 8 × faster than numpy's copy. A column of background
    # behind each ends the runs there, so that a run's start and end turn up in turn.
    lines = np.zeros((across, down + 1), np.uint8)
    lines[:, :down] = cv2.transpose(bits[top : top + down, left : left + across]).reshape(across, down)
    line = lines.ravel()
    edges = np.flatnonzero(line[1:] != line[:-1]) + 1
    if line[0]:
        edges = np.concatenate(([0], edges))
    column, row = np.divmod(edges, down + 1)
    edges = (left + column) * height + top + row
    if down == height:  # a run that reaches the bottom may go on at the top of the next column
        apart = edges[1:-1:2] != edges[2::2]
        keep = np.concatenate(([True], np.repeat(apart, 2), [True]))
        edges = edges[keep]
    runs = np.diff(edges, prepend=0, append=height * width)
    return RLE(size=[height, width], counts=_ascii(runs if runs[-1] else runs[:-1]))


def _ascii(runs: NDArray[np.int64]) -> str:
    """Run lengths in COCO's ASCII code, which ``_runs`` describes."""
    rest = runs.astype(np.int64)
    rest[3:] -= runs[1:-2]
    characters = np.zeros((len(rest), _LONGEST), np.uint8)
    used = np.zeros((len(rest), _LONGEST), np.bool_)
    more = np.ones(len(rest), np.bool_)
    for place in range(_LONGEST):
        used[:, place] = more
        group = rest & 31
        rest >>= 5
        more = more & np.where(group & 16, rest != -1, rest != 0)
        characters[:, place] = 48 + group + 32 * more
        if not more.any():
            break
    return characters[used].tobytes().decode("ascii")


def from_rle(
    size: Sequence[int], counts: str | bytes, *, within: Box | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.bool_]:
    """Decode COCO compressed run lengths.

    The runs are checked first, and memory is taken only when they add up to the size.

    Args:
        size: height and width in pixels.
        counts: the runs in COCO's ASCII code.
        within: a box on the image, with an area, that is wanted in place of the whole.
        max_pixels: the most pixels (height × width) that are accepted.

    Returns:
        ``bool [height, width]``, of the image or of the box.

    Raises:
        BadPrompt: no such size, or runs that are malformed or do not add up to it.
        TooLarge: more than ``max_pixels``.
    """
    if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise BadPrompt("The RLE's size must be [height, width], two positive whole numbers.")
    height, width = size
    if height * width > max_pixels:
        raise TooLarge(f"The RLE is for {width} × {height} pixels; at most {max_pixels:,} are accepted.")
    runs = _runs(counts)
    if (runs < 0).any() or (runs > height * width).any() or int(runs.sum()) != height * width:
        raise BadPrompt(f"The RLE's runs do not add up to its size, {height} × {width} pixels.")
    left, top, across, down = (0, 0, width, height) if within is None else within
    ends = np.clip(np.cumsum(runs), left * height, (left + across) * height)
    values = np.arange(len(runs)) % 2 == 1
    columns = np.repeat(values, np.diff(ends, prepend=left * height)).reshape(across, height)[:, top : top + down]
    return np.asarray(cv2.transpose(columns.view(np.uint8)), np.uint8).reshape(down, across).view(np.bool_)


_LONGEST = 7
"""Characters of one number: 5 bits each, enough for 32 bits."""


def _runs(counts: str | bytes) -> NDArray[np.int64]:
    """The run lengths that COCO's ASCII code holds, not yet checked against a size.

    A number is cut into groups of 5 bits, lowest first, one character (from ``0`` on) each; bit 5
    says that more follow, and bit 4 of the last one is the sign. From the fourth number on, each is
    the difference from the last but one.
    """
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    except UnicodeEncodeError as error:
        raise BadPrompt("The RLE's counts hold characters outside ASCII.") from error
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise BadPrompt("The RLE's counts are not in COCO's compressed form, or are cut off.")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if int(lengths.max()) > _LONGEST:
        raise BadPrompt("The RLE's counts hold a number that is too long.")
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= ((codes[ends] >> 4) & 1) << (5 * lengths)
    np.cumsum(runs[1::2], out=runs[1::2])
    np.cumsum(runs[2::2], out=runs[2::2])
    return np.asarray(runs, np.int64)


# -- PNG ------------------------------------------------------------------------------------------


def to_png(mask: AnyMask, box: Box | None = None) -> bytes:
    """Encode as a PNG of one bit per pixel, white on the object. Lossless.

    Written by hand: rows are packed to bits and deflated at the fastest level, which takes
    less than half the time of OpenCV's or Pillow's 1-bit writer. What lies above and below the
    object is written without being looked at.

    Args:
        mask: the object.
        box: what ``bbox`` says of it, where that is known already.
    """
    bits = _zeros_and_ones(mask)
    height, width = bits.shape
    _, top, across, down = bbox(mask) if box is None else box
    top, down = (top, down) if across else (0, 0)
    row = 1 + (width + 7) // 8
    rows = np.zeros((down, row), np.uint8)  # column 0: no filter
    rows[:, 1:] = np.packbits(bits[top : top + down], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = _deflate_padded(top * row, rows.tobytes(), (height - top - down) * row)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height of a gray PNG, as its header tells them.

    Raises:
        BadPrompt: it is no PNG, or not a gray one.
    """
    if len(png) < 33 or not png.startswith(b"\x89PNG\r\n\x1a\n") or png[12:16] != b"IHDR":
        raise BadPrompt("The mask is not a PNG file.")
    width, height, _, colour = struct.unpack(">IIBB", png[16:26])
    if colour != 0:
        raise BadPrompt("The mask's PNG is not gray: save it with one channel, 0 off the object, without transparency.")
    return int(width), int(height)


def from_png(png: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Decode a gray PNG, of any depth: what is not 0 belongs to the object.

    Raises:
        BadPrompt: it is not a gray PNG, or it is damaged.
        TooLarge: more than ``max_pixels``.
    """
    width, height = png_size(png)
    if width * height > max_pixels:
        raise TooLarge(f"The mask has {width} × {height} pixels; at most {max_pixels:,} are accepted.")
    try:
        values = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None or values.shape != (height, width):
        raise BadPrompt("The mask's PNG is damaged, or cut off.")
    return np.asarray(values != 0, np.bool_)


_ZEROS = 1 << 16
_ADLER = 65521
"""Largest prime below 2**16, by which Adler-32 counts (RFC 1950)."""


def _deflate_padded(before: int, data: bytes, after: int) -> bytes:
    """What ``zlib.compress`` would say of zeros, data and zeros; the zeros cost next to nothing.

    A zlib stream is a header, blocks, and a checksum (RFC 1950). Blocks that end in a full flush depend on nothing, so
    the same few bytes stand for every run of 65,536 zeros.
    """
    squeeze = zlib.compressobj(1, zlib.DEFLATED, -15)
    middle = squeeze.compress(bytes(before % _ZEROS) + data + bytes(after % _ZEROS)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    blocks = _run_of_zeros() * (before // _ZEROS) + middle + _run_of_zeros() * (after // _ZEROS)
    return b"\x78\x01" + blocks + squeeze.flush() + struct.pack(">I", _adler(before, data, after))


@functools.cache
def _run_of_zeros() -> bytes:
    squeeze = zlib.compressobj(1, zlib.DEFLATED, -15)
    return squeeze.compress(bytes(_ZEROS)) + squeeze.flush(zlib.Z_FULL_FLUSH)


def _adler(before: int, data: bytes, after: int) -> int:
    """The checksum of zeros, data and zeros: a zero adds the lower sum to the upper one, and nothing to the lower."""
    told = zlib.adler32(data, (before % _ADLER) << 16 | 1)
    low, high = told & 0xFFFF, told >> 16
    return (high + after * low) % _ADLER << 16 | low


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# -- polygons -------------------------------------------------------------------------------------


def to_polygons(mask: AnyMask, *, epsilon: float = 1.0) -> list[Ring]:
    """Outline the object as rings of ``(x, y)`` points in pixels.

    *Where a point lies.* Pixel (column, row) covers the square from (column, row) to (column + 1,
    row + 1); rings run along these squares' edges, and (0, 0) is the image's corner. To turn rings
    into a mask again: a pixel belongs to the object if its centre (column + 0.5, row + 0.5) is
    inside, by the even-odd or the non-zero rule alike. With ``epsilon=0`` this gives the very mask.

    *Which rings.* Outer edges go clockwise as seen on screen, edges of holes counter-clockwise, so
    the sum of their signed areas is the object's area. Pixels that touch at a corner are connected.
    Rings come in the order of their top left points; a ring is not closed by a repeated point.

    *Small parts.* Every ring has at least three points and an area. One that simplifying would
    flatten, change in area by more than 2 %, or change in pixels by more than 1.8 % of its area, is
    simplified less, and if need be not at all: a single pixel is its square.

    Args:
        mask: the object.
        epsilon: how far, in pixels, a simplified ring may lie from the exact one; 0 is exact.
    """
    left, top, width, height = bbox(mask)
    if width == 0:
        return []
    crop = _zeros_and_ones(mask)[top : top + height, left : left + width]
    corner = np.array([left, top])
    rings = (_simplified(ring, epsilon) + corner for ring in _exact_rings(crop))
    return [[(float(x), float(y)) for x, y in ring.tolist()] for ring in rings]


def to_centre_rings(mask: AnyMask, *, epsilon_share: float = 0.0) -> list[list[tuple[int, int]]]:
    """Outline the object's parts as rings of ``(x, y)`` pixels, through the centres of the pixels at its edge.

    That is how OpenCV draws and fills polygons, and so do tools that were made with it: ``cv2.fillPoly`` of the exact
    rings gives the mask again, its holes filled. Parts of one or two pixels repeat a point, so that each ring has three
    at least. A ring is not closed by a repeated point.

    Args:
        mask: the object.
        epsilon_share: how far a simplified ring (Douglas–Peucker) may lie from the exact one, as a share of its length.
    """
    left, top, width, height = bbox(mask)
    if width == 0:
        return []
    crop = _zeros_and_ones(mask)[top : top + height, left : left + width]
    contours, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    rings = []
    for contour in contours:
        simplified = cv2.approxPolyDP(contour, epsilon_share * cv2.arcLength(contour, closed=True), closed=True)
        ring = [(int(x), int(y)) for x, y in (simplified if len(simplified) > 2 else contour).reshape(-1, 2)]
        rings.append((ring * 3)[: max(3, len(ring))])
    return rings


def to_polygons_with_holes(mask: AnyMask) -> list[list[Ring]]:
    """Outline the object as polygons, each its outer ring and then its holes' rings, exactly.

    Rings run along pixel edges, as those of ``to_polygons`` with ``epsilon=0``, and even-odd filling gives the very
    mask. Pixels that touch at a corner only are of different polygons: so no ring meets itself, and every polygon is
    valid by the rules of geometry libraries (OGC simple features), with an inside that is in one piece.
    """
    left, top, width, height = bbox(mask)
    if width == 0:
        return []
    crop = _zeros_and_ones(mask)[top : top + height, left : left + width]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(crop, connectivity=4, ltype=cv2.CV_32S)
    polygons = []
    for label in range(1, count):
        x, y, across, down = (int(number) for number in stats[label, :4])
        part = (labels[y : y + down, x : x + across] == label).view(np.uint8)
        # A part's outer ring comes first: it has the top left point.
        rings = [ring + np.array([left + x, top + y]) for ring in _exact_rings(part)]
        polygons.append([[(float(px), float(py)) for px, py in ring.tolist()] for ring in rings])
    return polygons


def _exact_rings(bits: NDArray[np.uint8]) -> list[NDArray[np.int32]]:
    """Rings along pixel edges, each ``int32 [points, 2]``, the object to the right of the way."""
    padded = cv2.copyMakeBorder(bits, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0).view(np.int8)
    stride = max(padded.shape) + 1
    # Between two rows the way goes right where the object is below, and left where it is above.
    # Between two columns it goes up where the object is on the right, and down where it is on the
    # left: against the forward of ``_edges``, so start and end change places.
    rows, row_from, row_to, rightward = _edges(padded)
    columns, column_to, column_from, upward = _edges(
        np.ascontiguousarray(cv2.transpose(padded.view(np.uint8))).view(np.int8)
    )
    # Where four edges meet (pixels that touch at a corner), the way turns left: that joins them.
    row_tails, row_heads = rows * stride + row_from, rows * stride + row_to
    column_tails, column_heads = column_from * stride + columns, column_to * stride + columns
    next_column = _follow(row_heads, rightward, column_tails, upward)
    next_row = _follow(column_heads, ~upward, row_tails, rightward)
    onward = next_row[next_column].tolist()

    rings: list[NDArray[np.int32]] = []
    seen = bytearray(len(onward))
    for first in range(len(onward)):
        if seen[first]:
            continue
        ring: list[int] = []
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            ring.append(edge)
            edge = onward[edge]
        points = np.empty((len(ring), 2, 2), np.int32)
        points[:, 0, 0], points[:, 1, 0] = row_from[ring], row_to[ring]
        points[:, :, 1] = rows[ring, None]
        rings.append(points.reshape(-1, 2))
    return rings


_Line = NDArray[np.int64]


def _edges(padded: NDArray[np.int8]) -> tuple[_Line, _Line, _Line, NDArray[np.bool_]]:
    """Straight edges between neighbouring rows: row, start, end, and whether they go forward.

    Forward, towards larger coordinates, is the way where the later row is the object's.
    """
    step = padded[1:] - padded[:-1]
    turn = step[:, 1:] != step[:, :-1]
    row, at = np.nonzero(turn)  # in the order of rows, so ends follow their starts
    before, after = step[row, at], step[row, at + 1]
    starts, ends = after != 0, before != 0
    forward = after[starts] > 0
    low, high = at[starts], at[ends]
    return row[starts], np.where(forward, low, high), np.where(forward, high, low), forward


def _follow(heads: _Line, wanted: NDArray[np.bool_], tails: _Line, kinds: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each head the index of the tail at its place; of two, the one of the wanted kind."""
    keys = tails * 2 + kinds
    order = np.argsort(keys)
    found = np.searchsorted(keys[order], heads * 2 + wanted)
    found = np.minimum(found, len(order) - 1)
    there = tails[order[found]] == heads
    return np.asarray(order[found - ~there], np.int64)


def _simplified(ring: NDArray[np.int32], epsilon: float) -> NDArray[np.int32]:
    exact = cv2.contourArea(ring)
    while epsilon >= 0.4:  # below that nothing of a staircase of pixels would go
        simple = np.asarray(cv2.approxPolyDP(ring, epsilon, True), np.int32).reshape(-1, 2)
        flat = len(simple) < 3 or abs(cv2.contourArea(simple) - exact) > 0.02 * exact
        if not flat and _differ(ring, simple) <= 0.018 * exact:
            return simple
        epsilon *= 0.8
    return ring


def _differ(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """How many pixels have their centre in one ring and not in the other.

    Nothing is drawn: each ring crosses each row of pixels an even number of times, so all crossings
    of both, sorted, bound in pairs the runs where they differ.
    """
    stride = int(max(one.max(), other.max())) + 2
    crossings = np.sort(np.concatenate([_crossings(one, stride), _crossings(other, stride)]))
    return int((crossings[1::2] - crossings[::2]).sum())


def _crossings(ring: NDArray[np.int32], stride: int) -> NDArray[np.int64]:
    """Where a ring crosses the centres of rows: row × stride + first column beyond the crossing."""
    start = ring.astype(np.int64)
    end = np.roll(start, -1, axis=0)
    downward = (start[:, 1] < end[:, 1])[:, None]
    top, bottom = np.where(downward, start, end), np.where(downward, end, start)
    rows = bottom[:, 1] - top[:, 1]
    slope = (bottom[:, 0] - top[:, 0]) / np.maximum(rows, 1)
    down = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
    x = np.repeat(top[:, 0], rows) + (down + 0.5) * np.repeat(slope, rows)
    row = np.repeat(top[:, 1], rows) + down
    return np.asarray(row * stride + np.ceil(x - 0.5).astype(np.int64), np.int64)
