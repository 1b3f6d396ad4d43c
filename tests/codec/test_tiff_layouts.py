"""Every layout of TIFF that tifffile writes is read right, or refused with what to do."""

import io
import itertools
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from labeling_ground.codec.image import decode, read_header
from labeling_ground.errors import BadInput, DamagedImage, TooLarge, UnsupportedImage

WIDTH, HEIGHT = 45, 37
"""No multiples of a tile's sides, nor of each other."""
SAMPLES = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4, "palette": 1}
DEPTHS = [1, 2, 4, 8, 12, 16]
COMPRESSIONS: list[tuple[str | None, bool]] = [
    (None, False),
    ("lzw", False),
    ("lzw", True),
    ("adobe_deflate", False),
    ("adobe_deflate", True),
    ("deflate", False),
    ("packbits", False),
]
"""And whether each sample is stored as the difference to the one before it."""


def drawn(samples: int, bits: int) -> NDArray[Any]:
    """``[samples, height, width]``: no symmetry, all values that the bits allow."""
    plane, y, x = np.mgrid[:samples, :HEIGHT, :WIDTH]
    values = (x * 1777 + y * 911 + plane * 4001 + (x * y) % 37 * 1499) % (1 << bits)
    return np.asarray(values, np.uint8 if bits <= 8 else np.uint16)


def expected(
    values: NDArray[Any], bits: int, photometric: str, palette: NDArray[np.uint16] | None
) -> NDArray[np.uint8]:
    """The pixels that a file with these samples stands for, straight from what TIFF says they mean."""
    if photometric == "palette":
        assert palette is not None
        return (palette >> 8).astype(np.uint8)[:, values[0]].transpose(1, 2, 0)
    full = np.round(values * (255 / ((1 << bits) - 1))).astype(int) if bits < 8 else values.astype(int)
    if photometric == "miniswhite":
        full = (255 if bits <= 8 else (1 << bits) - 1) - full
    if photometric == "separated":
        top = (1 << max(bits, 8)) - 1
        full = np.round((top - full[:3]) * (top - full[3:4]) / top).astype(int)
    upper = full >> max(bits - 8, 0)
    colours = upper[:3] if len(upper) >= 3 and photometric != "minisblack" else np.repeat(upper[:1], 3, 0)
    return colours.transpose(1, 2, 0).astype(np.uint8)


def as_stored(values: NDArray[Any], planar: str) -> NDArray[Any]:
    """``[height, width, samples]``, or ``[samples, height, width]`` as it is."""
    return np.ascontiguousarray(values.transpose(1, 2, 0)) if planar == "contig" else values


def written(values: NDArray[Any], bits: int, **options: Any) -> bytes:
    """A TIFF file."""
    out = io.BytesIO()
    if len(values) == 1:
        values, options = values[0], {**options, "planarconfig": None}
    else:
        values = as_stored(values, options["planarconfig"])
    tifffile.imwrite(out, values, bitspersample=bits, metadata=None, **options)
    return out.getvalue()


CASES = [
    (photometric, planar, bits, compression, predictor, blocks, order)
    for photometric, planar, bits, (compression, predictor), blocks, order in itertools.product(
        SAMPLES, ("contig", "separate"), DEPTHS, COMPRESSIONS, ("strips", "one strip", "tiles"), "<>"
    )
    if not (planar == "separate" and SAMPLES[photometric] == 1)  # one plane is no planes
    and not (photometric == "palette" and bits in (1, 12))
    and not (predictor and bits not in (8, 16))
]


def blocks_of(kind: str) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {
        "strips": {"rowsperstrip": 5},
        "one strip": {"rowsperstrip": HEIGHT},
        "tiles": {"tile": (16, 32)},
    }
    return kinds[kind]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("photometric", SAMPLES)
def test_every_layout_is_right_or_refused(photometric: str, planar: str, order: str) -> None:
    """Photometric × planar × depth × compression × predictor × strips or tiles × byte order, against the array."""
    read = 0
    refused: list[tuple[int, str]] = []
    for case in CASES:
        if case[:2] != (photometric, planar) or case[-1] != order:
            continue
        _, _, bits, compression, predictor, blocks, _ = case
        values = drawn(SAMPLES[photometric], bits)
        palette = None
        options = blocks_of(blocks)
        if photometric == "palette":
            palette = (np.arange(3 << bits) * 40503 % 65536).astype(np.uint16).reshape(3, -1)
            options["colormap"] = palette
        try:
            file = written(
                values,
                bits,
                photometric=photometric,
                planarconfig=planar,
                compression=compression,
                predictor=2 if predictor else None,
                byteorder=order,
                **options,
            )
        except ValueError:
            continue  # tifffile does not write it
        stored = tifffile.imread(io.BytesIO(file))
        if not np.array_equal(stored.reshape(-1), as_stored(values, planar).reshape(-1)):
            assert (bits, order) == (12, ">")
            continue  # tifffile writes something else
        try:
            pixels = decode(file, image_id="id", max_pixels=10_000).pixels
        except UnsupportedImage as error:
            refused.append((bits, str(error)))
            continue
        read += 1
        np.testing.assert_array_equal(pixels, expected(values, bits, photometric, palette), err_msg=str(case))
    assert all(bits == 12 and "Save it as 8-bit RGB, or as PNG" in sentence for bits, sentence in refused), refused
    assert read >= (0 if CASES and planar == "separate" and SAMPLES[photometric] == 1 else 40)


