"""The segmentation calls of Roboflow's ``inference-sdk``. ``docs/tools/roboflow.md`` says how to use it."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, FiniteFloat, field_validator

from labeling_ground.adapters.images import (
    ToolImage,
    box_on,
    choose_finder,
    choose_model,
    in_time,
    max_body_bytes,
    point_on,
    read_with_image,
)
from labeling_ground.api import responses
from labeling_ground.api.adapter import Adapter, Endpoint, Failure
from labeling_ground.api.requests import pools_of, state_of, while_connected
from labeling_ground.api.routes.concepts import check_limits
from labeling_ground.api.state import AppState
from labeling_ground.codec import mask as mask_codec
from labeling_ground.codec.records import CachedMask
from labeling_ground.errors import BadInput, BadPrompt, NotOffered
from labeling_ground.key import canonical_concept
from labeling_ground.sam.everything import keep_best
from labeling_ground.service.asks import PromptAsk
from labeling_ground.service.concepts import ConceptAnswer
from labeling_ground.service.known_texts import OpenImage
from labeling_ground.types import Box, Concept, Exemplar, ModelVersion


class SentPicture(BaseModel):
    """An image as the SDK sends it."""

    type: Literal["base64"]
    value: str


class SentPoint(BaseModel):
    """A click, in pixels; ``positive`` on the object."""

    x: FiniteFloat
    y: FiniteFloat
    positive: bool = True


class SentBox(BaseModel):
    """A box by its centre and size, in pixels."""

    x: FiniteFloat
    y: FiniteFloat
    width: FiniteFloat
    height: FiniteFloat


class SentPrompt(BaseModel):
    """One object."""

    points: list[SentPoint] | None = None
    box: SentBox | None = None


class ImageRequest(BaseModel):
    """What all bodies have: an image, and a key where the SDK was given one."""

    api_key: str | None = None
    image: SentPicture


R = TypeVar("R", bound=ImageRequest)


class EmbedRequest(ImageRequest):
    """The body of ``embed_image``; its ``image_id`` is only answered, as it is no name for what an image holds."""

    image_id: str | None = None
    sam2_version_id: str | None = None


class SegmentRequest(ImageRequest):
    """The body of ``segment_image`` and ``visual_segment``.

    The SDK always names a model version (``hiera_tiny``, unless it is told another). A model of that name answers where
    one is served here, else the default one, and the header ``X-Model-Version`` says which that is.
    """

    prompts: list[SentPrompt]
    multimask_output: bool = True
    format: Literal["json", "polygon", "rle", "binary"] = "json"
    sam2_version_id: str | None = None

    @field_validator("prompts", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        """The SDK sends ``{"prompts": […]}``; its server takes the list alone, and a single prompt, as well."""
        if isinstance(value, dict):
            return value.get("prompts", [value])
        return value


class Corner(BaseModel):
    """An exemplar's box, by its upper left corner and its size, or by two corners, in pixels."""

    x: FiniteFloat | None = None
    y: FiniteFloat | None = None
    width: FiniteFloat | None = None
    height: FiniteFloat | None = None
    x0: FiniteFloat | None = None
    y0: FiniteFloat | None = None
    x1: FiniteFloat | None = None
    y1: FiniteFloat | None = None

    def box(self) -> Box:
        """The box.

        Raises:
            BadPrompt: it is given in neither way.
        """
        if self.x0 is not None and self.y0 is not None and self.x1 is not None and self.y1 is not None:
            return Box(self.x0, self.y0, self.x1, self.y1)
        if self.x is not None and self.y is not None and self.width is not None and self.height is not None:
            return Box(self.x, self.y, self.x + self.width, self.y + self.height)
        raise BadPrompt("A box of a visual prompt has x and y (its upper left corner), width and height; or x0 to y1.")


class ConceptPrompt(BaseModel):
    """What to find: a phrase, boxes around examples (``box_labels``: 1 positive, 0 negative), or both."""

    type: str | None = None
    text: str | None = None
    boxes: list[Corner] | None = None
    box_labels: list[int] | None = None
    output_prob_thresh: FiniteFloat | None = None

    def concept(self) -> Concept:
        """The same in canonical form.

        Raises:
            BadPrompt: it makes no sense.
        """
        boxes = self.boxes or []
        labels = [1] * len(boxes) if self.box_labels is None else self.box_labels
        if len(labels) != len(boxes):
            raise BadPrompt(f"A prompt has {len(boxes)} boxes and {len(labels)} box_labels: give one for each.")
        exemplars = [Exemplar(one.box(), label == 1) for one, label in zip(boxes, labels, strict=True)]
        return canonical_concept(self.text or None, exemplars)


class ConceptRequest(ImageRequest):
    """The body of ``concept_segment``.

    The SDK always names a model (``sam3/sam3_final``, unless it is told another): see ``choose_finder``.
    """

    prompts: list[ConceptPrompt] = Field(min_length=1)
    output_prob_thresh: FiniteFloat = 0.5
    nms_iou_threshold: FiniteFloat | None = None
    format: Literal["json", "polygon", "rle"] = "polygon"
    model_id: str | None = None


