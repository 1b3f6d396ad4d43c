"""What an image file says about itself, read without decoding a pixel.

A small walk through each container gives the size, the EXIF orientation, and the parts of the file
that hold the picture. The decoder is handed those parts only. So metadata of any kind (EXIF, XMP,
ICC, text, thumbnails, further pages and frames) cannot blow up in memory, cannot make the decoder
warn, and cannot change what is decoded.

Orientation is taken from EXIF (for TIFF from the tag itself); XMP is not consulted. What counts is what the standard
writes and browsers read: one SHORT, in the first EXIF block, which in PNG comes before the picture data.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from labeling_ground.errors import DamagedImage, UnsupportedImage

ACCEPTED = "JPEG, PNG, WebP, BMP and TIFF"
"""The formats that we read, as a sentence names them."""

_MAX_SEGMENTS = 100_000
"""Segments or chunks of one file. A 100 MB PNG has some 12,000; the walk must not become the
attack."""

_MAX_JPEG_SCANS = 100
"""A progressive JPEG has about 10. Each scan costs a pass over the whole picture, however few bytes
it takes."""


@dataclass(frozen=True, slots=True)
class Container:
    """One walked file.

    Attributes:
        format: ``JPEG``, ``PNG``, ``WebP``, ``BMP`` or ``TIFF``.
        width: columns as stored, before the orientation is applied.
        height: rows as stored, before the orientation is applied.
        orientation: EXIF orientation, 1–8; 1 where the file says nothing usable.
        parts: the bytes that hold the picture; joined, they are a file of the same format.
        bits: significant bits of one grey sample, where there are more than 8.
        inverted: 0 means white, and the decoder does not see to it.
        colour_key: the 8-bit grey or RGB value that is to be transparent (PNG).
        block: pixels of the largest block that the decoder holds beside the picture (TIFF tiles).
        use_preview: whether browsers may draw the file in another way, or not at all.
    """

    format: str
    width: int
    height: int
    orientation: int
    parts: tuple[bytes | memoryview, ...]
    bits: int = 8
    inverted: bool = False
    colour_key: tuple[int, ...] | None = None
    block: int = 0
    use_preview: bool = False


def walk(data: bytes) -> Container:
    """Walk an image file. What it is, is told by its content alone.

    Raises:
        UnsupportedImage: another format than the five, or a kind of one of them that we do not
            read.
        DamagedImage: the file ends too early or contradicts itself; also a size of zero.
    """
    walker = _walker(data)
    try:
        found = walker(data)
    except (struct.error, IndexError) as error:
        raise DamagedImage("The image file is truncated: its header ends too early.") from error
    if found.width < 1 or found.height < 1:
        raise DamagedImage(f"The {found.format} file says that the image is {found.width} × {found.height} pixels.")
    return found


def _walker(data: bytes) -> Callable[[bytes], Container]:
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp
    if data[:2] == b"BM" and data[14:18] in _BMP_HEADERS:
        return _bmp
    if data[:4] in _TIFF_HEADERS:
        return _tiff
    raise UnsupportedImage(f"{_describe(data)} Images are read from {ACCEPTED} files.")


_KNOWN_STRANGERS = (
    (0, b"GIF8", "a GIF"),
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (0, b"v/1\x01", "an OpenEXR"),
    (0, b"\x89MNG", "an MNG animation"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (128, b"DICM", "a DICOM"),
    (4, b"ftypavi", "an AVIF"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftyphev", "a HEIC"),
    (4, b"ftypmif1", "a HEIF"),
    (4, b"ftypmsf1", "a HEIF"),
    (4, b"ftyp", "a video or another ISO media"),
    (0, b"RIFF", "a RIFF file, but not a WebP"),
)


def _describe(data: bytes) -> str:
    if not data:
        return "The image is empty: no bytes were sent."
    for offset, magic, name in _KNOWN_STRANGERS:
        if data.startswith(magic, offset):
            return f"This is {name} file."
    opening = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in opening:
        return "This is an SVG drawing."
    if opening.startswith((b"<!doctype html", b"<html")):
        return "This is an HTML page."
    if opening.startswith(b"data:image/"):
        return "This is a data URL: decode its base64 part and send the bytes."
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:512]):
        return "This is text, not an image file."
    return "The bytes are in no image format known here."


# -- JPEG -----------------------------------------------------------------------------------------

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOF_READ = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""APP1 … APP15 and comments, but for APP0 (JFIF) and APP14 (Adobe), which say how colours are
stored."""


