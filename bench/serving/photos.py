"""Photographs to send: real ones that ship inside a package, brought to the size that the figures are stated for."""

import io
from pathlib import Path

import skimage
from PIL import Image as Pillow

SIZE = (1024, 768)
_NAMES = ("coffee.png", "chelsea.png", "rocket.jpg", "astronaut.png")


def jpeg(variant: int, target_bytes: int = 512 * 1024) -> bytes:
    """A 1024 × 768 JPEG of about the given size. Each variant is another image: a slightly smaller crop."""
    name = _NAMES[variant % len(_NAMES)]
    photo = Pillow.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    across, down = (variant // len(_NAMES)) % 64, (variant // len(_NAMES) // 64) % 64
    sized = photo.resize(SIZE, Pillow.Resampling.BICUBIC, box=(across, down, photo.width - 1, photo.height - 1))
    best = b""
    for quality in (75, 85, 92, 95, 97, 98, 99, 100):
        buffer = io.BytesIO()
        sized.save(buffer, "JPEG", quality=quality, subsampling=0)
        if best and abs(len(buffer.getvalue()) - target_bytes) > abs(len(best) - target_bytes):
            break
        best = buffer.getvalue()
    return best
