"""Image files to pixels: every kind of file, every kind of damage."""

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageCms, ImageDraw
from tests.needs import needs

from labeling_ground.codec.image import decode, read_header
from labeling_ground.codec.walk import accepted, walk
from labeling_ground.errors import BadInput, DamagedImage, TooLarge, UnsupportedImage
from labeling_ground.types import ImageFacts, Stretch

MAX = 1_000_000
ORIENTATION = 274


def pixels_of(data: bytes, max_pixels: int = MAX) -> NDArray[np.uint8]:
    return decode(data, image_id="id", max_pixels=max_pixels).pixels


def saved(picture: Pillow.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def scene(width: int = 24, height: int = 16) -> NDArray[np.uint8]:
    """A picture with no symmetry: every orientation of it differs."""
    y, x = np.mgrid[:height, :width]
    red, green = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1)
    return np.stack([red, green, (x > y) * 200], -1).astype(np.uint8)


def exif(orientation: int) -> Pillow.Exif:
    block = Pillow.Exif()
    block[ORIENTATION] = orientation
    return block


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + body + chunk(b"IEND", b"")


def tiff(fields: dict[int, tuple[int, ...]], picture: bytes, order: str = "<") -> bytes:
    """A hand-written TIFF: the picture starts at offset 8."""
    start = 8 + len(picture) + len(picture) % 2
    behind = start + 2 + 12 * len(fields) + 4
    table, values_behind = struct.pack(f"{order}H", len(fields)), b""
    for tag, values in sorted(fields.items()):
        kind, code = (3, "H") if tag in (258, 339, 274, 262, 259, 277) else (4, "I")
        raw = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(raw) > 4:
            raw, place = b"", raw
            raw = struct.pack(f"{order}I", behind + len(values_behind))
            values_behind += place
        table += struct.pack(f"{order}HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + picture + b"\0" * (start - 8 - len(picture)) + table + b"\0" * 4 + values_behind


def plain_tiff(bits: int, photometric: int, picture: bytes, order: str = "<", /, **more: int) -> bytes:
    fields: dict[int, tuple[int, ...]] = {
        256: (2,), 257: (2,), 258: (bits,), 259: (1,), 262: (photometric,), 273: (8,), 277: (1,),
        278: (2,), 279: (len(picture),),
    }  # fmt: skip
    fields |= {int(tag[1:]): (value,) for tag, value in more.items()}
    return tiff(fields, picture, order)


RGB = Pillow.fromarray(scene())

LOSSLESS: dict[str, bytes] = {
    "png": saved(RGB, "PNG"),
    "webp": saved(RGB, "WEBP", lossless=True),
    "bmp": saved(RGB, "BMP"),
    "tiff": saved(RGB, "TIFF"),
    "tiff lzw": saved(RGB, "TIFF", compression="tiff_lzw"),
    "tiff deflate": saved(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": saved(RGB, "TIFF", compression="packbits"),
    "tiff strips": saved(RGB, "TIFF", compression="raw", tiffinfo={278: 5}),
    "big tiff": saved(RGB, "TIFF", big_tiff=True),
    "png 16 bits": png(
        24,
        16,
        16,
        2,
        b"".join(b"\0" + (row * np.uint16(256) + 200).astype(">u2").tobytes() for row in scene()),
    ),
    "png trailing": saved(RGB, "PNG") + b"more",
    "bmp trailing": saved(RGB, "BMP") + b"more",
}
LOSSY: dict[str, bytes] = {
    "jpeg": saved(RGB, "JPEG", quality=98, subsampling=0),
    "jpeg progressive": saved(RGB, "JPEG", quality=98, subsampling=0, progressive=True),
    "jpeg cmyk": saved(RGB.convert("CMYK"), "JPEG", quality=98),
    "jpeg trailing": saved(RGB, "JPEG", quality=98, subsampling=0) + b"more",
    "avif": saved(RGB, "AVIF", quality=95, subsampling="4:4:4"),
    "gif": saved(RGB.quantize(256), "GIF"),
    "gif trailing": saved(RGB.quantize(256), "GIF") + b"more",
    "webp lossy": saved(Pillow.new("RGB", (24, 16), (200, 80, 30)), "WEBP", quality=90),
    "tiff jpeg": saved(RGB, "TIFF", compression="jpeg", quality=98),
    "tiff ycbcr": saved(RGB.convert("YCbCr"), "TIFF"),
    "tiff cmyk": saved(RGB.convert("CMYK"), "TIFF"),
}
SMALL = {
    name: data
    for name, data in (LOSSLESS | LOSSY).items()
    if name in {"png", "webp", "avif", "gif", "bmp", "tiff", "tiff lzw", "big tiff", "jpeg", "jpeg progressive"}
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_kinds_give_the_very_pixels(name: str) -> None:
    image = decode(LOSSLESS[name], image_id="abc", max_pixels=MAX)
    assert image.id == "abc"
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert not image.pixels.flags.writeable
    np.testing.assert_array_equal(image.pixels, scene())


@pytest.mark.parametrize("name", [n for n in LOSSY if n != "webp lossy"])
def test_lossy_kinds_come_close(name: str) -> None:
    got = pixels_of(LOSSY[name]).astype(int)
    assert np.abs(got - scene()).mean() < 6


def test_lossy_webp_comes_close() -> None:
    assert np.abs(pixels_of(LOSSY["webp lossy"]).astype(int) - (200, 80, 30)).max() < 8


@pytest.mark.parametrize("name", LOSSLESS | LOSSY)
def test_the_header_says_format_and_size(name: str) -> None:
    kinds = {"j": "JPEG", "p": "PNG", "w": "WebP", "a": "AVIF", "g": "GIF"}
    kind = kinds.get(name[0], "TIFF" if "tiff" in name else "BMP")
    data = (LOSSLESS | LOSSY)[name]
    assert walk(data).format == kind
    assert read_header(data, max_pixels=24 * 16) == ImageFacts(24, 16, use_preview=kind in ("TIFF", "GIF"))


def test_the_largest_size_is_the_last_one_accepted() -> None:
    for data in (LOSSLESS | LOSSY).values():
        with pytest.raises(TooLarge, match=r"24 × 16 = 384 pixels; at most 383"):
            read_header(data, max_pixels=383)
        with pytest.raises(TooLarge):
            pixels_of(data, 383)


# -- orientation -----------------------------------------------------------------------------------

STORED_FROM_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {"quality": 98, "subsampling": 0}),
    ],
)
def test_every_orientation_comes_out_upright(orientation: int, kind: str, options: dict[str, Any]) -> None:
    stored = np.ascontiguousarray(STORED_FROM_UPRIGHT[orientation](scene()))
    data = saved(Pillow.fromarray(stored), kind, exif=exif(orientation), **options)
    got = pixels_of(data)
    header = read_header(data, max_pixels=MAX)
    assert got.shape == scene().shape
    assert (header.width, header.height) == (24, 16)
    assert np.abs(got.astype(int) - scene()).mean() < (4 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    data = saved(RGB, "PNG", exif=exif(orientation))
    np.testing.assert_array_equal(pixels_of(data), scene())


@pytest.mark.parametrize("block", [b"", b"junk", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_does_not_matter(block: bytes) -> None:
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(RGB, kind, exif=b"Exif\0\0" + block, **options)
        np.testing.assert_array_equal(pixels_of(data), scene())
    assert pixels_of(saved(RGB, "JPEG", exif=b"Exif\0\0" + block)).shape == (16, 24, 3)


def exif_block(kind: int, *values: int, order: str = "<") -> bytes:
    """An EXIF block with nothing but an orientation, of any type and count."""
    raw = struct.pack(f"{order}{len(values)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", *values)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    behind = raw if len(raw) > 4 else b""
    field = struct.pack(f"{order}I", 26) if behind else raw.ljust(4, b"\0")
    entry = struct.pack(f"{order}HHI", ORIENTATION, kind, len(values)) + field
    return mark + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4) + behind


def jpeg_with(*blocks: bytes) -> bytes:
    data = saved(RGB, "JPEG", quality=98, subsampling=0)
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(b) + 8) + b"Exif\0\0" + b for b in blocks) + data[2:]


