"""The protocol of samapi, which QuPath's extension SAM speaks. ``docs/tools/qupath.md`` says how to connect QuPath.

QuPath's choice of a model is one of those served here, where they have that one; else the default one answers. No
checkpoint is ever fetched.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, FiniteFloat
from pydantic_core import to_json

from labeling_ground import __version__
from labeling_ground.adapters.images import (
    box_on,
    choose_model,
    max_body_bytes,
    point_on,
    read_with_image,
)
from labeling_ground.api.adapter import Adapter, Endpoint
from labeling_ground.api.requests import caller_of, pools_of, request_log_of, state_of
from labeling_ground.api.routes.everything import options_of
from labeling_ground.api.schemas.everything import EverythingRequest
from labeling_ground.api.state import AppState
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.records import CachedMask
from labeling_ground.errors import BadPrompt
from labeling_ground.sam.masks import unit_score
from labeling_ground.service.asks import PromptAsk
from labeling_ground.service.everything import EverythingAnswer
from labeling_ground.service.known_texts import OpenImage
from labeling_ground.types import EverythingOptions

_STOCK = dataclasses.asdict(EverythingOptions())
"""Segment Anything's own defaults. QuPath sends them where the user has chosen nothing."""


_TYPES = {
    "vit_h": "sam-vit-h",
    "vit_l": "sam-vit-l",
    "vit_b": "sam-vit-b",
    "vit_t": "mobile-sam",
    "sam2_l": "sam2.1-large",
    "sam2_bp": "sam2.1-base-plus",
    "sam2_s": "sam2.1-small",
    "sam2_t": "sam2.1-tiny",
}
"""What QuPath calls models → what this server calls them."""


class SamRequest(BaseModel):
    """The body of ``POST /sam/``: a picture of the view in base64, and one prompt in its pixels.

    Attributes:
        b64img: the picture.
        bbox: two opposite corners of a box.
        point_coords: points.
        point_labels: for each of them 1 (on the object) or 0.
        multimask_output: up to three candidates are wanted, or the best of them.
        b64mask: a mask to start from, which is not taken here.
        type: a kind of model.
    """

    b64img: str
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    point_coords: list[tuple[FiniteFloat, FiniteFloat]] | None = None
    point_labels: list[Literal[0, 1]] | None = None
    multimask_output: bool = False
    b64mask: str | None = None
    type: str = ""


class AutomaskRequest(EverythingRequest):
    """The body of ``POST /sam/automask/``: a picture in base64, and options of the automatic mask generator."""

    model_config = ConfigDict(extra="ignore", strict=False)

    b64img: str
    crop_n_layers: int = 0
    type: str = ""


def create(app_state: AppState) -> Adapter:
    """The adapter of one server."""
    largest = max_body_bytes(app_state.settings)
    return Adapter(
        "qupath",
        (
            Endpoint("GET", ("/sam/version",), partial(_said, __version__, "text/plain")),
            Endpoint("GET", ("/sam/weights",), partial(_said, "[]", "application/json")),  # none are to be chosen
            Endpoint("GET", ("/sam/progress",), partial(_said, '{"message":"","percent":100}', "application/json")),
            Endpoint("POST", ("/sam",), segment, largest),
            Endpoint("POST", ("/sam/automask",), segment_everything, largest),
        ),
    )


async def _said(content: str, media_type: str, request: Request) -> Response:
    """An answer that is always the same."""
    caller_of(request)  # a key is needed where there are some
    return Response(content, media_type=media_type)


async def segment(request: Request) -> Response:
    """``POST /sam/``: the masks of one prompt."""
    body, image = await read_with_image(request, SamRequest, lambda body: body.b64img)
    await choose_model(request, _TYPES.get(body.type, body.type))
    [answer] = await image.segment(lambda opened: [_prompt_of(body, opened)])
    found, model = answer.prediction, answer.version.model
    masks = found.masks if body.multimask_output else found.masks[:1]
    return await _features(request, masks, (found.height, found.width), model)


async def segment_everything(request: Request) -> Response:
    """``POST /sam/automask/``: all masks of the picture."""
    body, image = await read_with_image(request, AutomaskRequest, lambda body: body.b64img)
    if body.crop_n_layers:
        raise BadPrompt("Layers of crops are not computed here. Set crop_n_layers to 0, and zoom in instead.")
    everything = (await choose_model(request, _TYPES.get(body.type, body.type))).everything
    chosen = {name: getattr(body, name) for name in _STOCK if getattr(body, name) not in (None, _STOCK[name])}
    options = options_of(chosen, state_of(request), everything)
    record, caller = request_log_of(request), image.caller

    async def ask(opened: OpenImage) -> EverythingAnswer:
        record.fields |= {"image": opened.image_id[:12], "points": options.points_per_side**2}
        return await everything.ask(caller.tenant, opened.image_id, options, client=caller.client)

    answer = await image.use(ask, has_deadline=False)
    record.note(answer.outcome, answer.timing)
    found, masks = answer.found, tuple(one.mask for one in answer.found.masks)
    return await _features(request, masks, (found.height, found.width), answer.version.model)


def _prompt_of(body: SamRequest, image: OpenImage) -> PromptAsk:
    coordinates, labels = body.point_coords or [], body.point_labels or []
    if len(coordinates) != len(labels):
        raise BadPrompt(f"There are {len(coordinates)} point_coords and {len(labels)} point_labels: as many, please.")
    if body.b64mask is not None:
        raise BadPrompt("A mask to start from (b64mask) is not taken here. Use points or a box.")
    points = [point_on(image, x, y, label) for (x, y), label in zip(coordinates, labels, strict=True)]
    # Three candidates also where one mask is wanted: as every other tool asks, whose answer it shares.
    return PromptAsk(points, None if body.bbox is None else box_on(image, *body.bbox))


async def _features(request: Request, masks: tuple[CachedMask, ...], size: tuple[int, int], model: str) -> Response:
    """The masks that are not empty as a JSON list of GeoJSON features, drawn in the pool one by one."""
    drawing = pools_of(request).drawing
    pieces = [
        await drawing.run(partial(_feature, mask, index, size, model), background=len(masks) > 3)
        for index, mask in enumerate(masks)
        if mask.area
    ]
    return Response(b"[" + b",".join(pieces) + b"]", media_type="application/json")


def _feature(mask: CachedMask, index: int, size: tuple[int, int], model: str) -> bytes:
    """A mask along its pixels' edges, with its holes, as GeoJSON. Blocking."""
    polygons = mask_codec.to_polygons_with_holes(mask_codec.from_rle(size, mask.counts))
    closed = [[[*ring, ring[0]] for ring in polygon] for polygon in polygons]
    geometry: dict[str, Any] = (
        {"type": "Polygon", "coordinates": closed[0]}
        if len(closed) == 1
        else {"type": "MultiPolygon", "coordinates": closed}
    )
    quality = unit_score(mask.score)
    properties = {"object_idx": index, "label": "object", "quality": quality, "sam_model": model}
    return to_json({"type": "Feature", "geometry": geometry, "properties": properties})