def layered(samples: int, bits: int, meaning: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """RGB (or grey) with an extra sample of a meaning, and what it looks like over white, 0 to 255."""
    values = drawn(samples, bits)
    top = (1 << bits) - 1
    if meaning == 1:  # colours are multiplied with the alpha
        values[:-1] = (values[:-1].astype(np.int64) * values[-1] // top).astype(values.dtype)
    colours, alpha = values[:-1].astype(float) / top, values[-1:].astype(float) / top
    over = {0: colours, 1: colours + 1 - alpha, 2: colours * alpha + 1 - alpha}[meaning]
    return values, np.broadcast_to(over, (3, HEIGHT, WIDTH)).transpose(1, 2, 0) * 255


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("meaning", [0, 1, 2], ids=["something", "premultiplied", "alpha"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_further_sample_is_alpha_only_where_the_file_says_so(
    planar: str, photometric: str, bits: int, meaning: int, order: str
) -> None:
    values, over = layered(SAMPLES[photometric] + 1, bits, meaning)
    for compression, blocks in itertools.product((None, "lzw"), ("strips", "tiles")):
        file = written(
            values, bits, photometric=photometric, planarconfig=planar, compression=compression, byteorder=order,
            extrasamples=[meaning], **blocks_of(blocks),
        )  # fmt: skip
        image = decode(file, image_id="id", max_pixels=10_000)
        assert np.abs(image.pixels - over).max() < 2.1
        assert ("channels" in image.note) == (meaning == 0)


@pytest.mark.parametrize("samples", [2, 5, 7, 40])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_of_many_channels_the_first_are_used_and_the_note_says_so(planar: str, samples: int) -> None:
    for photometric, used in (("minisblack", 1), ("rgb", 3)):
        if samples > used:
            values = drawn(samples, 16)
            extra = [0] * (samples - used)
            file = written(values, 16, photometric=photometric, planarconfig=planar, extrasamples=extra)
            image = decode(file, image_id="id", max_pixels=100_000)
            shown = np.broadcast_to(values[:used] >> 8, (3, HEIGHT, WIDTH)).transpose(1, 2, 0)
            np.testing.assert_array_equal(image.pixels, shown)
            first = "the first is" if used == 1 else f"the first {used} are"
            assert f"{samples} channels, of which {first} used" in image.note


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("photometric", "planar"),
    [("minisblack", "contig"), ("rgb", "contig"), ("rgb", "separate"), ("ycbcr", "contig")],
)
@pytest.mark.parametrize("blocks", ["one strip", "tiles"])
def test_jpeg_in_tiff_comes_close(photometric: str, planar: str, blocks: str, order: str) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([x * 5, y * 6, 200 - x * 2 - y]).astype(np.uint8)
    options = {"photometric": photometric, "planarconfig": planar, "byteorder": order, **blocks_of(blocks)}
    if photometric == "minisblack":
        smooth = smooth[:1]
    if photometric == "ycbcr":
        options |= {"photometric": "rgb", "compressionargs": {"outcolorspace": "YCBCR"}}
    file = written(smooth, 8, compression="jpeg", **options)
    got = decode(file, image_id="id", max_pixels=10_000).pixels
    assert np.abs(got.astype(int) - np.broadcast_to(smooth, (3, HEIGHT, WIDTH)).transpose(1, 2, 0)).mean() < 4


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"compression": "zstd"}, "compression 50000"),
        ({"compression": "webp"}, "compression"),
        ({"compression": "jpeg2000"}, "compression"),
        ({"photometric": "cfa"}, "raw data of a camera"),
        ({"photometric": "icclab"}, "ICC"),
    ],
)
def test_what_is_not_read_says_what_to_do(options: dict[str, Any], seen: str) -> None:
    values = drawn(3, 8) if options.get("photometric", "rgb") != "cfa" else drawn(1, 8)
    file = written(values, 8, **{"photometric": "rgb", "planarconfig": "contig", **options})
    with pytest.raises(UnsupportedImage, match=f"{seen}.*(PNG|LZW)"):
        decode(file, image_id="id", max_pixels=10_000)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_first_directory_that_is_no_thumbnail_counts(order: Literal["<", ">"], big: bool) -> None:
    """Whether the thumbnail stands before the picture, above it, or behind it; a mask is no picture either."""
    picture = drawn(3, 8).transpose(1, 2, 0)
    small = np.ascontiguousarray(picture[::4, ::4])
    thumbnail: dict[str, Any] = {"photometric": "rgb", "subfiletype": 1, "metadata": None}
    full: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    for kind in ("before", "above", "behind", "mask before", "alone"):
        out = io.BytesIO()
        with tifffile.TiffWriter(out, byteorder=order, bigtiff=big) as file:
            if kind == "before":
                file.write(small, **thumbnail)
                file.write(picture, **full)
            elif kind == "above":
                file.write(small, subifds=1, **thumbnail)
                file.write(picture, **full)
            elif kind == "mask before":
                file.write(small[..., 0] > 100, photometric="mask", subfiletype=4, metadata=None)
                file.write(picture, **full)
            elif kind == "behind":
                file.write(picture, **full)
                file.write(small, **thumbnail)
            else:
                file.write(small, **thumbnail)
        image = decode(out.getvalue(), image_id="id", max_pixels=10_000)
        np.testing.assert_array_equal(image.pixels, small if kind == "alone" else picture, err_msg=kind)
        assert image.note == ""