def png_with(*before: bytes, behind: tuple[bytes, ...] = ()) -> bytes:
    data = saved(RGB, "PNG")
    picture, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    front, back = (b"".join(chunk(b"eXIf", block) for block in blocks) for blocks in (before, behind))
    return data[:picture] + front + data[picture:end] + back + data[end:]


def webp_with(*blocks: bytes) -> bytes:
    data = saved(RGB, "WEBP", lossless=True, exif=b"Exif\0\0" + blocks[0])
    for block in blocks[1:]:
        data += b"EXIF" + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


SIX, THREE = exif_block(3, 6), exif_block(3, 3)


@pytest.mark.parametrize(
    ("data", "orientation"),
    [
        (jpeg_with(SIX), 6),
        (jpeg_with(exif_block(3, 6, order=">")), 6),
        (jpeg_with(exif_block(4, 6)), 1),
        (jpeg_with(exif_block(1, 6)), 1),
        (jpeg_with(exif_block(3, 6, 6)), 1),
        (jpeg_with(exif_block(4, 6, 6)), 1),
        (jpeg_with(SIX, THREE), 6),
        (jpeg_with(exif_block(3, 1), SIX), 1),
        (jpeg_with(exif_block(4, 6), SIX), 1),
        (png_with(SIX), 6),
        (png_with(SIX, THREE), 6),
        (png_with(exif_block(4, 6)), 1),
        (png_with(b"Exif\0\0" + SIX), 1),
        (png_with(behind=(SIX,)), 1),
        (png_with(SIX, behind=(THREE,)), 6),
        (webp_with(SIX), 6),
        (webp_with(THREE, SIX), 3),
        (webp_with(exif_block(4, 6)), 1),
    ],
)
def test_rare_forms_of_orientation_are_read_as_browsers_read_them(data: bytes, orientation: int) -> None:
    """One SHORT, in the first block, before the picture of a PNG: Chromium was asked about each of these."""
    turned = {1: lambda a: a, 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1)}[orientation](scene())
    got = pixels_of(data)
    assert got.shape == turned.shape
    assert np.abs(got.astype(int) - turned).mean() < 4
    header = read_header(data, max_pixels=MAX)
    assert (header.height, header.width) == got.shape[:2]


