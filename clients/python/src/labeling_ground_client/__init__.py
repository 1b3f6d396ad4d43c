"""Masks from a Labeling Ground server, as numpy arrays.

::

    from labeling_ground_client import Client

    cat = Client("http://127.0.0.1:8000").open("cat.jpg")
    mask = cat.click(412, 301).mask  # bool [height, width]
"""

from labeling_ground_client.client import AsyncClient, AsyncImage, Client, Image
from labeling_ground_client.decode import decode_png, decode_rle
from labeling_ground_client.errors import ClientError, ProblemError, UnreachableError
from labeling_ground_client.everything import AsyncEverything, Everything, Progress
from labeling_ground_client.values import (
    Embedding,
    EverythingOptions,
    Found,
    FoundMask,
    Instance,
    MaskCandidate,
    Prediction,
    Prompt,
)

__all__ = [
    "AsyncClient",
    "AsyncEverything",
    "AsyncImage",
    "Client",
    "ClientError",
    "Embedding",
    "Everything",
    "EverythingOptions",
    "Found",
    "FoundMask",
    "Image",
    "Instance",
    "MaskCandidate",
    "Prediction",
    "ProblemError",
    "Progress",
    "Prompt",
    "UnreachableError",
    "decode_png",
    "decode_rle",
]