def create(app_state: AppState) -> Adapter:
    """The adapter of one server."""
    largest = max_body_bytes(app_state.settings)

    def at(handle: Callable[[Request], Awaitable[Response]], *paths: str) -> Endpoint:
        both = tuple(prefix + path for prefix in ("", "/roboflow") for path in paths)
        return Endpoint("POST", both, handle, largest, _failure)

    return Adapter(
        "roboflow",
        (
            at(segment, "/sam2/segment_image", "/sam3/visual_segment"),
            at(embed, "/sam2/embed_image", "/sam3/embed_image"),
            at(find, "/sam3/concept_segment"),
            at(infer_3d, "/sam3_3d/infer"),
        ),
    )


async def segment(request: Request) -> Response:
    """A mask for each prompt."""
    started = time.perf_counter()
    body, image = await _read(request, SegmentRequest)
    if body.format == "binary":
        raise BadInput("The format 'binary' is not answered, as the SDK cannot read it. Use 'rle' or 'json'.")
    await choose_model(request, body.sam2_version_id)
    found = await image.segment(lambda opened: prompts_of(body.prompts, opened, multimask=body.multimask_output))
    predictions = []
    for made in (answer.prediction for answer in found):
        size, drawing = (made.height, made.width), pools_of(request).drawing
        predictions.append(await drawing.run(_shown, made.masks[0], size, body.format))
    return _answer({"predictions": predictions}, started, found[0].version if found else None)


async def embed(request: Request) -> Response:
    """The image is encoded, so that clicks on it are fast."""
    started = time.perf_counter()
    body, image = await _read(request, EmbedRequest)
    await choose_model(request, body.sam2_version_id)
    opened = await while_connected(request, in_time(request, image.open()))
    return _answer({"image_id": body.image_id or opened.image_id}, started)


async def find(request: Request) -> Response:
    """All instances of each concept."""
    started = time.perf_counter()
    body, image = await _read(request, ConceptRequest)
    boxes = sum(len(prompt.boxes or ()) for prompt in body.prompts)
    check_limits([prompt.text or "" for prompt in body.prompts], boxes, state_of(request).settings)
    wanted = [prompt.concept() for prompt in body.prompts]
    found = await image.find(await choose_finder(request, body.model_id, wanted), wanted)
    results = await pools_of(request).drawing.run(_prompt_results, body, found, background=True)
    return _answer({"prompt_results": results}, started, found[0].version)


async def infer_3d(request: Request) -> Response:
    """Nothing: its client shall read why, in the field where it looks.

    Raises:
        NotOffered: always.
    """
    raise NotOffered("Objects in three dimensions (sam3_3d_infer) are not computed here, only masks.")


async def _read(request: Request, model: type[R]) -> tuple[R, ToolImage]:
    in_address = request.query_params.get("api_key")
    return await read_with_image(request, model, lambda body: body.image.value, lambda body: (body.api_key, in_address))


def _answer(fields: dict[str, Any], started: float, version: ModelVersion | None = None) -> Response:
    """The fields and the seconds since ``started``; a header names the model that answered."""
    response = responses.as_json(fields | {"time": time.perf_counter() - started})
    if version is not None:
        response.headers["X-Model-Version"] = str(version)
    return response


def prompts_of(sent: Sequence[SentPrompt], image: OpenImage, *, multimask: bool) -> list[PromptAsk]:
    """What the SDK's prompts ask for on an image."""
    return [
        PromptAsk(
            [point_on(image, point.x, point.y, int(point.positive)) for point in prompt.points or ()],
            None if prompt.box is None else _corners(prompt.box, image),
            multimask=multimask,
        )
        for prompt in sent
    ]


def _corners(box: SentBox, image: OpenImage) -> Box:
    across, down = box.width / 2, box.height / 2
    return box_on(image, box.x - across, box.y - down, box.x + across, box.y + down)


def _prompt_results(body: ConceptRequest, found: Sequence[ConceptAnswer]) -> list[dict[str, Any]]:
    """What was found of each prompt: what scores enough, and of what overlaps too much the best. Blocking."""
    listed = []
    for number, (prompt, answer) in enumerate(zip(body.prompts, found, strict=True)):
        least = body.output_prob_thresh if prompt.output_prob_thresh is None else prompt.output_prob_thresh
        listed += [(number, answer.found, one.mask) for one in answer.found.instances if one.mask.score >= least]
    kept = list(range(len(listed)))
    if body.nms_iou_threshold is not None:
        masks = [mask for *_, mask in listed]
        kept = sorted(keep_best([one.bbox for one in masks], [one.score for one in masks], body.nms_iou_threshold))
    shown: list[list[dict[str, Any]]] = [[] for _ in body.prompts]
    for number, of, mask in (listed[index] for index in kept):
        shown[number].append(_shown(mask, (of.height, of.width), body.format))
    return [
        {
            "prompt_index": number,
            "echo": {
                "prompt_index": number,
                "type": prompt.type or ("visual" if prompt.boxes else "text"),
                "text": prompt.text,
                "num_boxes": len(prompt.boxes or ()),
            },
            "predictions": shown[number],
        }
        for number, prompt in enumerate(body.prompts)
    ]


def _shown(best: CachedMask, size: tuple[int, int], form: str) -> dict[str, Any]:
    if form == "rle":
        return {"masks": {"size": size, "counts": best.counts}, "confidence": best.score, "format": "rle"}
    rings = mask_codec.to_centre_rings(mask_codec.from_rle(size, best.counts))
    return {"masks": rings, "confidence": best.score, "format": "polygon"}


def _failure(failure: Failure) -> tuple[int, dict[str, Any]]:
    return failure.status, {"message": failure.detail, "code": failure.type}