def animated_png() -> bytes:
    """One whose picture for still viewers is no frame of the animation."""
    still, *frames = (Pillow.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue"))
    return saved(still, "PNG", save_all=True, append_images=frames, default_image=True)


@pytest.mark.parametrize(
    ("data", "differs"),
    [
        (webp_with(SIX), True),
        (webp_with(THREE), True),
        (webp_with(exif_block(3, 1)), False),
        (animated_png(), True),
        (LOSSLESS["tiff"], True),
        (jpeg_with(SIX), False),
        (png_with(SIX), False),
        (LOSSLESS["webp"], False),
        (LOSSLESS["bmp"], False),
    ],
)
def test_what_browsers_draw_in_another_way_is_told(data: bytes, differs: bool) -> None:
    """They pass over a WebP's orientation, play an animated PNG, and read no TIFF."""
    assert decode(data, image_id="id", max_pixels=MAX).use_preview is differs
    assert read_header(data, max_pixels=MAX).use_preview is differs


def test_the_still_picture_of_an_animated_png_counts() -> None:
    np.testing.assert_array_equal(pixels_of(animated_png())[0, 0], [255, 0, 0])


# -- kinds of samples ------------------------------------------------------------------------------


def grey() -> NDArray[np.uint8]:
    return np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


def as_rgb(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(samples[..., None], 3, -1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    got = pixels_of(saved(Pillow.fromarray(grey()), kind))
    np.testing.assert_array_equal(got, as_rgb(grey()))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_becomes_black_and_white(kind: str) -> None:
    bits = grey() > 100
    got = pixels_of(saved(Pillow.fromarray(bits), kind))
    np.testing.assert_array_equal(got, as_rgb(bits.astype(np.uint8) * 255))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_tiff(compression: str) -> None:
    bits = grey() > 100
    got = pixels_of(saved(Pillow.fromarray(bits), "TIFF", compression=compression))
    np.testing.assert_array_equal(got, as_rgb(bits.astype(np.uint8) * 255))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "PNG"), ("LA", "TIFF")],
)
def test_transparency_is_laid_over_white(mode: str, kind: str) -> None:
    layer = Pillow.new(mode, (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        layer.putpixel((x, 0), (100,) * (len(mode) - 1) + (alpha,))
    got = pixels_of(saved(layer, kind, **({"lossless": True} if kind == "WEBP" else {})))
    expected = [255, (100 * 128 + 255 * 127) / 255, 100]
    np.testing.assert_allclose(got[0], np.repeat(np.array(expected)[:, None], 3, 1), atol=1)


def test_palette() -> None:
    picture = Pillow.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    for kind in ("PNG", "BMP", "TIFF"):
        got = pixels_of(saved(picture, kind))
        np.testing.assert_array_equal(got, [[[10, 20, 30], [200, 100, 50]]], err_msg=kind)
    for transparency in (0, bytes([0, 255])):
        got = pixels_of(saved(picture, "PNG", transparency=transparency))
        np.testing.assert_array_equal(got, [[[255, 255, 255], [200, 100, 50]]])


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, b"\x40", 1, [0, 255]),
        (1, b"\x40", 0, [255, 255]),
        (2, b"\x60", 2, [85, 255]),
        (4, b"\x3a", 10, [51, 255]),
        (8, b"\x07\x08", 7, [255, 8]),
        (16, b"\x07\x00\x08\x00", 0x0700, [7, 8]),
    ],
)
def test_grey_colour_key(depth: int, row: bytes, key: int, expected: list[int]) -> None:
    data = png(2, 1, depth, 0, b"\0" + row, chunk(b"tRNS", struct.pack(">H", key)))
    np.testing.assert_array_equal(pixels_of(data)[0, :, 0], expected)


def test_rgb_colour_key() -> None:
    key = chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))
    data = png(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 1, 2, 4]), key)
    np.testing.assert_array_equal(pixels_of(data), [[[255, 255, 255], [1, 2, 4]]])


SAMPLES_16 = np.array([[0, 255], [0x1234, 65535]], dtype=np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        saved(Pillow.fromarray(SAMPLES_16), "PNG"),
        saved(Pillow.fromarray(SAMPLES_16), "TIFF"),
        saved(Pillow.fromarray(SAMPLES_16), "TIFF", compression="tiff_lzw"),
        plain_tiff(16, 1, SAMPLES_16.astype("<u2").tobytes()),
        plain_tiff(16, 1, SAMPLES_16.astype(">u2").tobytes(), ">"),
        plain_tiff(16, 0, (65535 - SAMPLES_16).astype("<u2").tobytes()),
        plain_tiff(12, 1, bytes([0x00, 0x00, 0x0F, 0x12, 0x3F, 0xFF])),
    ],
    ids=["png", "tiff", "lzw", "little", "big", "white is zero", "12 bits"],
)
def test_samples_of_more_than_8_bits_keep_their_upper_8(data: bytes) -> None:
    np.testing.assert_array_equal(pixels_of(data), as_rgb((SAMPLES_16 >> 8).astype(np.uint8)))


