"""CVAT's serverless functions: this server as a Nuclio dashboard that has an interactor for each model, and a detector.

``docs/tools/cvat.md`` says how to connect CVAT. Functions that are not ours are a real dashboard's, if there is one.
"""

import re
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from fastapi import Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel, FiniteFloat
from pydantic_core import to_json

from labeling_ground.adapters.images import (
    box_on,
    choose_finder,
    choose_model,
    max_body_bytes,
    objects_of,
    point_on,
    read_with_image,
)
from labeling_ground.adapters.nuclio import Dashboard
from labeling_ground.api import responses
from labeling_ground.api.adapter import Adapter, Endpoint, nothing_to_close
from labeling_ground.api.requests import caller_of, pools_of
from labeling_ground.api.routes.concepts import check_limits
from labeling_ground.api.state import AppState
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.records import CachedMask, CachedPrediction
from labeling_ground.errors import BadPrompt, NotFound
from labeling_ground.key import canonical_concept
from labeling_ground.sam.masks import unit_score
from labeling_ground.service.asks import PromptAsk
from labeling_ground.service.concepts import ConceptAnswer
from labeling_ground.service.known_texts import OpenImage

FUNCTION = "labeling-ground"
"""The name of the default model's interactor among CVAT's functions; others' have a dash and the model after it."""
FINDER = f"{FUNCTION}-finder"
"""The name of the detector, which finds what its labels name."""
_READS_SHAPES = (2, 60)
"""The first version of CVAT that is sent shapes. Those before read one mask of the whole picture only; those since,
both."""

_Pair = tuple[FiniteFloat, FiniteFloat]


class Invocation(BaseModel):
    """The body of a call; all coordinates in pixels of its image. A detector's has an image and a threshold.

    Attributes:
        image: the frame, or the part of it that is worked on, in base64.
        pos_points: points on the object.
        neg_points: points off it.
        obj_bbox: two opposite corners of each box, one after the other.
        threshold: least score of what a detector finds.
    """

    image: str
    pos_points: list[_Pair] | None = None
    neg_points: list[_Pair] | None = None
    obj_bbox: list[_Pair] | None = None
    threshold: FiniteFloat | None = None


def create(app_state: AppState) -> Adapter:
    """The adapter of one server."""
    settings = app_state.settings
    address, largest = settings.nuclio_url, max_body_bytes(settings)
    others = None if address is None else Dashboard(address, largest, settings.adapter_deadline_s)
    tool = Cvat(app_state, others)

    def at(path: str) -> tuple[str, ...]:
        return (path, f"/cvat{path}")

    return Adapter(
        "cvat",
        (
            Endpoint("GET", at("/api/functions"), tool.functions),
            Endpoint("GET", at("/api/functions/{name}"), tool.function),
            # The root is where CVAT calls a function if there shall be no dashboard in between (method «direct»).
            Endpoint("POST", (*at("/api/function_invocations"), "/"), tool.invoke, largest),
        ),
        aclose=nothing_to_close if others is None else others.aclose,
    )


