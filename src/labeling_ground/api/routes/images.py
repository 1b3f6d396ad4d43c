"""``/v1/images``: send an image once, ask for masks on it for ever."""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import AfterValidator

from labeling_ground import key as keys
from labeling_ground.api import responses
from labeling_ground.api.errors import problem_responses
from labeling_ground.api.requests import (
    caller_of,
    media_type,
    model_for,
    model_named,
    pools_of,
    read_image,
    read_json,
    request_log_of,
    state_of,
    while_connected,
)
from labeling_ground.api.schemas.common import (
    CLIENT_ID,
    EXAMPLE_ID,
    IMAGE_ID,
    MODEL,
    PRIORITY,
    STRETCH,
    Purged,
    json_body,
    reference,
)
from labeling_ground.api.schemas.images import ImageAtUrl, ImageOut, ImageQueued, ImageStateOut
from labeling_ground.api.schemas.masks import MaskIn, MaskRef, MasksOut, MasksRequest, PromptIn
from labeling_ground.codec import base64_text, tensors
from labeling_ground.codec.mask import png_size
from labeling_ground.codec.walk import accepted
from labeling_ground.errors import BadPrompt, TooLarge
from labeling_ground.service.asks import GivenMask, ImageAnswer, PromptAsk
from labeling_ground.service.sources import Link
from labeling_ground.settings import Settings
from labeling_ground.types import Box, Point, Stretch

router = APIRouter(prefix="/v1/images", tags=["images and masks"])

ImageId = Annotated[
    str,
    Path(
        pattern=IMAGE_ID,
        description="SHA-256 of the image file's bytes, 64 hex digits. A client can compute it, ask "
        "`GET /v1/images/{image_id}` first, and send the file only if it is not known. With `~stretch-0.5-99.5` behind "
        "it, it is the image whose values are stretched between these percentiles.",
        examples=[EXAMPLE_ID],
        openapi_examples={"example": {"summary": "The image of the examples", "value": EXAMPLE_ID}},
    ),
    AfterValidator(str.lower),
]
Model = Annotated[str | None, Query(description="A model id of `/v1/models`; the default one if left out.")]

_FILE = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "",
    summary="Send an image",
    response_model=ImageOut,
    responses={
        202: {
            "model": ImageQueued,
            "description": "With `wait=false`: taken on, encoded when its turn comes",
        },
        **problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 502, 503, 507),
    },
    openapi_extra={
        "parameters": [CLIENT_ID, PRIORITY],
        "requestBody": {
            "required": True,
            "description": f"The image file itself ({accepted()}), a form with one file in it, or JSON with its "
            "address.",
            "content": {  # the first one is what /docs tries
                "application/octet-stream": _FILE,
                **{f"image/{kind}": _FILE for kind in ("jpeg", "png", "webp", "avif", "heic", "gif", "bmp", "tiff")},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"file": {"type": "string", "format": "binary"}},
                        "required": ["file"],
                    }
                },
                "application/json": {"schema": reference(ImageAtUrl)},
            },
        },
    },
)
async def upload_image(
    request: Request,
    wait: Annotated[
        bool,
        Query(description="`false`: queue it for encoding and answer 202 at once (a prefetch)."),
    ] = True,
    model: Model = None,
    stretch: Annotated[
        str | None,
        Query(
            pattern=STRETCH,
            examples=["0.5,99.5"],
            description="Two percentiles: the values between them are spread over the full range, for data of 10 to 14 "
            "bits in 16-bit files, which are dark otherwise. It is another image then, with an `image_id` of its own: "
            "the digest and `~stretch-0.5-99.5`.",
        ),
    ] = None,
) -> Response:
    """Encode an image, unless somebody sent it before. The answer comes when clicks can be answered fast.

    The image id is the SHA-256 of the file's bytes; ask for masks under it. To try it, save
    [the image of the examples](docs/static/example.png) and choose that file. With `{"url": …}` the server fetches the
    file itself, from the hosts that its operator has named.
    """
    app_state, caller = state_of(request), caller_of(request)
    app_state.models.name_of(model)  # one that is not served is refused before the file is read
    read_as = stretch_from(stretch)
    record, sources = request_log_of(request), app_state.sources
    url, file, image_id = "", b"", ""
    if media_type(request) == "application/json":
        url = (await read_json(request, ImageAtUrl.model_validate_json)).url
    else:
        file, digest = await read_image(request, app_state.settings.max_image_bytes)
        image_id = keys.stretched(digest, read_as)
        record.fields["image"] = image_id[:12]
    predictor = (await model_for(request, model)).predictor
    link = Link(predictor, caller.tenant, url, read_as, caller.client)
    if wait:
        opening = (
            sources.open_image(link)
            if url
            else predictor.open_image(caller.tenant, file, image_id, client=caller.client)
        )
        answer = await while_connected(request, opening)
        record.fields["image"] = answer.image_id[:12]
        record.note(answer.outcome, answer.timing)
        return responses.as_json(_added(answer))
    if url:
        image_id, ahead = await while_connected(request, sources.prefetch(link))
        record.fields["image"] = image_id[:12]
    else:
        ahead = await predictor.prefetch(caller.tenant, file, image_id, client=caller.client)
    said = responses.origin(ahead.version, ahead.model_note)
    return responses.as_json({"image_id": image_id, **said, "queued": ahead.queued}, status=202)