def test_of_several_pages_the_first_is_used_and_the_note_says_so() -> None:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        for values in (drawn(3, 8), drawn(3, 8)[::-1]):
            file.write(values.transpose(1, 2, 0), photometric="rgb", metadata=None)
    image = decode(out.getvalue(), image_id="id", max_pixels=10_000)
    np.testing.assert_array_equal(image.pixels, drawn(3, 8).transpose(1, 2, 0))
    assert "several pages" in image.note


def test_channels_side_by_side_count() -> None:
    """They are decoded together, whatever is used of them; planes are not."""
    values = drawn(40, 8)
    for planar in ("contig", "separate"):
        file = written(values, 8, photometric="minisblack", planarconfig=planar, extrasamples=[0] * 39, rowsperstrip=1)
        if planar == "separate":
            assert decode(file, image_id="id", max_pixels=WIDTH * HEIGHT).height == HEIGHT
        else:
            with pytest.raises(TooLarge, match="40 channels"):
                decode(file, image_id="id", max_pixels=WIDTH * HEIGHT)


def test_the_white_column_of_planes_of_16_bits() -> None:
    """Two by two pixels, the left column white: once answered as the upper row white."""
    values = np.zeros((3, 2, 2), np.uint16)
    values[:, :, 0] = 65535
    file = written(values, 16, photometric="rgb", planarconfig="separate", compression=None)
    np.testing.assert_array_equal(decode(file, image_id="id", max_pixels=10).pixels[..., 0], [[255, 0], [255, 0]])


@pytest.mark.parametrize("compression", [None, "lzw", "adobe_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_whatever_is_damaged_is_answered(planar: str, compression: str | None) -> None:
    """Bytes turned in directories and in pictures: pixels of the size that the header tells, or an error of ours."""
    options: dict[str, Any] = {} if compression == "jpeg" else {"extrasamples": [1]}
    values = drawn(3 if compression == "jpeg" else 4, 8)
    file = written(values, 8, photometric="rgb", planarconfig=planar, compression=compression, tile=(16, 32), **options)
    random = np.random.default_rng(len(file))
    for _ in range(150):
        damaged = bytearray(file)
        for _ in range(random.integers(1, 6)):
            damaged[random.integers(0, len(file) if random.random() < 0.5 else 600)] = random.integers(0, 256)
        try:
            image = decode(bytes(damaged), image_id="id", max_pixels=100_000)
        except BadInput:
            continue
        header = read_header(bytes(damaged), max_pixels=100_000)
        assert image.pixels.shape == (header.height, header.width, 3)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_small_jpeg_in_a_tiff_that_claims_a_large_picture_is_damaged(planar: str) -> None:
    """Its header and the directory agree, and there is next to nothing behind them."""
    side = 4096
    file = bytearray(written(drawn(3, 8), 8, photometric="rgb", planarconfig=planar, compression="jpeg"))
    for mark in (b"\xff\xc0", b"\xff\xc1"):
        at = file.find(mark)
        while at >= 0:
            file[at + 5 : at + 9] = side.to_bytes(2, "big") * 2
            at = file.find(mark, at + 2)
    page = tifffile.TiffFile(io.BytesIO(bytes(file))).pages[0]
    for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
        tag = page.tags[name]  # type: ignore[union-attr]
        file[tag.valueoffset : tag.valueoffset + 4] = side.to_bytes(2 if tag.dtype == 3 else 4, "little").ljust(
            4, b"\0"
        )
    with pytest.raises(DamagedImage, match="takes more data"):
        decode(bytes(file), image_id="id", max_pixels=side * side)
