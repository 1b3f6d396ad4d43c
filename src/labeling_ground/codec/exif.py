"""TIFF directories, and the orientation in EXIF, which is one."""

import struct
from dataclasses import dataclass

from labeling_ground.errors import DamagedImage

HEADERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
"""How a TIFF file begins, and its byte order. With ``+`` it is a BigTIFF."""

ORIENTATION = 274
_SUB_DIRECTORIES = 330
_TYPE_SIZES = dict(zip((*range(1, 14), 16, 18), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 8, 8), strict=True))
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_ENTRIES = 4096
"""Fields of one directory. TIFF defines some hundreds of them."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a directory: its type, how many values it has, and their bytes."""

    type: int
    count: int
    raw: memoryview | bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """Those fields of a directory that were asked for, its byte order, and where other directories lie."""

    order: str
    fields: dict[int, Field]
    following: int
    below: tuple[int, ...]

    def integers(self, tag: int, most: int = 1) -> tuple[int, ...]:
        """A field's first ``most`` values; none where it is missing or holds no integers."""
        field = self.fields.get(tag)
        if field is None or field.type not in _INTEGERS:
            return ()
        return struct.unpack_from(f"{self.order}{min(field.count, most)}{_INTEGERS[field.type]}", field.raw)

    @property
    def orientation(self) -> int:
        """1–8; 1 where it is not one SHORT, as the standard wants it and browsers read it."""
        field = self.fields.get(ORIENTATION)
        if field is None or (field.type, field.count) != (3, 1):
            return 1
        (value,) = self.integers(ORIENTATION)
        return value if 1 <= value <= 8 else 1


def first_offset(data: bytes) -> int:
    """Where a TIFF file's first directory lies."""
    order, is_big = HEADERS[data[:4]], b"+" in data[:4]
    offset: int = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)[0]
    return offset


def read_directory(data: bytes, offset: int, wanted: frozenset[int] = frozenset()) -> Directory:
    """One directory of a TIFF file.

    A field that lies outside the file is left out. Nothing is copied, so fields may overlap.

    Raises:
        DamagedImage: it lies beyond the end of the file, or has more fields than any directory.
    """
    view = memoryview(data)
    order, is_big = HEADERS[data[:4]], b"+" in data[:4]
    entry, head, inline = (f"{order}HHQ", f"{order}Q", 8) if is_big else (f"{order}HHI", f"{order}H", 4)
    number = f"{order}{'Q' if is_big else 'I'}"
    if offset > len(data):
        raise DamagedImage("The TIFF file is truncated: its directory lies beyond its end.")
    (entries,) = struct.unpack_from(head, data, offset)
    start = offset + struct.calcsize(head)
    step = struct.calcsize(entry) + inline
    end = start + entries * step
    if entries > _MAX_ENTRIES or end > len(data):
        raise DamagedImage("The TIFF file is truncated or damaged: its directory ends too early.")
    fields: dict[int, Field] = {}
    for pos in range(start, end, step):
        tag, kind, count = struct.unpack_from(entry, data, pos)
        size = _TYPE_SIZES.get(kind, 0) * count
        where = pos + step - inline
        if size > inline:
            (where,) = struct.unpack_from(number, data, where)
        if (tag in wanted or tag in (ORIENTATION, _SUB_DIRECTORIES)) and size and where + size <= len(data):
            fields.setdefault(tag, Field(kind, count, view[where : where + size]))
    following = struct.unpack_from(number, data, end)[0] if end + inline <= len(data) else 0
    found = Directory(order, fields, following, ())
    return Directory(order, fields, following, found.integers(_SUB_DIRECTORIES, 16))


def orientation_of(block: bytes) -> int:
    """The orientation that an EXIF block names, 1–8; 1 if the block is damaged.

    That is no reason to refuse the image: the picture itself may well be whole.
    """
    if block[:4] not in HEADERS:
        return 1
    try:
        return read_directory(block, first_offset(block)).orientation
    except (struct.error, DamagedImage):
        return 1
