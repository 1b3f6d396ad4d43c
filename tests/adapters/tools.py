"""What labeling tools send, from the recordings of real ones in ``recorded/``, with a picture of our own put in."""

import base64
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec import mask as mask_codec

if TYPE_CHECKING:
    from tests.api.conftest import Running

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> dict[str, Any]:
    """One recorded exchange: ``method``, ``path``, ``headers``, ``body``, ``status``, ``answer``."""
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return found


def in_base64(file: bytes) -> str:
    """An image file as text."""
    return base64.b64encode(file).decode("ascii")


def shape_of(value: Any) -> Any:
    """The fields of a JSON value and the types of what they hold; of a list, those of its first member."""
    if isinstance(value, dict):
        return {name: shape_of(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


async def mask_of_v1(server: "Running", file: bytes, **prompt: Any) -> NDArray[np.bool_]:
    """The best mask for a prompt by our own API."""
    image_id = await server.send_image(file)
    answer = await server.client.post(f"/v1/images/{image_id}/masks", json=prompt)
    assert answer.status_code == 200, answer.text
    rle = answer.json()["masks"][0]["rle"]
    return mask_codec.from_rle(rle["size"], rle["counts"])


def pixels_of(feature: dict[str, Any], width: int, height: int) -> NDArray[np.bool_]:
    """The pixels in the geometry of a GeoJSON feature, holes left out; its rings are valid, along pixel edges."""
    geometry = feature["geometry"]
    polygons = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}[geometry["type"]]
    inside = np.zeros((height, width), np.bool_)
    for ring in (ring for polygon in polygons for ring in polygon):
        assert ring[0] == ring[-1], "a ring of GeoJSON is closed"
        assert len({tuple(point) for point in ring}) == len(ring) - 1 >= 4, "a ring that meets itself is none"
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            assert (x0 == x1) is not (y0 == y1)
            if x0 == x1:
                inside[int(min(y0, y1)) : int(max(y0, y1)), int(x0) :] ^= True
    return inside
