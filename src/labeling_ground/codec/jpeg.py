"""JPEG: size, orientation, and the segments that hold the picture."""

import struct

from labeling_ground.codec.container import MAX_SEGMENTS, Container
from labeling_ground.codec.exif import orientation_of
from labeling_ground.errors import DamagedImage, UnsupportedImage

_MAX_JPEG_SCANS = 100
"""A progressive JPEG has about 10. Each scan costs a pass over the whole picture, however few bytes it takes."""

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOF_READ = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""APP1 … APP15 and comments, but for APP0 (JFIF) and APP14 (Adobe), which say how colours are
stored."""


def walk(data: bytes) -> Container:
    """Walk a JPEG file.

    Raises:
        UnsupportedImage: a kind of JPEG that is not read.
        DamagedImage: the file ends too early or contradicts itself.
    """
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:2]]
    size: tuple[int, int] | None = None
    orientation: int | None = None
    pos = 2
    for _ in range(MAX_SEGMENTS):
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
            size = _size(data, pos, marker)
        elif marker == 0xE1 and data.startswith(b"Exif\0", pos + 4) and orientation is None:
            orientation = orientation_of(data[pos + 4 : end].removeprefix(b"Exif\0\0"))
        if marker not in _METADATA:
            parts.append(view[pos:end])
        pos = end
    else:
        raise DamagedImage(f"The JPEG file has more than {MAX_SEGMENTS} segments.")
    if size is None or pos < 0:
        raise DamagedImage("The JPEG file is truncated: it ends before its picture begins.")
    # Inside the compressed picture 0xFF is always followed by 0 or a marker, so this counts scans
    # and nothing else.
    if data.count(b"\xff\xda", pos) > _MAX_JPEG_SCANS:
        raise UnsupportedImage(f"The JPEG file has more than {_MAX_JPEG_SCANS} scans.")
    parts.append(view[pos:])
    return Container("JPEG", *size, orientation or 1, tuple(parts))


def _size(data: bytes, pos: int, marker: int) -> tuple[int, int]:
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
