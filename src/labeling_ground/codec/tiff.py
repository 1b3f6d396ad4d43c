"""TIFF: which directory is the picture, how its samples are stored, and files that the decoder reads for certain.

TIFF is a box of bricks: photometric × planar × depth × compression × strips or tiles × byte order. Decoders have tables
of the combinations that they know, and holes in them. So the samples are decoded as what they always are, rows of
numbers: every plane, or every row of interleaved samples, is presented as a grey picture in a fresh directory, and
``codec.samples`` says what the numbers mean. Only JPEG in TIFF and subsampled YCbCr are left to the decoder.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec.container import Container, TiffLayout
from labeling_ground.codec.exif import HEADERS, Directory, Field, first_offset, read_directory
from labeling_ground.errors import DamagedImage, UnsupportedImage

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_FILL_ORDER, _OFFSETS, _SAMPLES, _ROWS, _SIZES, _PLANAR = 266, 273, 277, 278, 279, 284
_PREDICTOR, _PALETTE, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 317, 320, 322, 323, 324, 325
_EXTRA, _FORMAT, _SUBSAMPLING = 338, 339, 530

_SINGLES = (_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _ROWS, _PLANAR, 292, 293,
            _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, 531)  # fmt: skip
"""Tags with one integer that say how the picture is stored."""
_ARRAYS = {
    _BITS: 16,
    _EXTRA: 16,
    _FORMAT: 16,
    _SUBSAMPLING: 2,
    _PALETTE: 3 << 16,
    _OFFSETS: 1 << 20,
    _SIZES: 1 << 20,
    _TILE_OFFSETS: 1 << 20,
    _TILE_SIZES: 1 << 20,
}
"""Tags with many integers, and how many of them are looked at: a file may claim any number."""
_VERBATIM = (347, 529, 532)
"""JPEG tables; coefficients of YCbCr, and its black and white (rationals)."""
_VERBATIM_BYTES = 1 << 16
_WANTED = frozenset({*_SINGLES, *_ARRAYS, *_VERBATIM})

_JPEG = 7
_BYTES = frozenset({1, 5, 8, 32773, 32946})
"""Compressions of bytes, whatever these mean: none, LZW, deflate, PackBits, deflate by its old number."""
_FAX = frozenset({2, 3, 4})

_YCBCR = 6
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, _YCBCR: 3, 8: 3}
"""How many samples each photometric has that is read; what is more is alpha, or something of no use here."""
_MEANINGS = {
    4: "a transparency mask",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "raw data of a camera (CFA)",
    32844: "LogL",
    32845: "LogLuv",
    34892: "raw data of a camera",
}
_MAX_SAMPLES = 64
_MAX_DIRECTORIES = 16
_AS_PNG = "Save it as 8-bit RGB, or as PNG."


def walk(data: bytes) -> Container:
    """Walk a TIFF file.

    Raises:
        UnsupportedImage: a layout that is not read; the sentence says what to do.
        DamagedImage: the file ends too early or contradicts itself.
    """
    found, pages = _picture(data)
    singles = {tag: values[0] for tag in _SINGLES if (values := found.integers(tag))}
    arrays = {tag: values for tag, most in _ARRAYS.items() if (values := found.integers(tag, most))}
    width, height = singles.get(_WIDTH, 0), singles.get(_HEIGHT, 0)
    samples, bits = _samples(singles, arrays)
    photometric = singles.get(_PHOTOMETRIC, 2 if samples == 3 else 1)
    _check_kind(singles, photometric, samples, bits)
    is_planar = singles.get(_PLANAR, 1) == 2 and samples > 1
    block = _check_blocks(data, singles, arrays, samples if is_planar else 1)
    layout: TiffLayout | None = None
    parts: tuple[bytes | memoryview, ...] = ()
    notes: list[str] = []
    compression = singles.get(_COMPRESSION, 1)
    if (compression == _JPEG and samples > 1 and not is_planar) or photometric == _YCBCR:
        singles.pop(_SUBFILE, None)
        parts = _rewritten(data, found, singles, arrays)
    else:
        layout = _layout(data, found, singles, arrays, photometric, samples, bits)
        block *= layout.samples
        used = _COLOURS[photometric] + (layout.alpha is not None)
        if samples > used:
            first = f"the first {used} are" if used > 1 else "the first is"
            notes.append(f"The file has {samples} channels, of which {first} used: save others as RGB.")
    if pages > 1:
        notes.append("The file has several pages, of which the first is used: save others as files of their own.")
    return Container(
        "TIFF",
        width,
        height,
        found.orientation,
        parts,
        bits=16 if bits > 8 else 8,
        block=block,
        tiff=layout,
        note=" ".join(notes),
        use_preview=True,
    )


def _picture(data: bytes) -> tuple[Directory, int]:
    """The first directory that is no thumbnail and no mask, and how many such there are (not all are counted)."""
    waiting, seen = [first_offset(data)], set[int]()
    first: Directory | None = None
    pictures: list[Directory] = []
    while waiting and len(seen) < _MAX_DIRECTORIES:
        offset = waiting.pop(0)
        if offset in seen:
            continue
        seen.add(offset)
        try:
            one = read_directory(data, offset, _WANTED)
        except (DamagedImage, struct.error):
            if first is None:
                raise
            continue  # what lies behind the first directory need not be whole
        is_picture = not (one.integers(_SUBFILE) or (0,))[0] & 0b101
        if is_picture:
            pictures.append(one)
        if first is None:
            first = one
        if first is one and not is_picture:
            waiting.extend(one.below)  # cameras put the picture below its thumbnail
        if one.following:
            waiting.append(one.following)
    if first is None:
        raise DamagedImage("The TIFF file holds no picture.")
    return (pictures or [first])[0], len(pictures)


def _samples(singles: dict[int, int], arrays: dict[int, tuple[int, ...]]) -> tuple[int, int]:
    """How many samples a pixel has, and how many bits each."""
    samples = singles.get(_SAMPLES, 1)
    if not 1 <= samples <= _MAX_SAMPLES:
        raise UnsupportedImage(f"TIFF with {samples} samples per pixel is not read. {_AS_PNG}")
    bits = arrays.get(_BITS, (1,))[:samples]
    if max(arrays.get(_FORMAT, (1,))[:samples]) not in (1, 4) or max(bits) > 16:
        # No rule says which number is black and which is white, and a guess from the content would make the same
        # object look different from one image to the next.
        raise UnsupportedImage(
            "TIFF with signed, floating-point or more than 16 bits per sample is not read. "
            "Scale it to 8 or 16 bits per sample."
        )
    if len(set(bits)) > 1:
        raise UnsupportedImage(f"TIFF with samples of different sizes ({bits} bits) is not read. {_AS_PNG}")
    return samples, bits[0]


def _check_kind(singles: dict[int, int], photometric: int, samples: int, bits: int) -> None:
    """Refuse combinations that cannot be decoded for certain.

    Raises:
        UnsupportedImage: it is one of them.
    """
    if photometric not in _COLOURS:
        meaning = _MEANINGS.get(photometric, f"samples of an unknown meaning ({photometric})")
        raise UnsupportedImage(f"TIFF with {meaning} is not read. {_AS_PNG}")
    if samples < _COLOURS[photometric]:
        wanted = _COLOURS[photometric]
        raise UnsupportedImage(f"TIFF with {samples} samples for {wanted} colours is not read. {_AS_PNG}")
    compression, predictor = singles.get(_COMPRESSION, 1), singles.get(_PREDICTOR, 1)
    if compression not in _BYTES | _FAX | {_JPEG}:
        raise UnsupportedImage(
            f"TIFF with compression {compression} is not read. Save it with LZW or deflate, or as PNG."
        )
    is_planar = singles.get(_PLANAR, 1) == 2 and samples > 1
    is_fine = bits in (1, 2, 4, 8, 16) or (bits == 12 and compression == 1)
    if compression == _JPEG:
        is_fine = bits == 8 and (samples in (1, 3, 4) or is_planar)
    elif compression in _FAX:
        is_fine = bits == 1 and samples == 1
    if photometric == _YCBCR:
        is_fine = is_fine and bits == 8 and samples == 3 and not is_planar
    elif photometric in (5, 8):
        is_fine = is_fine and (bits != 12 if photometric == 5 else bits == 8)
    if compression in _FAX | {_JPEG, 1, 32773}:
        predictor = 1  # it means nothing there
    if not is_fine or predictor not in (1, 2) or (predictor == 2 and bits not in (8, 16)):
        raise UnsupportedImage(
            f"TIFF with this combination ({samples} samples of {bits} bits, photometric {photometric}, compression "
            f"{compression}, predictor {predictor}{', planes' if is_planar else ''}) is not read. {_AS_PNG}"
        )


def _check_blocks(data: bytes, singles: dict[int, int], arrays: dict[int, tuple[int, ...]], planes: int) -> int:
    """See that all strips or tiles lie in the file, and cut the arrays to them. The pixels of one of them."""
    width, height = singles.get(_WIDTH, 0), singles.get(_HEIGHT, 0)
    if not width or not height:
        raise DamagedImage(f"The TIFF file says that the image is {width} × {height} pixels.")
    if _TILE_WIDTH in singles:
        columns, rows = singles[_TILE_WIDTH], singles.get(_TILE_HEIGHT, 0)
        if not columns or not rows:
            raise DamagedImage("The TIFF file is damaged: its tiles have no size.")
        blocks, where, lengths = -(-width // columns) * -(-height // rows), _TILE_OFFSETS, _TILE_SIZES
    else:
        # «All rows in one strip» is often written as the largest number there is.
        columns, rows = width, max(1, min(singles.get(_ROWS, height), height))
        singles[_ROWS] = rows
        blocks, where, lengths = -(-height // rows), _OFFSETS, _SIZES
    blocks *= planes
    offsets, sizes = arrays.get(where, ())[:blocks], arrays.get(lengths, ())[:blocks]
    if len(offsets) < blocks or len(sizes) not in (0, blocks):
        raise DamagedImage("The TIFF file is damaged: parts of its picture are missing.")
    if any(start + size > len(data) for start, size in zip(offsets, sizes or [0] * blocks, strict=True)):
        raise DamagedImage("The TIFF file is truncated: parts of its picture lie beyond its end.")
    stored = min(sum(sizes), len(data)) if sizes else len(data)
    # As in a JPEG of its own, what is missing would be filled with grey; 8 × 8 pixels take two bits at least.
    if singles.get(_COMPRESSION) == _JPEG and stored * 256 < width * height:
        raise DamagedImage(
            f"The TIFF file is truncated or damaged: a picture of {width} × {height} pixels takes more data than it "
            "has."
        )
    arrays[where] = offsets
    if sizes:
        arrays[lengths] = sizes
    is_tiled = where == _TILE_OFFSETS
    for tag in (_OFFSETS, _SIZES) if is_tiled else (_TILE_OFFSETS, _TILE_SIZES):
        arrays.pop(tag, None)
    for tag in (_ROWS,) if is_tiled else (_TILE_WIDTH, _TILE_HEIGHT):
        singles.pop(tag, None)
    return columns * rows


def _layout(
    data: bytes,
    found: Directory,
    singles: dict[int, int],
    arrays: dict[int, tuple[int, ...]],
    photometric: int,
    samples: int,
    bits: int,
) -> TiffLayout:
    is_planar = singles.get(_PLANAR, 1) == 2 and samples > 1
    colours = _COLOURS[photometric]
    extra = arrays.get(_EXTRA, (2,) if (photometric, samples) == (2, 4) else ())[: samples - colours]
    alphas = [index for index, meaning in enumerate(extra) if meaning in (1, 2)]
    alpha = colours + alphas[0] if alphas else None
    side_by_side = 1 if is_planar else samples
    grey = {
        tag: value
        for tag, value in singles.items()
        if tag in (_HEIGHT, _COMPRESSION, _FILL_ORDER, _ROWS, _TILE_HEIGHT, 292, 293)
    }
    grey |= {_PHOTOMETRIC: 1, _SAMPLES: 1, _WIDTH: singles[_WIDTH] * side_by_side}
    if _TILE_WIDTH in singles:
        grey[_TILE_WIDTH] = singles[_TILE_WIDTH] * side_by_side
    differenced = 0
    if singles.get(_PREDICTOR, 1) == 2 and singles.get(_COMPRESSION) in (5, 8, 32946):
        if side_by_side == 1:
            grey[_PREDICTOR] = 2
        else:
            differenced = singles.get(_TILE_WIDTH, singles[_WIDTH])
    where, lengths = (_TILE_OFFSETS, _TILE_SIZES) if _TILE_OFFSETS in arrays else (_OFFSETS, _SIZES)
    blocks = len(arrays[where]) // samples if is_planar else len(arrays[where])
    wanted = [*range(colours), *([] if alpha is None else [alpha])] if is_planar else [0]
    planes = []
    for plane in wanted:
        mine = {tag: arrays[tag][plane * blocks :][:blocks] for tag in (where, lengths) if tag in arrays}
        planes.append(_rewritten(data, found, grey, {_BITS: (bits,), **mine}, as_file=bits == 16))
    return TiffLayout(
        tuple(planes),
        side_by_side,
        bits,
        photometric,
        alpha if not is_planar or alpha is None else colours,
        alpha is not None and extra[alpha - colours] == 1,
        _palette(arrays, bits) if photometric == 3 else None,
        differenced,
    )


def _palette(arrays: dict[int, tuple[int, ...]], bits: int) -> NDArray[np.uint16]:
    values = arrays.get(_PALETTE, ())
    if len(values) != 3 << bits:
        raise DamagedImage("The TIFF file is damaged: its palette is not complete.")
    palette = np.array(values, np.int64).clip(0, 65535).astype(np.uint16).reshape(3, -1).T
    return palette * np.uint16(257) if palette.max() < 256 else palette  # some programs write 8 bits of the 16


_SHORTS = frozenset({_BITS, _PALETTE, _EXTRA, _FORMAT, _SUBSAMPLING})
"""Arrays that the decoder wants as 16-bit numbers; all others it takes as 32-bit."""


def _rewritten(
    data: bytes,
    found: Directory,
    singles: dict[int, int],
    arrays: dict[int, tuple[int, ...]],
    *,
    as_file: bool = True,
) -> tuple[bytes | memoryview, ...]:
    """The file with a fresh directory behind it, which holds only what decoding needs.

    All offsets into the file stay as they are. No further page, sub-directory or private tag can be reached. A BigTIFF
    becomes a classic TIFF.

    Args:
        data: the file.
        found: its own directory.
        singles: tags with one integer.
        arrays: tags with many.
        as_file: whether the byte order is the file's, or little-endian, which the decoder knows best: the order of
            samples of up to a byte is no matter of it.
    """
    order = HEADERS[data[:4]] if as_file else "<"
    fields = {
        tag: field
        for tag in (_VERBATIM if as_file else _VERBATIM[:1])
        if (field := found.fields.get(tag)) is not None and len(field.raw) <= _VERBATIM_BYTES
    }
    try:
        for tag, values in ({tag: (value,) for tag, value in singles.items()} | arrays).items():
            kind, code = (3, "H") if tag in _SHORTS else (4, "I")
            fields[tag] = Field(kind, len(values), struct.pack(f"{order}{len(values)}{code}", *values))
    except struct.error as error:
        raise DamagedImage("The TIFF file is damaged: a number in it is out of range.") from error
    start = len(data) + len(data) % 2
    behind = start + 2 + 12 * len(fields) + 4
    table = bytearray(struct.pack(f"{order}H", len(fields)))
    long_values = bytearray()
    for tag, field in sorted(fields.items(), key=lambda item: item[0]):
        table += struct.pack(f"{order}HHI", tag, field.type, field.count)
        if len(field.raw) <= 4:
            table += bytes(field.raw).ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}I", behind + len(long_values))
            long_values += bytes(field.raw) + b"\0" * (len(field.raw) % 2)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    padding = b"\0" * (start - len(data))
    return header, memoryview(data)[8:], padding, bytes(table), b"\0" * 4, bytes(long_values)
