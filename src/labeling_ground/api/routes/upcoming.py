"""``/v1/upcoming``: what a client will open next."""

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from labeling_ground import key as keys
from labeling_ground.api import responses
from labeling_ground.api.errors import problem_responses
from labeling_ground.api.requests import caller_of, model_for, model_named, read_json, state_of, while_connected
from labeling_ground.api.schemas.common import CLIENT_ID, MODEL, json_body
from labeling_ground.api.schemas.upcoming import UpcomingIn, UpcomingOut
from labeling_ground.errors import BadInput, TooLarge, UnknownImage, UnreachableImage
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.upcoming import Reader

router = APIRouter(prefix="/v1", tags=["images and masks"])


@router.post(
    "/upcoming",
    summary="Say which images will be opened next",
    status_code=202,
    response_model=UpcomingOut,
    responses=problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 503),
    openapi_extra={"parameters": [MODEL, CLIENT_ID | {"required": True}], **json_body(UpcomingIn)},
)
async def announce_images(request: Request) -> Response:
    """The next images of the list are encoded while nobody waits, and stay in the cache until they were opened.

    A list is followed as far as it proves true: not before an image from its beginning is opened (or is on the screen
    already and stands first in it), then further with each one, and less with each image that is opened instead. So a
    wrong list costs no more than none. Each list takes the place of the client's earlier one.
    """
    app_state, caller = state_of(request), caller_of(request)
    body = await read_json(request, UpcomingIn.model_validate_json)
    if caller.client is None:
        raise BadInput("Whose list is this? Say who opens the images, in the header X-Client-Id.")
    most = app_state.settings.upcoming_images
    if len(body.images) > most:
        raise TooLarge(f"The list has {len(body.images)} images; this server takes {most}. Send the first ones.")
    images = [image.lower() if keys.is_image_id(image.lower()) else image for image in body.images]
    for image in images:
        if not keys.is_image_id(image):
            app_state.sources.fetcher.check(image)
    model = model_named(request, body.model)
    served = await model_for(request, model)
    reader = Reader(caller.tenant, caller.client, model)
    ahead = app_state.upcoming.announce(reader, images)
    first = [image for image in images[: app_state.settings.prefetch_per_client] if keys.is_image_id(image)]
    known = await while_connected(request, _are_known(served.predictor, caller.tenant, first))
    return responses.as_json(
        {
            "listed": len(set(images)),
            "ahead": ahead,
            "unknown": [image for image, is_known in zip(first, known, strict=True) if not is_known],
        },
        status=202,
    )


async def _are_known(predictor: Predictor, tenant: str, image_ids: Sequence[str]) -> list[bool]:
    return await asyncio.gather(*(_is_known(predictor, tenant, image_id) for image_id in image_ids))


async def _is_known(predictor: Predictor, tenant: str, image_id: str) -> bool:
    try:
        await predictor.image_state(tenant, image_id)
    except UnreachableImage:  # it may be there: nobody need send it for that
        return True
    except UnknownImage:
        return False
    return True