def _jpeg(data: bytes) -> Container:
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:2]]
    size: tuple[int, int] | None = None
    orientation: int | None = None
    pos = 2
    for _ in range(_MAX_SEGMENTS):
        pos = data.find(b"\xff", pos)  # as libjpeg does, pass over stray bytes between segments
        if pos < 0:
            break
        marker = data[pos + 1]
        if marker == 0xFF:  # a fill byte
            pos += 1
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            pos += 2
            continue
        if marker == 0xD9:
            raise DamagedImage("The JPEG file ends before its picture begins.")
        if marker == 0xDA:
            break
        (length,) = struct.unpack_from(">H", data, pos + 2)
        end = pos + 2 + length
        if length < 2 or end > len(data):
            raise DamagedImage("The JPEG file is truncated or damaged in its header.")
        if marker in _SOF:
            if size is not None:
                raise DamagedImage("The JPEG file has two headers for one picture.")
            size = _jpeg_size(data, pos, marker)
        elif marker == 0xE1 and data.startswith(b"Exif\0", pos + 4) and orientation is None:
            orientation = _exif_orientation(data[pos + 4 : end].removeprefix(b"Exif\0\0"))
        if marker not in _METADATA:
            parts.append(view[pos:end])
        pos = end
    else:
        raise DamagedImage(f"The JPEG file has more than {_MAX_SEGMENTS} segments.")
    if size is None or pos < 0:
        raise DamagedImage("The JPEG file is truncated: it ends before its picture begins.")
    # Inside the compressed picture 0xFF is always followed by 0 or a marker, so this counts scans
    # and nothing else.
    if data.count(b"\xff\xda", pos) > _MAX_JPEG_SCANS:
        raise UnsupportedImage(f"The JPEG file has more than {_MAX_JPEG_SCANS} scans.")
    parts.append(view[pos:])
    return Container("JPEG", *size, orientation or 1, tuple(parts))


def _jpeg_size(data: bytes, pos: int, marker: int) -> tuple[int, int]:
    bits, height, width, components = struct.unpack_from(">BHHB", data, pos + 4)
    if marker not in _SOF_READ:
        raise UnsupportedImage(
            "This kind of JPEG (lossless or hierarchical) is not read. Save it as PNG or baseline JPEG."
        )
    if bits != 8:
        raise UnsupportedImage(f"JPEG with {bits} bits per sample is not read. Save it as PNG.")
    if components not in (1, 3, 4):
        raise UnsupportedImage(f"JPEG with {components} colour components is not read.")
    return width, height


# -- PNG ------------------------------------------------------------------------------------------