def _added(answer: ImageAnswer) -> dict[str, Any]:
    return {
        "image_id": answer.image_id,
        "width": answer.width,
        "height": answer.height,
        "outcome": answer.outcome,
        "seconds": round(answer.timing.total, 6),
        "use_preview": answer.use_preview,
        **responses.origin(answer.version, answer.model_note, answer.note),
        **responses.of_embedding(answer.is_int8),
    }


@router.get(
    "/{image_id}",
    summary="Is this image known, and is it encoded?",
    response_model=ImageStateOut,
    responses=problem_responses(401, 404, 422, 503, 507),
)
async def get_image(
    request: Request,
    image_id: ImageId,
    model: Model = None,
    waiting: Annotated[
        bool,
        Query(
            description="`true`: somebody waits at a screen for it. An image that is queued as a prefetch goes before "
            "the other prefetches then."
        ),
    ] = False,
) -> Response:
    """200 if it is known: masks can be asked for without sending it. 404 if not: send it."""
    caller, image_id = caller_of(request), image_id.lower()
    predictor = (await model_for(request, model)).predictor
    state = await predictor.image_state(caller.tenant, image_id, waiting=waiting)
    return responses.as_json(
        {
            "image_id": image_id,
            "known": True,
            "encoded": state.encoded,
            "encoding": state.encoding,
            "place": state.place,
            "seconds_expected": None if state.seconds_expected is None else round(state.seconds_expected, 3),
            "width": state.width,
            "height": state.height,
            "use_preview": state.use_preview,
            **responses.origin(state.version, state.model_note, state.note),
            **responses.of_embedding(state.is_int8),
        }
    )


@router.get(
    "/{image_id}/preview",
    summary="The image as it is segmented",
    response_class=Response,
    responses={
        200: {
            "description": "The decoded pixels: upright, 8-bit RGB, in the width and height of all coordinates.",
            "content": {"image/png": _FILE, "image/jpeg": _FILE},
        },
        **problem_responses(400, 401, 404, 413, 415, 422, 503, 507),
    },
)
async def get_image_preview(
    request: Request,
    image_id: ImageId,
    format: Annotated[  # noqa: A002 -- the parameter's name in the API
        Literal["png", "jpeg"],
        Query(description="`png`: the very pixels. `jpeg`: nearly so, in fewer bytes and less time."),
    ] = "png",
    model: Model = None,
) -> Response:
    """For pages: what browsers cannot draw, or draw in another way (`use_preview` in the answers about the image)."""
    caller = caller_of(request)
    predictor = (await model_for(request, model)).predictor

    async def work() -> bytes:
        async with predictor.picture(caller.tenant, image_id) as image:
            return await pools_of(request).drawing.run(responses.drawn, image, format, background=True)

    content = await while_connected(request, work())
    return Response(content, headers={"Cache-Control": "private, no-store"}, media_type=f"image/{format}")


@router.get(
    "/{image_id}/embedding",
    summary="The image's embedding",
    response_class=Response,
    openapi_extra={"parameters": [PRIORITY]},
    responses={
        200: {
            "description": "A safetensors file: the model's tensors by name; `width`, `height`, `image_id`, `model` "
            "and `model_version` in its metadata.",
            "content": {"application/octet-stream": _FILE},
        },
        **problem_responses(400, 401, 404, 422, 503, 507),
    },
)
async def get_image_embedding(request: Request, image_id: ImageId, model: Model = None) -> Response:
    """For clients that run the decoder themselves. Floats are in the precision that the server stores."""
    caller = caller_of(request)
    predictor = (await model_for(request, model)).predictor

    async def work() -> tuple[ImageAnswer, bytes]:
        found, answer = await predictor.embedding(caller.tenant, image_id)
        request_log_of(request).note(answer.outcome, answer.timing)
        version = answer.version
        metadata = {"image_id": image_id, "model": version.model, "model_version": str(version)}
        write = partial(tensors.to_safetensors, found, metadata=metadata)
        return answer, await pools_of(request).drawing.run(write)

    answer, content = await while_connected(request, work())
    headers = {"X-Outcome": answer.outcome, "X-Model-Version": str(answer.version)}
    return Response(content, headers=headers, media_type="application/octet-stream")


