"""Photographs, as far as the command line's tests look at them: a bright thing on a dark ground."""

import io

import numpy as np
from PIL import Image as Pillow


def photo(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), rng.integers(0, 80, 3), dtype=np.uint8)
    pixels[10:30, 15:40] = rng.integers(150, 255, 3)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


SLOW_ENGINE = '''
"""The weight-free engine, in slow motion where it is told so."""
import asyncio
import os
from labeling_ground.inference.classical import create as classical

def create(**chosen):
    backend = classical(**chosen)
    encode = backend.encode
    async def slow(image):
        embedding = await encode(image)
        await asyncio.sleep(float(os.environ.get("SLOW_S", "0")))
        return embedding
    backend.encode = slow
    return backend
'''
"""A factory of models for a file of its own, for servers and commands in other processes."""