def _png(data: bytes) -> Container:
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:8]]
    orientation: int | None = None
    colour_key: tuple[int, ...] | None = None
    width = height = depth = colour = 0
    has_picture = is_animated = False
    for position, (kind, start, end) in enumerate(_png_chunks(data)):
        if (position == 0) != (kind == b"IHDR"):
            raise DamagedImage("The PNG file is damaged: its header is missing or comes twice.")
        body = view[start:end]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", body)
        elif kind == b"eXIf" and orientation is None and not has_picture:
            orientation = _exif_orientation(bytes(body))
        elif kind == b"acTL":
            is_animated = True  # browsers draw its first frame, which need not be the picture for still viewers
        elif kind == b"tRNS" and colour in (0, 2):
            # The decoder compares the key with samples that it has already scaled; so we do it
            # after it has.
            colour_key = _colour_key(body, depth, colour)
            continue
        has_picture = has_picture or kind == b"IDAT"
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            # The decoder checks no checksum of picture data; a flipped bit would go unnoticed.
            if zlib.crc32(view[start - 4 : end]) != struct.unpack_from(">I", data, end)[0]:
                raise DamagedImage("The PNG file is damaged: a checksum does not fit its data.")
            parts.append(view[start - 8 : end + 4])
    if not has_picture:
        raise DamagedImage("The PNG file is damaged: it holds no picture.")
    return Container(
        "PNG",
        width,
        height,
        orientation or 1,
        tuple(parts),
        max(depth, 8),
        colour_key=colour_key,
        use_preview=is_animated,
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end (of the body) of each chunk, up to the end chunk. What follows that is
    not looked at."""
    pos = 8
    for _ in range(_MAX_SEGMENTS):
        length, kind = struct.unpack_from(">I4s", data, pos)
        start, end = pos + 8, pos + 8 + length
        if end + 4 > len(data):
            break
        yield kind, start, end
        if kind == b"IEND":
            return
        pos = end + 4
    raise DamagedImage("The PNG file is truncated or damaged: its chunks do not reach an end.")


def _colour_key(body: memoryview, depth: int, colour: int) -> tuple[int, ...] | None:
    samples = 1 if colour == 0 else 3
    if depth not in (1, 2, 4, 8) or len(body) < 2 * samples:
        return None  # of 16 bits only 8 are decoded: too few to tell the key from its neighbours
    top = (1 << depth) - 1
    return tuple((value & top) * 255 // top for value in struct.unpack_from(f">{samples}H", body))


# -- WebP -----------------------------------------------------------------------------------------


def _webp(data: bytes) -> Container:
    (riff_size,) = struct.unpack_from("<I", data, 4)
    end = 8 + riff_size
    if end > len(data):
        raise DamagedImage("The WebP file is truncated.")
    kind = data[12:16]
    if kind == b"VP8X":
        low, middle, high = struct.unpack_from("<3H", data, 24)
        width = (low | (middle & 0xFF) << 16) + 1
        height = (middle >> 8 | high << 8) + 1
    elif kind == b"VP8L" and data[20:21] == b"\x2f":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise DamagedImage("The WebP file is damaged in its header.")
    orientation: int | None = None
    pos = 12
    for _ in range(_MAX_SEGMENTS):
        if pos + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, pos)
        if kind == b"EXIF" and orientation is None:
            orientation = _exif_orientation(data[pos + 8 : pos + 8 + length].removeprefix(b"Exif\0\0"))
        pos += 8 + length + length % 2
    # Most browsers pass over the orientation of a WebP, other programs do not.
    return Container("WebP", width, height, orientation or 1, (data,), use_preview=orientation not in (None, 1))


# -- BMP ------------------------------------------------------------------------------------------

_BMP_HEADERS = frozenset(struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124))


def _bmp(data: bytes) -> Container:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
        if compression not in (0, 3, 6):
            # Pillow unpacks run lengths in Python: seconds for one picture, holding the GIL.
            raise UnsupportedImage("Compressed BMP is not read. Save it as PNG.")
    return Container("BMP", width, abs(height), 1, (data,))  # a negative height: rows from the top


# -- TIFF, and the orientation in EXIF, which is a TIFF directory ---------------------------------

_TIFF_HEADERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_ORIENTATION = 274
_TYPE_SIZES = dict(zip((*range(1, 14), 16), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 8), strict=True))
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}

_SINGLES = (256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332, 531)
"""Tags with one integer that say how the picture is stored."""
_ARRAYS = {
    258: 16,  # bits per sample
    338: 16,  # what extra samples mean
    339: 16,  # sample format
    530: 2,  # chroma subsampling
    320: 3 << 16,  # palette
    273: 1 << 20,  # strips: offsets
    279: 1 << 20,  # strips: byte counts
    324: 1 << 20,  # tiles: offsets
    325: 1 << 20,  # tiles: byte counts
}
"""Tags with many integers, and how many of them are looked at: a file may claim any number."""
_VERBATIM = (347, 529, 532)
"""JPEG tables; coefficients of YCbCr, and its black and white (rationals)."""
_VERBATIM_BYTES = 1 << 16

_WANTED = frozenset({_ORIENTATION, *_SINGLES, *_ARRAYS, *_VERBATIM})

_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
"""None, fax (three kinds), LZW, JPEG, deflate, PackBits, deflate by its old number."""


@dataclass(frozen=True, slots=True)
class _Field:
    type: int
    count: int
    raw: memoryview | bytes


def _directory(data: bytes) -> tuple[str, dict[int, _Field]]:
    """The byte order, and those fields of a TIFF file's first directory that are of use here.

    A field that lies outside the file is left out. Nothing is copied, so fields may overlap.
    """
    view = memoryview(data)
    order = _TIFF_HEADERS[data[:4]]
    if b"+" in data[:4]:
        (offset,) = struct.unpack_from(f"{order}Q", data, 8)
        entry, head, inline = f"{order}HHQ", f"{order}Q", 8
    else:
        (offset,) = struct.unpack_from(f"{order}I", data, 4)
        entry, head, inline = f"{order}HHI", f"{order}H", 4
    if offset > len(data):
        raise DamagedImage("The TIFF file is truncated: its directory lies beyond its end.")
    (entries,) = struct.unpack_from(head, data, offset)
    start = offset + struct.calcsize(head)
    step = struct.calcsize(entry) + inline
    if start + entries * step > len(data):
        raise DamagedImage("The TIFF file is truncated: its directory ends too early.")
    fields: dict[int, _Field] = {}
    for pos in range(start, start + entries * step, step):
        tag, kind, count = struct.unpack_from(entry, data, pos)
        size = _TYPE_SIZES.get(kind, 0) * count
        where = pos + step - inline
        if size > inline:
            (where,) = struct.unpack_from(f"{order}{'Q' if inline == 8 else 'I'}", data, where)
        if tag in _WANTED and size and where + size <= len(data):
            fields.setdefault(tag, _Field(kind, count, view[where : where + size]))
    return order, fields


def _integers(order: str, field: _Field | None, most: int = 1) -> tuple[int, ...]:
    if field is None or field.type not in _INTEGERS:
        return ()
    return struct.unpack_from(f"{order}{min(field.count, most)}{_INTEGERS[field.type]}", field.raw)


def _orientation(order: str, fields: dict[int, _Field]) -> int:
    field = fields.get(_ORIENTATION)
    if field is None or (field.type, field.count) != (3, 1):
        return 1
    (value,) = _integers(order, field)
    return value if 1 <= value <= 8 else 1


def _exif_orientation(block: bytes) -> int:
    """The orientation that an EXIF block names; 1 if the block is damaged.

    That is no reason to refuse the image: the picture itself may well be whole.
    """
    if block[:4] not in _TIFF_HEADERS:
        return 1
    try:
        return _orientation(*_directory(block))
    except (struct.error, DamagedImage):
        return 1


def _tiff(data: bytes) -> Container:
    order, fields = _directory(data)
    singles = {tag: v[0] for tag in _SINGLES if (v := _integers(order, fields.get(tag)))}
    arrays = {t: v for t, most in _ARRAYS.items() if (v := _integers(order, fields.get(t), most))}
    width, height = singles.get(256, 0), singles.get(257, 0)
    if singles.get(259, 1) not in _COMPRESSIONS:
        raise UnsupportedImage(
            f"TIFF with compression {singles[259]} is not read. Save it with LZW or deflate, or as PNG."
        )
    bits = arrays.get(258, (1,))
    if max(arrays.get(339, (1,))) != 1 or max(bits) > 16:
        # No rule says which number is black and which is white, and a guess from the content would
        # make the same object look different from one image to the next.
        raise UnsupportedImage(
            "TIFF with signed, floating-point or more than 16 bits per sample is not read. "
            "Scale it to 8 or 16 bits per sample."
        )
    if len(bits) > 8:
        raise UnsupportedImage(f"TIFF with {len(bits)} samples per pixel is not read.")
    others: tuple[int, ...]
    if 322 in singles:
        tile_width, tile_height = singles[322], singles.get(323, 0)
        if not tile_width or not tile_height:
            raise DamagedImage("The TIFF file is damaged: its tiles have no size.")
        blocks = -(-width // tile_width) * -(-height // tile_height)
        block, where, lengths, others = tile_width * tile_height, 324, 325, (273, 278, 279)
    else:
        # «All rows in one strip» is often written as the largest number there is.
        rows = singles[278] = max(1, min(singles.get(278, height), height))
        blocks = -(-height // rows)
        block, where, lengths, others = width * rows, 273, 279, (322, 323, 324, 325)
    if singles.get(284, 1) == 2:
        blocks *= singles.get(277, 1)  # each sample has its own blocks
    offsets, sizes = arrays.get(where, ())[:blocks], arrays.get(lengths, ())[:blocks]
    if len(offsets) < blocks or len(sizes) not in (0, blocks):
        raise DamagedImage("The TIFF file is damaged: parts of its picture are missing.")
    if any(start + size > len(data) for start, size in zip(offsets, sizes or [0] * blocks, strict=True)):
        raise DamagedImage("The TIFF file is truncated: parts of its picture lie beyond its end.")
    numbers: dict[int, tuple[int, ...]] = {tag: (value,) for tag, value in singles.items()} | arrays | {where: offsets}
    if sizes:
        numbers[lengths] = sizes
    for tag in others:
        numbers.pop(tag, None)
    verbatim = {
        tag: field for tag in _VERBATIM if (field := fields.get(tag)) is not None and len(field.raw) <= _VERBATIM_BYTES
    }
    return Container(
        "TIFF",
        width,
        height,
        _orientation(order, fields),
        _rewritten(data, order, numbers, verbatim),
        bits=max(8, *bits),
        inverted=singles.get(262, 0) == 0 and bits[0] == 16,
        block=block,
        use_preview=True,
    )


_SHORTS = frozenset({258, 320, 338, 339, 530})
"""Arrays that the decoder wants as 16-bit numbers; all others it takes as 32-bit."""


def _rewritten(
    data: bytes, order: str, numbers: dict[int, tuple[int, ...]], verbatim: dict[int, _Field]
) -> tuple[bytes | memoryview, ...]:
    """The file with a fresh directory behind it, which holds only what decoding needs.

    All offsets into the file stay as they are. No further page, sub-directory or private tag can be
    reached. A BigTIFF becomes a classic TIFF.
    """
    fields = dict(verbatim)
    try:
        for tag, values in numbers.items():
            kind, code = (3, "H") if tag in _SHORTS else (4, "I")
            raw = struct.pack(f"{order}{len(values)}{code}", *values)
            fields[tag] = _Field(kind, len(values), raw)
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