@router.post(
    "/{image_id}/masks",
    summary="Masks for one or many prompts",
    response_model=MasksOut,
    responses=problem_responses(400, 401, 404, 408, 413, 415, 422, 503, 507),
    openapi_extra={"parameters": [MODEL, CLIENT_ID, PRIORITY], **json_body(MasksRequest)},
)
async def predict_masks(request: Request, image_id: ImageId) -> Response:
    """Points and boxes are in pixels of the original image. A prompt that is still in the cache is not
    computed again.

    One prompt directly in the body is answered with `masks` and `scores` at the top; several under `prompts` are
    answered one by one under `predictions`, in their order. `outcome` is the dearest of them.
    """
    app_state, caller = state_of(request), caller_of(request)
    image_id = image_id.lower()
    body, asks = await read_json(request, _prompts_in)
    check_counts(asks, app_state.settings)
    predictor = (await model_for(request, model_named(request, body.model))).predictor
    record = request_log_of(request)
    record.fields |= {"image": image_id[:12], "prompts": len(asks)}
    found = predictor.masks_at_once(caller.tenant, image_id, asks, client=caller.client)
    if not isinstance(found, list):
        found = await while_connected(request, found())
    for answer in found:
        record.note(answer.outcome, answer.timing)
    drawn = None
    if body.format != "rle":
        drawing = responses.drawn_masks(found, body.format, app_state.predictor.pools.drawing)
        drawn = await while_connected(request, drawing)
    return responses.masks_answer(image_id, found, drawn, is_alone=body.prompts is None)


@router.delete(
    "/{image_id}",
    summary="Forget an image",
    response_model=Purged,
    responses=problem_responses(401, 422, 503),
)
async def delete_image(request: Request, image_id: ImageId) -> Response:
    """Delete the file, its embeddings and masks by every model and with every stretch, from all tiers."""
    app_state, caller = state_of(request), caller_of(request)
    return responses.as_json({"deleted": await app_state.predictor.purge(caller.tenant, image_id=image_id)})


def stretch_from(text: str | None) -> Stretch | None:
    """The stretch that a request asks for, of the form ``STRETCH``.

    Raises:
        BadInput: the percentiles are none.
    """
    return None if text is None else Stretch(*map(float, text.split(",")))


def check_counts(prompts: Sequence[PromptIn | PromptAsk], settings: Settings) -> None:
    """Refuse more prompts in one request, or points in one prompt, than the operator allows.

    Raises:
        TooLarge: there are more.
    """
    if len(prompts) > settings.max_prompts:
        raise TooLarge(
            f"{len(prompts)} prompts in one request; this server takes {settings.max_prompts}. Send several requests."
        )
    most = max([len(prompt.points) for prompt in prompts], default=0)
    if most > settings.max_points:
        raise TooLarge(f"{most} points in one prompt; this server takes {settings.max_points}.")
    for prompt in prompts:
        given = prompt.mask_input
        if isinstance(given, GivenMask) and given.width * given.height > settings.max_image_pixels:
            raise TooLarge(
                f"The mask_input has {given.width} × {given.height} pixels; images of at most "
                f"{settings.max_image_pixels:,} are taken here."
            )


def _prompts_in(text: bytes) -> tuple[MasksRequest, tuple[PromptAsk, ...]]:
    """What the JSON of a request asks for; the same click asked for again was read before."""
    return _read_click(text) if len(text) <= _CLICK else _read_prompts(text)


def _read_prompts(text: bytes) -> tuple[MasksRequest, tuple[PromptAsk, ...]]:
    body = MasksRequest.model_validate_json(text)
    return body, tuple(_ask(prompt, multimask=body.multimask) for prompt in body.prompts or [body])


_CLICK = 1024
"""Bytes of JSON up to which it is remembered how it was read: a few thousand clicks take a few MB."""
_read_click = lru_cache(2048)(_read_prompts)


def _ask(prompt: PromptIn, *, multimask: bool) -> PromptAsk:
    mask_input: NDArray[np.float32] | GivenMask | tuple[str, int] | None = None
    if isinstance(prompt.mask_input, MaskRef):
        mask_input = (prompt.mask_input.prediction_id, prompt.mask_input.index)
    elif isinstance(prompt.mask_input, MaskIn):
        mask_input = _given(prompt.mask_input)
    elif prompt.mask_input is not None:
        mask_input = _logits(prompt.mask_input)
    return PromptAsk(
        points=[Point(point.x, point.y, point.label) for point in prompt.points],
        box=None if prompt.box is None else Box(*prompt.box),
        mask_input=mask_input,
        multimask=multimask,
    )


def _given(mask: MaskIn) -> GivenMask:
    if mask.rle is not None:
        height, width = mask.rle.size
        return GivenMask(width, height, mask.rle.counts)
    try:
        png = base64_text.decode(mask.png or "")
    except ValueError as error:
        raise BadPrompt(f"mask_input.png {error}.") from None
    return GivenMask(*png_size(png), png)


def _logits(text: str) -> NDArray[np.float32]:
    try:
        raw = base64_text.decode(text)
    except ValueError as error:
        raise BadPrompt(f"mask_input {error}.") from None
    types = {256 * 256 * 2: "<f2", 256 * 256 * 4: "<f4"}
    if len(raw) not in types:
        raise BadPrompt(f"mask_input holds {len(raw)} bytes; 256 × 256 float16 are 131072, float32 are 262144.")
    return np.frombuffer(raw, dtype=types[len(raw)]).reshape(256, 256).astype(np.float32)


DIRECT = (predict_masks, get_image)