class Cvat:
    """What one server answers CVAT.

    Args:
        app_state: the server's parts.
        others: a real dashboard, where there is one.
    """

    def __init__(self, app_state: AppState, others: Dashboard | None) -> None:
        self._settings, self._models = app_state.settings, app_state.models
        self._others = others

    async def functions(self, request: Request) -> Response:
        """All functions by their names: the dashboard's, and ours."""
        caller_of(request)  # a key is needed where there are some
        listed = await self._others.functions(request) if self._others is not None else {}
        return responses.as_json(listed | self._listed())

    async def function(self, request: Request) -> Response:
        """One function."""
        caller_of(request)
        name = request.path_params["name"]
        if (about := self._listed().get(name)) is not None:
            return responses.as_json(about)
        return await self._elsewhere(request, name, f"/api/functions/{name}")

    async def invoke(self, request: Request) -> Response:
        """Call the function that a header names."""
        name = request.headers.get("x-nuclio-function-name", FUNCTION)
        if name == FINDER and self._settings.cvat_labels:
            return await self._find(request)
        if (model := self._ours().get(name)) is None:
            caller_of(request)
            return await self._elsewhere(request, name, "/api/function_invocations")
        return await self._segment(request, None if name == FUNCTION else model)

    async def _segment(self, request: Request, model: str | None) -> Response:
        body, image = await read_with_image(request, Invocation, lambda body: body.image)
        await choose_model(request, model)
        found = await image.segment(lambda opened: _prompts_of(body, opened))
        # A version without shapes has one box at most.
        draw = _as_shapes if len(found) > 1 or _reads_shapes(request) else _as_mask
        content = await pools_of(request).drawing.run(draw, [answer.prediction for answer in found])
        return Response(content, media_type="application/json")

    async def _find(self, request: Request) -> Response:
        body, image = await read_with_image(request, Invocation, lambda body: body.image)
        labels = self._settings.cvat_labels
        check_limits(labels, 0, self._settings)
        wanted = [canonical_concept(label) for label in labels]
        found = await image.find(await choose_finder(request, None, wanted), wanted)
        least = 0.5 if body.threshold is None else body.threshold
        content = await pools_of(request).drawing.run(_as_annotations, labels, found, least, background=True)
        return Response(content, media_type="application/json")

    async def _elsewhere(self, request: Request, name: str, path: str) -> Response:
        """The answer of the dashboard, to which a call of another function than ours is passed on.

        Raises:
            NotFound: there is none.
            BackendFailed, Overloaded: as in ``Dashboard.forward``.
        """
        if self._others is None:
            raise NotFound(
                f"There is no function {name!r} here, only {', '.join(map(repr, self._listed()))}. "
                "LABELING_GROUND_NUCLIO_URL names a Nuclio dashboard that has the others."
            )
        return await self._others.forward(request, path)

    def _ours(self) -> dict[str, str]:
        """The models' ids by the names of their functions, the default one first. CVAT keeps a name while it shows a
        task: it is made of what the settings call the model, as the id of a factory's is known once it is loaded."""
        default, *others = self._models.statuses()
        named = {f"{FUNCTION}-{re.sub('[^A-Za-z0-9.]+', '-', each.facts.name)}": each.id for each in others}
        return {FUNCTION: default.id, **named}

    def _listed(self) -> dict[str, dict[str, Any]]:
        """Our functions by their names, as Nuclio describes functions."""
        port, labels = self._settings.port, self._settings.cvat_labels
        found = {name: _interactor(name, model, port) for name, model in self._ours().items()}
        return found | {FINDER: _detector(labels, port)} if labels else found


def _interactor(name: str, model: str, port: int) -> dict[str, Any]:
    """A model's function."""
    title = "Labeling Ground" if name == FUNCTION else f"Labeling Ground ({model})"
    # Any text under "startswith_box" would mean that a box is a must.
    asks = {"min_pos_points": "0", "min_neg_points": "0", "startswith_box_optional": "true"}
    hint = "Click on the object, or off it with the right button; or draw a box around it."
    what = f"Masks by {model}, kept for everybody who clicks on the same image."
    return _about(name, port, what, name=title, type="interactor", spec="", help_message=hint, **asks)


def _detector(labels: Sequence[str], port: int) -> dict[str, Any]:
    """The function that finds what its labels, a text of JSON, name."""
    spec = to_json([{"id": number, "name": label, "type": "mask"} for number, label in enumerate(labels)]).decode()
    title, hint = "Labeling Ground: find all", "Finds all objects that its labels name."
    what = f"Finds {', '.join(labels)}."
    return _about(FINDER, port, what, name=title, type="detector", spec=spec, help_message=hint)


def _about(function: str, port: int, description: str, **annotations: str) -> dict[str, Any]:
    """A function, as Nuclio describes functions and CVAT reads that. Numbers and truth are texts there."""
    return {
        "metadata": {"name": function, "annotations": {"version": "2", "animated_gif": ""} | annotations},
        "spec": {"description": description},
        "status": {"state": "ready", "httpPort": port},
    }


