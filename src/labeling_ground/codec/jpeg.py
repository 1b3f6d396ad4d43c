"""JPEG: size, orientation, and the segments that hold the picture.

What is missing of a picture libjpeg fills with grey, and Pillow does not tell. So a few bytes could claim a picture of
any size, and half a picture pass for a whole one. Two things here see to it that what the decoder is handed is whole:
each scan has as many bytes as the shortest codes need, and a picture of one scan (most are) is handed over without an
end marker, so that the decoder runs out of data where it needs more than there is, which is an error.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from labeling_ground.codec.container import MAX_SEGMENTS, Container
from labeling_ground.codec.exif import orientation_of
from labeling_ground.errors import DamagedImage, UnsupportedImage

_MAX_SCANS = 100
"""A progressive JPEG has about 10. Each scan costs a pass over the whole picture, however few bytes it takes."""
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_SOS, _EOI = 0xDA, 0xD9
_TABLES = frozenset({0xC4, 0xDB, 0xDD})
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""APP1 … APP15 and comments, but for APP0 (JFIF) and APP14 (Adobe), which say how colours are stored."""
_BEHIND_A_SCAN = frozenset({_SOS, 0xE0, 0xEE, *_TABLES, *_METADATA})
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""What ends the data of a scan, in which 0xFF is followed by 0 or a restart marker."""
_BEYOND = b"\xff\x00" * 8
"""As much as a decoder looks ahead (64 bits), and of ones: no code consists of ones, so only some blocks of the last
unit could be made of them."""


@dataclass(slots=True)
class _Frame:
    """What a frame header says, and what the scans have brought of it."""

    is_progressive: bool
    width: int
    height: int
    factors: dict[int, tuple[int, int]]
    """How many blocks of each component a unit has, across and down."""
    missing: dict[tuple[int, int], int] = field(default_factory=dict)
    """Of each component's coefficients: how many low bits are still to come; 16 where nothing came."""

    def __post_init__(self) -> None:
        self.missing = {(component, index): 16 for component in self.factors for index in range(64)}

    def scan(self, header: bytes, size: int) -> bool:
        """Take note of a scan of ``size`` bytes. Whether it holds the whole picture.

        Raises:
            DamagedImage: it cannot be a scan of this picture.
        """
        count = header[0] if header else 0
        components = list(header[1 : 1 + 2 * count : 2])
        if len(header) != 4 + 2 * count or not components or any(one not in self.factors for one in components):
            raise DamagedImage("The JPEG file is damaged: a scan is none of its picture.")
        first, last, bits = header[-3], min(header[-2], 63), header[-1] & 15
        if not self.is_progressive:
            first, last, bits = 0, 63, 0
        for component in components:
            self.missing.update({(component, index): bits for index in range(first, last + 1)})
        # A code has one bit at least: one block needs one for its mean, and one to say that nothing else is in it.
        least = self._blocks(components) * (0 if first else 1 if self.is_progressive else 2)
        if size < least // 8:
            raise DamagedImage(
                f"The JPEG file is truncated or damaged: a picture of {self.width} × {self.height} pixels takes more "
                "data than it has."
            )
        return not self.is_progressive and len(components) == len(self.factors)

    @property
    def is_whole(self) -> bool:
        """Whether every bit of every coefficient came."""
        return not any(self.missing.values())

    def _blocks(self, components: list[int]) -> int:
        across, down = (max(pair[axis] for pair in self.factors.values()) for axis in (0, 1))
        if len(components) == 1:
            own = self.factors[components[0]]
            return -(-self.width * own[0] // (8 * across)) * -(-self.height * own[1] // (8 * down))
        units = -(-self.width // (8 * across)) * -(-self.height // (8 * down))
        return units * sum(self.factors[one][0] * self.factors[one][1] for one in components)


def walk(data: bytes) -> Container:
    """Walk a JPEG file.

    Raises:
        UnsupportedImage: a kind of JPEG that is not read.
        DamagedImage: the file ends too early or contradicts itself.
    """
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:2]]
    frame: _Frame | None = None
    orientation: int | None = None
    scans = 0
    for marker, pos, end in _segments(data):
        if marker in _SOF:
            if frame is not None:
                raise DamagedImage("The JPEG file has two headers for one picture.")
            frame = _frame(data, pos, end, marker)
        elif marker == 0xE1 and data.startswith(b"Exif\0", pos + 4) and orientation is None and not scans:
            orientation = orientation_of(data[pos + 4 : end].removeprefix(b"Exif\0\0"))
        if marker != _SOS:
            if marker not in _METADATA:
                parts.append(view[pos:end])
            continue
        scans += 1
        if frame is None:
            raise DamagedImage("The JPEG file is damaged: its picture begins before its header.")
        if scans > _MAX_SCANS:
            raise UnsupportedImage(f"The JPEG file has more than {_MAX_SCANS} scans.")
        behind = _MARKER.search(data, end)
        stop = behind.start() if behind else len(data)
        parts.append(view[pos:stop])
        if frame.scan(data[pos + 4 : end], stop - end):
            parts.append(_BEYOND)
            break
        if behind is None:
            raise DamagedImage("The JPEG file is truncated: its last scan has no end.")
        if _goes_on(data, stop):
            continue
        if data[stop + 1] != _EOI and not frame.is_whole:  # some write a trailer where the end marker should be
            raise DamagedImage("The JPEG file is truncated or damaged: parts of its picture are missing.")
        parts.append(b"\xff\xd9")
        break
    if frame is None or not scans:
        raise DamagedImage("The JPEG file is truncated: it ends before its picture begins.")
    return Container("JPEG", frame.width, frame.height, orientation or 1, tuple(parts))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment; of a scan, the end of its header.

    Raises:
        DamagedImage: the file ends too early, or has endless segments.
    """
    pos = 2
    for _ in range(MAX_SEGMENTS):
        behind = _MARKER.search(data, pos)  # as libjpeg does, pass over stray bytes between segments
        if behind is None:
            return
        pos, marker = behind.start(), data[behind.start() + 1]
        if marker in (0x01, 0xD8):
            pos += 2
            continue
        if marker == _EOI:
            raise DamagedImage("The JPEG file ends before its picture does.")
        (length,) = struct.unpack_from(">H", data, pos + 2)
        end = pos + 2 + length
        if length < 2 or end > len(data):
            raise DamagedImage("The JPEG file is truncated or damaged in its header.")
        yield marker, pos, end
        pos = end
    raise DamagedImage(f"The JPEG file has more than {MAX_SEGMENTS} segments.")


def _goes_on(data: bytes, pos: int) -> bool:
    """Whether a marker behind a scan begins a segment of the same picture."""
    if data[pos + 1] not in _BEHIND_A_SCAN or pos + 4 > len(data):
        return False
    length = int.from_bytes(data[pos + 2 : pos + 4], "big")
    return length >= 2 and pos + 2 + length <= len(data)


def _frame(data: bytes, pos: int, end: int, marker: int) -> _Frame:
    bits, height, width, count = struct.unpack_from(">BHHB", data, pos + 4)
    if marker not in (*_SEQUENTIAL, _PROGRESSIVE):
        raise UnsupportedImage(
            "This kind of JPEG (lossless, hierarchical or arithmetic) is not read. Save it as PNG or baseline JPEG."
        )
    if bits != 8:
        raise UnsupportedImage(f"JPEG with {bits} bits per sample is not read. Save it as PNG.")
    if count not in (1, 3, 4):
        raise UnsupportedImage(f"JPEG with {count} colour components is not read. Save it as PNG.")
    described = data[pos + 10 : end]
    factors = {described[at]: (described[at + 1] >> 4, described[at + 1] & 15) for at in range(0, 3 * count, 3)}
    if len(factors) != count or not all(1 <= one <= 4 for pair in factors.values() for one in pair):
        raise DamagedImage("The JPEG file is damaged in its header.")
    if not width or not height:
        raise DamagedImage(f"The JPEG file says that the image is {width} × {height} pixels.")
    return _Frame(marker == _PROGRESSIVE, width, height, factors)