def test_16_bit_grey_with_alpha() -> None:
    data = png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 0x8000, 0xFFFF, 0x8000, 0))
    np.testing.assert_array_equal(pixels_of(data)[0, :, 0], [128, 255])


@pytest.mark.parametrize(
    "picture",
    [
        Pillow.fromarray(np.ones((2, 2), np.float32)),
        Pillow.fromarray(np.ones((2, 2), np.int32)),
    ],
    ids=["float", "int32"],
)
def test_samples_without_a_defined_range_are_refused(picture: Pillow.Image) -> None:
    with pytest.raises(UnsupportedImage, match="8 or 16 bits"):
        pixels_of(saved(picture, "TIFF"))


def test_adobe_cmyk_jpeg_is_inverted() -> None:
    red = Pillow.new("CMYK", (16, 16), (0, 255, 255, 0))
    got = pixels_of(saved(red, "JPEG", quality=95))
    assert np.abs(got[8, 8].astype(int) - (255, 0, 0)).max() < 10


def test_lab_tiff() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    made = ImageCms.profileToProfile(RGB, srgb, lab, outputMode="LAB")
    assert made is not None
    assert np.abs(pixels_of(saved(made, "TIFF")).astype(int) - scene()).mean() < 6


def test_a_colour_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("JPEG", "PNG", "TIFF"):
        with_profile = pixels_of(saved(RGB, kind, icc_profile=profile))
        np.testing.assert_array_equal(with_profile, pixels_of(saved(RGB, kind)))


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG", "MPO"])
def test_the_first_of_several_frames_counts(kind: str) -> None:
    others = [Pillow.new("RGB", (24, 16), c) for c in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    got = pixels_of(saved(RGB, kind, save_all=True, append_images=others, **options))
    assert np.abs(got.astype(int) - scene()).mean() < (0.01 if kind != "MPO" else 20)


def test_a_bmp_may_be_written_from_the_top() -> None:
    data = bytearray(saved(RGB, "BMP"))
    data[22:26] = struct.pack("<i", -16)
    np.testing.assert_array_equal(pixels_of(bytes(data)), scene()[::-1])


def test_planes_apart_and_tiles() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    fields = {
        256: (2,), 257: (2,), 258: (8, 8, 8), 259: (1,), 262: (2,), 277: (3,), 284: (2,), 278: (2,),
        273: (8, 12, 16), 279: (4, 4, 4),
    }  # fmt: skip
    data = tiff(fields, picture.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(pixels_of(data), picture)
    tile = np.zeros((16, 16), np.uint8)
    tile[:2, :2] = picture[..., 0]
    fields = {
        256: (2,), 257: (2,), 258: (8,), 259: (1,), 262: (1,), 277: (1,), 322: (16,), 323: (16,),
        324: (8,), 325: (256,),
    }  # fmt: skip
    np.testing.assert_array_equal(pixels_of(tiff(fields, tile.tobytes())), as_rgb(picture[..., 0]))


# -- little of a large range -----------------------------------------------------------------------


def deep(kind: str, values: NDArray[np.uint16]) -> bytes:
    """A file of 16 bits per sample: ``[rows, columns, samples]``, of one to four samples."""
    rows, columns, count = values.shape
    if kind == "PNG":
        lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        return png(columns, rows, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], lines)
    out = io.BytesIO()
    extra = {2: [2], 4: [2]}.get(count, [])
    tifffile.imwrite(
        out,
        values if count > 1 else values[..., 0],
        photometric="rgb" if count > 2 else "minisblack",
        planarconfig="contig" if count > 1 else None,
        extrasamples=extra,
        metadata=None,
        compression="lzw",
    )
    return out.getvalue()


def ramp(top: int, samples: int) -> NDArray[np.uint16]:
    """All values from 0 to ``top``, about evenly, with a different order in each channel; alpha is full."""
    values = np.linspace(0, top, 4096).round().astype(np.uint16)
    channels = [np.roll(values, 97 * channel) for channel in range(samples)]
    if samples in (2, 4):
        channels[-1] = np.full(4096, 65535, np.uint16)
    return np.stack(channels, -1).reshape(64, 64, samples)


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_values_between_two_percentiles_are_spread_over_the_full_range(kind: str, samples: int, bits: int) -> None:
    """Data of 8, 10 or 12 bits in 16 come out as they would from a file of 8 bits, to the last step."""
    top = (1 << bits) - 1
    values = ramp(top, samples)
    file = deep(kind, values)
    dark = decode(file, image_id="id", max_pixels=MAX)
    assert dark.pixels.max() == top >> 8
    assert "stretch=0.5,99.5" in dark.note
    assert ("comes out black" in dark.note) == (bits == 8)
    image = decode(file, image_id="id", max_pixels=MAX, stretch=Stretch(0, 100))
    colours = values[..., :3] if samples > 2 else values[..., :1]
    np.testing.assert_allclose(image.pixels, np.broadcast_to(colours * (255 / top), (64, 64, 3)), atol=0.5001)
    assert (image.note, image.use_preview) == ("", True)
    tails = decode(file, image_id="id", max_pixels=MAX, stretch=Stretch(10, 90)).pixels[..., 0]
    assert 0.09 < (tails == 0).mean() < 0.12
    assert 0.09 < (tails == 255).mean() < 0.12


def interlaced(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits in Adam7's seven passes."""
    rows, columns, count = values.shape
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = b"".join(
        b"\0" + row.astype(">u2").tobytes() for y, x, down, across in passes for row in values[y::down, x::across]
    )
    head = struct.pack(">IIBBBBB", columns, rows, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], 0, 0, 1)
    picture = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + picture


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_an_interlaced_png_of_16_bits_is_the_same_picture(samples: int) -> None:
    values = ramp(4095, samples)
    for stretch in (None, Stretch(0, 100)):
        one, other = (
            decode(file, image_id="id", max_pixels=MAX, stretch=stretch).pixels
            for file in (interlaced(values), deep("PNG", values))
        )
        np.testing.assert_array_equal(one, other)


def test_one_hot_pixel_hides_nothing() -> None:
    """A camera's defect at the top of the range does not make a dark image a bright one."""
    values = ramp(1023, 1)
    values[5, 5] = 65535
    assert "1.5 % of its range" in decode(deep("TIFF", values), image_id="id", max_pixels=MAX).note
    pixels = decode(deep("TIFF", values), image_id="id", max_pixels=MAX, stretch=Stretch(0.5, 99.5)).pixels
    assert pixels.std() > 60


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_16_bit_image_that_uses_its_range_is_not_remarked_on(kind: str) -> None:
    for top in (65535, 20000):
        assert decode(deep(kind, ramp(top, 3)), image_id="id", max_pixels=MAX).note == ""


def test_stretching_8_bits_and_images_of_one_value() -> None:
    low = (scene() // 8 + 40).astype(np.uint8)
    pixels = decode(saved(Pillow.fromarray(low), "PNG"), image_id="id", max_pixels=MAX, stretch=Stretch(0, 100)).pixels
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert decode(saved(Pillow.fromarray(low), "PNG"), image_id="id", max_pixels=MAX).note == ""
    flat = saved(Pillow.new("RGB", (4, 4), (9, 9, 9)), "PNG")
    pixels = decode(flat, image_id="id", max_pixels=MAX, stretch=Stretch(1, 99)).pixels
    np.testing.assert_array_equal(pixels, np.zeros((4, 4, 3)))


def test_what_is_transparent_does_not_count_for_percentiles() -> None:
    layer = np.zeros((2, 4, 4), np.uint8)
    layer[0] = [[100, 100, 100, 255], [110, 110, 110, 255], [120, 120, 120, 255], [130, 130, 130, 255]]
    got = decode(saved(Pillow.fromarray(layer), "PNG"), image_id="id", max_pixels=MAX, stretch=Stretch(0, 100)).pixels
    np.testing.assert_array_equal(got[..., 0], [[0, 85, 170, 255], [255] * 4])


def test_white_on_transparency_is_remarked_on() -> None:
    """White letters on a transparent ground, and nothing at all, cannot be segmented on white."""
    letters = np.zeros((20, 20, 4), np.uint8)
    letters[5:15, 5:15] = 255
    for layer, seen in ((letters, True), (letters * 0, True), (letters // np.array([2, 1, 1, 1], np.uint8), False)):
        for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
            image = decode(saved(Pillow.fromarray(layer), kind, **options), image_id="id", max_pixels=MAX)
            assert ("white" in image.note) == seen
            assert image.use_preview
    opaque = decode(saved(Pillow.new("RGBA", (9, 9), "white"), "PNG"), image_id="id", max_pixels=MAX)
    assert (opaque.note, opaque.use_preview) == ("", False)


# -- GIF, AVIF, HEIC ------------------------------------------------------------------------------


def test_the_first_frame_of_a_gif_or_an_avif_counts_and_the_note_says_so() -> None:
    frames = [Pillow.new("RGB", (24, 16), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "AVIF"):
        image = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]), image_id="id", max_pixels=MAX)
        assert np.abs(image.pixels.astype(int) - (255, 0, 0)).max() < 6
        assert "the first is used" in image.note
        assert decode(saved(frames[0], kind), image_id="id", max_pixels=MAX).note == ""


def test_a_transparent_gif_is_laid_over_white() -> None:
    picture = Pillow.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    got = pixels_of(saved(picture, "GIF", transparency=0))
    np.testing.assert_array_equal(got, [[[255, 255, 255], [200, 100, 50]]])


def test_a_gif_that_is_not_whole_is_damaged() -> None:
    """Data that ends too early, though its chain of blocks is complete; and chains without end."""
    data = saved(RGB.quantize(256), "GIF")
    start = data.index(b",") + 10
    start += 3 << (data[start - 1] & 7) + 1 if data[start - 1] & 128 else 0
    short = data[: start + 1] + b"\x08" + data[start + 2 : start + 10] + b"\0;"
    endless = data[: data.index(b",")] + b"!\xfe" + b"\x01x" * 2_000_000 + b"\0" + data[data.index(b",") :]
    many = data[: data.index(b",")] + b"!\xfe\0" * 200_000 + data[data.index(b",") :]
    for file in (short, endless, many):
        with pytest.raises(DamagedImage):
            pixels_of(file)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_an_avif_and_a_heic_comes_out_upright(orientation: int) -> None:
    stored = Pillow.fromarray(np.ascontiguousarray(STORED_FROM_UPRIGHT[orientation](scene(96, 64))))
    files = [saved(stored, "AVIF", quality=95, subsampling="4:4:4", exif=exif(orientation))]
    out = io.BytesIO()
    needs("pillow_heif").from_pillow(stored).save(out, quality=95, exif=exif(orientation).tobytes())
    for data in (*files, out.getvalue()):
        assert np.abs(pixels_of(data).astype(int) - scene(96, 64)).mean() < 6
        header = read_header(data, max_pixels=MAX)
        assert (header.width, header.height) == (96, 64)
        assert header.use_preview is (orientation != 1 or walk(data).format == "HEIC")


def heic() -> bytes:
    out = io.BytesIO()
    needs("pillow_heif").from_pillow(Pillow.fromarray(scene(96, 64))).save(out, quality=90)
    return out.getvalue()


def test_heic_is_read_and_limited_by_its_header() -> None:
    data = heic()
    assert walk(data).format == "HEIC"
    assert read_header(data, max_pixels=96 * 64) == ImageFacts(96, 64, use_preview=True)
    assert np.abs(pixels_of(data).astype(int) - scene(96, 64)).mean() < 6
    with pytest.raises(TooLarge):
        read_header(data, max_pixels=96 * 64 - 1)
    for end in range(0, len(data) - 1, 29):
        with pytest.raises(BadInput):
            pixels_of(data[:end])


def test_without_its_package_a_heic_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brand in (b"heic", b"mif1"):
        with pytest.raises(UnsupportedImage, match=r"HEIC.*pillow-heif.*JPEG or PNG"):
            pixels_of(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic")
    with pytest.raises(UnsupportedImage, match=r"read from JPEG, PNG, WebP, AVIF, GIF, BMP and TIFF files"):
        pixels_of(b"%PDF-1.7")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", "empty"),
        (saved(RGB, "ICO"), "ICO"),
        (saved(RGB, "JPEG2000"), "JPEG 2000"),
        (saved(RGB, "PDF"), "PDF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", "video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"data:image/png;base64,iVBORw0KGgo=", "data URL"),
        (b'{"image": 1}', "text"),
        (b"BMW is a car maker, and this a sentence.", "text"),
        (b"\x00\x01\x02\x03" * 20, "no image format"),
    ],
)
def test_other_formats_are_named(data: bytes, seen: str) -> None:
    for ask in (pixels_of, lambda d: read_header(d, max_pixels=MAX)):
        with pytest.raises(UnsupportedImage, match=seen) as caught:
            ask(data)
        assert f"{accepted()} files: save it as one of them" in str(caught.value)


def test_kinds_that_are_not_read() -> None:
    sof = saved(RGB, "JPEG")
    at = sof.index(b"\xff\xc0")
    lossless = sof[: at + 1] + b"\xc3" + sof[at + 2 :]
    twelve_bits = sof[: at + 4] + b"\x0c" + sof[at + 5 :]
    two_components = sof[: at + 9] + b"\x02" + sof[at + 10 :]
    run_lengths = bytearray(saved(Pillow.fromarray(grey()), "BMP"))
    run_lengths[30] = 1
    for data in (lossless, twelve_bits, two_components, bytes(run_lengths)):
        with pytest.raises(UnsupportedImage):
            pixels_of(data)
    for data in (
        plain_tiff(8, 1, b"abcd", t259=6),
        plain_tiff(8, 1, b"abcd", t259=50000),
        plain_tiff(8, 1, b"abcd", t339=2),
        plain_tiff(8, 1, b"abcd", t262=5),
    ):
        with pytest.raises(UnsupportedImage):
            pixels_of(data)


def test_a_size_of_zero_is_damage() -> None:
    jpeg = bytearray(saved(RGB, "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 7] = b"\0\0"
    bmp = bytearray(saved(RGB, "BMP"))
    bmp[18:22] = b"\0" * 4
    for data in (bytes(jpeg), bytes(bmp), png(0, 4, 8, 0, b""), plain_tiff(8, 1, b"", t256=0)):
        with pytest.raises(DamagedImage):
            read_header(data, max_pixels=MAX)


def test_huge_claims_are_refused_by_the_header() -> None:
    """A few bytes that promise gigapixels cost nothing to turn down."""
    jpeg = bytearray(saved(RGB, "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    bmp = bytearray(saved(RGB, "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, -(2**31))
    webp = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xff" * 6
    riff = b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp
    huge_tiff = plain_tiff(8, 1, b"abcd", t256=2**31, t257=2**31)
    tiles = plain_tiff(8, 1, b"abcd", t322=2**20, t323=2**20, t324=8, t325=4)
    for data in (bytes(bmp), png(2**31 - 1, 2**31 - 1, 8, 0, b""), riff, tiles):
        with pytest.raises(TooLarge):
            pixels_of(data)
    for data in (huge_tiff, bytes(jpeg)):
        with pytest.raises(BadInput):
            pixels_of(data)


def test_a_side_has_a_limit_of_its_own() -> None:
    """A picture one pixel wide takes many times the memory of a square one of as many."""
    thin = png(1, 1000, 8, 0, b"\0\0" * 1000)
    assert read_header(thin, max_pixels=MAX, max_side=1000).height == 1000
    for data in (thin, saved(Pillow.new("RGB", (1000, 1)), "JPEG"), saved(Pillow.new("L", (1, 1000)), "TIFF")):
        with pytest.raises(TooLarge, match="a side of at most 999"):
            read_header(data, max_pixels=MAX, max_side=999)
        with pytest.raises(TooLarge, match="a side of at most 999"):
            decode(data, image_id="id", max_pixels=MAX, max_side=999)
    with pytest.raises(TooLarge, match="a side of at most 65,535"):
        read_header(png(1, 65_536, 8, 0, b""), max_pixels=MAX)


def test_metadata_bombs_are_never_unpacked() -> None:
    bomb = zlib.compress(b"\0" * (1 << 26), 9)
    extra = [chunk(b"zTXt", b"k\0\0" + bomb), chunk(b"iCCP", b"k\0\0" + bomb)] * 20
    picture = b"".join(b"\0" + row.tobytes() for row in scene())
    np.testing.assert_array_equal(pixels_of(png(24, 16, 8, 2, picture, *extra)), scene())


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = saved(RGB, "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    with pytest.raises(UnsupportedImage, match="scans"):
        pixels_of(data[:at] + data[at:-2] * 200 + data[-2:])


def claiming(data: bytes, width: int, height: int) -> bytes:
    at = next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}])
def test_a_small_jpeg_that_claims_a_large_picture_is_damaged(mode: str, options: dict[str, Any]) -> None:
    """Once answered with grey for what was not there, and a gigabyte of memory for some hundred bytes."""
    data = saved(Pillow.new(mode, (8, 8)), "JPEG", **options)
    for ask in (pixels_of, lambda file, most: read_header(file, max_pixels=most)):
        with pytest.raises(DamagedImage, match=r"takes more data|truncated"):
            ask(claiming(data, 7071, 7071), 50_000_000)


def endless(data: bytes) -> bytes:
    """Restart markers in place of a picture: each of them starts the decoder anew."""
    return (
        data[: data.rindex(b"\xff\xda") + 14] + b"".join(b"\xff" + bytes([0xD0 + n % 8]) for n in range(40)) + data[-2:]
    )


def test_markers_are_no_picture() -> None:
    data = saved(Pillow.new("RGB", (640, 480)), "JPEG", restart_marker_blocks=100)
    with pytest.raises(DamagedImage):
        pixels_of(endless(data))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_half_a_jpeg_with_an_end_marker_is_damaged(options: dict[str, Any]) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    data = saved(Pillow.fromarray(noise), "JPEG", quality=80, **options)
    start = data.rindex(b"\xff\xda")
    for part in (0.1, 0.5, 0.9, 0.97):
        cut = start + int((len(data) - start) * part)
        with pytest.raises(DamagedImage):
            pixels_of(data[:cut] + b"\xff\xd9")


TRAILER = b"\x00\x00\x01\x0a\x0e\x00\x00\x00Image_UTC_Data1600000000000\xff\xff\x03\xffSEFHk\x00\x00\x00SEFT"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("trailer", [TRAILER, b"\xff\x0b" + TRAILER, b"\xff\xe4\xff\xff" + TRAILER])
def test_a_jpeg_whose_end_marker_is_missing_before_a_trailer_is_whole(
    mode: str, options: dict[str, Any], trailer: bytes
) -> None:
    """As cameras write panoramas. What is cut off inside its picture is not, whatever stands behind."""
    data = saved(Pillow.fromarray(scene(96, 80)).convert(mode), "JPEG", quality=90, **options)
    np.testing.assert_array_equal(pixels_of(data[:-2] + trailer), pixels_of(data))
    with pytest.raises(DamagedImage):
        pixels_of(data[: data.index(b"\xff\xda") + 30] + trailer)


def test_scans_of_one_component_each_are_read() -> None:
    """Sequential, and one component after the other: the decoder needs the end marker there."""
    data = saved(Pillow.fromarray(scene(96, 80)), "JPEG", quality=90, subsampling=0)
    plain = pixels_of(data)
    layers = [saved(layer, "JPEG", quality=90) for layer in Pillow.fromarray(scene(96, 80)).convert("YCbCr").split()]
    tables = segments_of(layers[0], 0xC4) + segments_of(layers[0], 0xDB)
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 80, 96, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    scans = b"".join(
        b"\xff\xda\x00\x08\x01" + bytes([number]) + b"\x00\x00\x3f\x00" + layer[layer.index(b"\xff\xda") + 10 : -2]
        for number, layer in enumerate(layers, 1)
    )
    file = b"\xff\xd8" + tables + frame + scans
    assert np.abs(pixels_of(file + b"\xff\xd9").astype(int) - plain).mean() < 4
    np.testing.assert_array_equal(pixels_of(file + TRAILER), pixels_of(file + b"\xff\xd9"))
    with pytest.raises(DamagedImage):
        pixels_of(file[: file.rindex(b"\xff\xda")] + TRAILER)


def segments_of(data: bytes, marker: int) -> bytes:
    """All segments of a kind, in front of the picture."""
    found, pos = b"", 2
    while data[pos + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, pos + 2)
        if data[pos + 1] == marker:
            found += data[pos : pos + 2 + length]
        pos += 2 + length
    return found


def test_endless_segments_are_refused() -> None:
    jpeg = b"\xff\xd8" + b"\xff\xe0\x00\x02" * 200_000
    png_file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0")
    for data in (jpeg, png_file + chunk(b"tEXt", b"") * 200_000):
        with pytest.raises(DamagedImage):
            pixels_of(data)


def test_a_tiff_of_overlapping_fields_takes_no_memory() -> None:
    """Every entry of a directory may claim the whole file: nothing of it is copied or unpacked."""
    size = 1 << 22
    entries = b"".join(struct.pack("<HHII", 273, 1, size, 8) for _ in range(60_000))
    start = 8 + size
    data = b"II*\0" + struct.pack("<I", start) + bytes(size) + struct.pack("<H", 60_000) + entries
    with pytest.raises(DamagedImage):
        pixels_of(data)


def test_a_flipped_bit_in_a_png_is_found() -> None:
    data = bytearray(LOSSLESS["png"])
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(DamagedImage, match="checksum"):
        pixels_of(bytes(data))


# -- fuzz ------------------------------------------------------------------------------------------


def outcome(data: bytes) -> str:
    """What becomes of hostile bytes; anything but an answer or one of our errors fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        seen: list[str] = []
        warnings.showwarning = lambda message, *_, **__: seen.append(str(message))
        try:
            pixels = pixels_of(data, 100_000)
        except BadInput as error:
            result = type(error).__name__
        else:
            header = read_header(data, max_pixels=100_000)
            assert pixels.shape == (header.height, header.width, 3)
            result = "read"
        assert seen == []
    return result


@pytest.mark.parametrize("name", SMALL)
def test_cut_off_anywhere(name: str) -> None:
    """No part of a file passes for the whole, but for a JPEG without its end mark and padding."""
    data = SMALL[name]
    results = [outcome(data[:end]) for end in range(len(data))]
    if name.startswith("jpeg"):
        assert set(results[: len(data) * 9 // 10]) <= {"DamagedImage", "UnsupportedImage"}
    else:
        whole = data.rindex(b"\0" * 4) if "tiff" in name else len(data) - (name == "gif")  # but for its end mark
        assert "read" not in results[:whole]


@pytest.mark.parametrize("name", SMALL)
def test_every_byte_turned(name: str) -> None:
    data = bytearray(SMALL[name])
    for position in range(len(data)):
        for value in (data[position] ^ 0xFF, data[position] ^ (1 << position % 8), 0):
            hostile = bytes(data[:position]) + bytes([value]) + bytes(data[position + 1 :])
            outcome(hostile)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(SMALL)),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=2, max_size=12),
    st.integers(0, 2000),
    st.binary(max_size=40),
)
def test_many_bytes_turned(name: str, turns: list[tuple[int, int]], cut: int, inserted: bytes) -> None:
    data = bytearray(SMALL[name])
    for position, value in turns:
        data[position % len(data)] = value
    cut %= len(data)
    outcome(bytes(data[:cut]) + inserted + bytes(data[cut:]))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBP", b"II*\0", b"MM\0+",
         b"BM" + b"\0" * 12 + b"\x28\0\0\0"]
    ),
    st.binary(max_size=300),
)  # fmt: skip
def test_random_bytes(magic: bytes, tail: bytes) -> None:
    assert outcome(magic + tail) in {"DamagedImage", "UnsupportedImage", "TooLarge", "read"}


def test_a_drawn_photo_sized_picture_survives_threads() -> None:
    """Decoding keeps no state: many threads give what one gives."""
    from concurrent.futures import ThreadPoolExecutor

    picture = Pillow.new("RGB", (640, 480), "teal")
    ImageDraw.Draw(picture).ellipse((100, 50, 500, 400), "orange")
    data = saved(picture, "JPEG")
    alone = pixels_of(data)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(pixels_of, [data] * 32):
            np.testing.assert_array_equal(got, alone)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_of_a_damaged_file_is_said_what_to_do_and_nothing_of_the_decoders_code(form: str) -> None:
    written = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Pillow.fromarray(noise).save(written, form)
    whole, sentences = written.getvalue(), set()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        for damaged in (whole[:place], whole[:place] + bytes(16) + whole[place + 16 :]):
            try:
                decode(damaged, image_id="0" * 64, max_pixels=10_000)
            except DamagedImage as error:
                sentences.add(str(error))
            except BadInput:
                pass  # damaged so that it is no such file any more
    assert sentences
    for sentence in sentences:
        assert sentence.endswith("Send the original file, or save it anew with an image program.")
        assert "Error" not in sentence
        assert "bytes not processed" not in sentence