def _prompts_of(body: Invocation, image: OpenImage) -> list[PromptAsk]:
    corners = body.obj_bbox or []
    if len(corners) % 2:
        raise BadPrompt(f"obj_bbox has {len(corners)} corners; a box has two, opposite to each other.")
    points = [
        point_on(image, x, y, label)
        for label, given in ((1, body.pos_points), (0, body.neg_points))
        for x, y in given or ()
    ]
    boxes = [box_on(image, *first, *second) for first, second in zip(corners[::2], corners[1::2], strict=True)]
    return objects_of(points, boxes)


def _reads_shapes(request: Request) -> bool:
    """Whether this version of CVAT reads shapes; of one that does not say its version that is not known."""
    found = re.search(r"\bCVAT/(\d+)\.(\d+)", request.headers.get("user-agent", ""))
    return found is not None and (int(found[1]), int(found[2])) >= _READS_SHAPES


def _as_shapes(predictions: Sequence[CachedPrediction]) -> bytes:
    """The best mask of each prediction as one of CVAT's shapes. Blocking."""
    shapes = [
        {
            "type": "mask",
            "points": _runs(prediction),
            # As text: another value is passed over.
            "attributes": [{"spec_id": 0, "value": f"{unit_score(prediction.masks[0].score):.4f}"}],
        }
        for prediction in predictions
    ]
    return to_json({"shapes": shapes})


def _as_mask(predictions: Sequence[CachedPrediction]) -> bytes:
    """The best mask of the one prediction as rows of 0 and 255. Blocking."""
    (prediction,) = predictions
    height, width = prediction.height, prediction.width
    bits = mask_codec.from_rle((height, width), prediction.masks[0].counts).view(np.uint8)
    # A row is "[", four characters for each number and the comma behind it, and "],": written all at once, as a list of
    # numbers would take a hundred times the memory.
    numbers = np.frombuffer(b"  0,255,", np.uint32)
    text = np.empty((height, 4 * width + 2), np.uint8)
    text[:, 0] = ord("[")
    text[:, 1:-1] = numbers[bits].view(np.uint8)
    text[:, -2:] = np.frombuffer(b"],", np.uint8)
    return b'{"mask":[' + text.tobytes()[:-1] + b"]}"


def _as_annotations(labels: Sequence[str], found: Sequence[ConceptAnswer], least: float) -> bytes:
    """All instances of each label that score enough, as CVAT reads a detector's: masks not as run lengths, but pixel by
    pixel in their box, and the largest outline beside it, for who wants polygons. Blocking."""
    pieces = []
    for label, answer in zip(labels, found, strict=True):
        for one in answer.found.instances:
            if one.mask.score < least:
                continue
            flat, corners = _in_box(one.mask, (answer.found.height, answer.found.width))
            rings = mask_codec.to_centre_rings(flat.reshape(corners[3] - corners[1] + 1, -1))
            ring = max(rings, key=lambda ring: cv2.contourArea(np.array(ring)))
            points = [edge for x, y in ring for edge in (x + corners[0], y + corners[1])]
            about = to_json({"label": label, "type": "mask", "confidence": f"{one.mask.score:.4f}", "points": points})
            # Two characters for each pixel, written all at once.
            text = np.full((flat.size, 2), ord(","), np.uint8)
            text[:, 0] = flat.view(np.uint8) + ord("0")
            pieces.append(about[:-1] + b',"mask":[' + text.tobytes() + to_json(corners)[1:-1] + b"]}")
    return b"[" + b",".join(pieces) + b"]"


def _in_box(mask: CachedMask, size: tuple[int, int]) -> tuple[NDArray[np.bool_], list[int]]:
    """The pixels of a mask in its box, row by row, and the box: left, top, right and bottom, all within it."""
    left, top, width, height = mask.bbox
    flat = mask_codec.from_rle(size, mask.counts, within=mask.bbox).ravel()
    return flat, [left, top, left + width - 1, top + height - 1]


def _runs(prediction: CachedPrediction) -> list[int]:
    """Run lengths of the best mask, row by row in its box, background first; then left, top, right and bottom of that,
    all within it."""
    best = prediction.masks[0]
    if best.bbox[2] == 0:
        return [0, 0, 0, 0, 0]
    flat, corners = _in_box(best, (prediction.height, prediction.width))
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(ends, prepend=0, append=flat.size).tolist()
    return [*([0] if flat[0] else []), *runs, *corners]
