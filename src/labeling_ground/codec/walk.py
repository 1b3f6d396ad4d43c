"""What an image file says about itself, read without decoding a pixel.

A small walk through each container gives the size, the EXIF orientation, and the parts of the file that hold the
picture. The decoder is handed those parts only. So metadata of any kind (EXIF, XMP, ICC, text, thumbnails, further
pages and frames) cannot blow up in memory, cannot make the decoder warn, and cannot change what is decoded.

Orientation is taken from EXIF (for TIFF from the tag itself); XMP is not consulted. What counts is what the standard
writes and browsers read: one SHORT, in the first EXIF block, which in PNG comes before the picture data.
"""

import importlib.util
import struct
import zlib
from collections.abc import Callable, Iterator

from labeling_ground.codec import exif, heif, jpeg, tiff
from labeling_ground.codec.container import MAX_SEGMENTS, Container
from labeling_ground.errors import DamagedImage, UnsupportedImage


def accepted() -> str:
    """The formats that are read here, as a sentence names them."""
    heic = "" if importlib.util.find_spec("pillow_heif") is None else "HEIC, "
    return f"JPEG, PNG, WebP, AVIF, {heic}GIF, BMP and TIFF"


def walk(data: bytes) -> Container:
    """Walk an image file. What it is, is told by its content alone.

    Raises:
        UnsupportedImage: another format than those, or a kind of one of them that we do not read.
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
        return jpeg.walk
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp
    if data[:2] == b"BM" and data[14:18] in _BMP_HEADERS:
        return _bmp
    if data[:4] in exif.HEADERS:
        return tiff.walk
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif
    if heif.format_of(data) is not None:
        return heif.walk
    raise UnsupportedImage(f"{_describe(data)} Images are read from {accepted()} files: save it as one of them.")


_KNOWN_STRANGERS = (
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
            orientation = exif.orientation_of(bytes(body))
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
    for _ in range(MAX_SEGMENTS):
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
    for _ in range(MAX_SEGMENTS):
        if pos + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, pos)
        if kind == b"EXIF" and orientation is None:
            orientation = exif.orientation_of(data[pos + 8 : pos + 8 + length].removeprefix(b"Exif\0\0"))
        pos += 8 + length + length % 2
    # Most browsers pass over the orientation of a WebP, other programs do not.
    return Container("WebP", width, height, orientation or 1, (data,), use_preview=orientation not in (None, 1))


# -- GIF ------------------------------------------------------------------------------------------

_MAX_BLOCKS = 1 << 20
"""Blocks of data of one GIF: of 255 bytes each, as programs write them, they are 256 MB."""


def _gif(data: bytes) -> Container:
    view = memoryview(data)
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    pos = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    parts: list[bytes | memoryview] = [view[:pos]]
    for _ in range(MAX_SEGMENTS):
        start, kind = pos, data[pos]
        if kind == 0x2C:
            left, top, columns, rows, flags = struct.unpack_from("<4HB", data, pos + 1)
            pos = _behind_blocks(data, pos + 11 + (3 << (flags & 7) + 1 if flags & 128 else 0))
            parts += [view[start:pos], b";"]
            note = "The GIF file holds several frames, of which the first is used." if _goes_on(data, pos) else ""
            # A frame may reach over the screen that the file names, which then grows.
            size = (max(width, left + columns), max(height, top + rows))
            return Container("GIF", *size, 1, tuple(parts), note=note, use_preview=True)
        if kind != 0x21:
            raise DamagedImage("The GIF file is damaged: it holds no picture.")
        pos = _behind_blocks(data, pos + 2)
        if data[start + 1] == 0xF9:  # transparency
            parts.append(view[start:pos])
    raise DamagedImage(f"The GIF file has more than {MAX_SEGMENTS} parts before its picture.")


def _goes_on(data: bytes, pos: int) -> bool:
    """Whether another frame follows."""
    try:
        for _ in range(MAX_SEGMENTS):
            if data[pos] != 0x21:
                return data[pos] == 0x2C
            pos = _behind_blocks(data, pos + 2)
    except (IndexError, DamagedImage):
        pass  # whatever is behind the first frame is none of ours
    return False


def _behind_blocks(data: bytes, pos: int) -> int:
    """Where a chain of blocks, each with its length before it, has ended."""
    for _ in range(_MAX_BLOCKS):
        length = data[pos]
        pos += 1 + length
        if not length:
            return pos
    raise DamagedImage(f"The GIF file has more than {_MAX_BLOCKS} blocks in one part.")


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
