"""Images that a tool sends whole, in base64, with every click: a repeated one is known by its text, and not read."""

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from labeling_ground import key as keys
from labeling_ground.api.requests import (
    Caller,
    image_of_base64,
    model_for,
    pools_of,
    predictor_of,
    read_json,
    request_log_of,
    state_of,
    while_connected,
)
from labeling_ground.api.routes.concepts import capabilities_for, concepts_of
from labeling_ground.api.routes.images import check_counts
from labeling_ground.errors import Overloaded, UnknownImage, UnknownModel
from labeling_ground.service.concepts import ConceptAnswer, Concepts
from labeling_ground.service.model_pool import LoadedModel
from labeling_ground.service.predictor import MaskAnswer, PromptAsk
from labeling_ground.settings import Settings
from labeling_ground.types import Box, Concept, Point

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_BESIDE_THE_IMAGE = 4 << 20
"""Bytes of what a tool sends besides an image."""


@dataclass(frozen=True, slots=True)
class OpenImage:
    """An image that was opened here: its id, and its width and height in pixels."""

    image_id: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image as a tool sent it: base64 text (or a ``data:`` URL), and its digest, by which it is known again."""

    text: str
    digest: bytes


class KnownTexts:
    """Which image a base64 text is, for each tenant.

    The texts that were used last are known, so many for each tenant. Knowing one saves decoding its base64 and hashing
    the file; it does not say that the image is still in the cache.

    Args:
        most: texts that are known for one tenant.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[str, OrderedDict[bytes, OpenImage]] = {}

    def find(self, tenant: str, digest: bytes) -> OpenImage | None:
        """The image of a text; ``None`` where it is not known."""
        known = self._of.get(tenant, OrderedDict())
        if digest in known:
            known.move_to_end(digest)
        return known.get(digest)

    def add(self, tenant: str, digest: bytes, image: OpenImage) -> None:
        """Know a text from now on."""
        known = self._of.setdefault(tenant, OrderedDict())
        known[digest] = image
        known.move_to_end(digest)
        if len(known) > self._most:
            known.popitem(last=False)


def max_body_bytes(settings: Settings) -> int:
    """The largest body with a whole image in base64, which makes four bytes of three."""
    return int(settings.max_image_bytes) * 4 // 3 + _BESIDE_THE_IMAGE


async def read_with_image(request: Request, model: type[M], text_of: Callable[[M], str]) -> tuple[M, SentImage]:
    """A JSON body with an image in base64, as a value of ``model``; and the image. In a thread where it is large.

    Args:
        request: whose body is read.
        model: what the body shall be.
        text_of: where in it the image is.

    Raises:
        BadBody, EncodedBody, UnreadMediaType: as in ``read_json``.
    """

    def parse(content: bytes) -> tuple[M, SentImage]:
        body = model.model_validate_json(content)
        text = text_of(body)
        return body, SentImage(text, hashlib.sha256(text.encode()).digest())

    return await read_json(request, parse)


async def choose_model(request: Request, name: str | None) -> LoadedModel:
    """The model that the tool's address names (``?model=``, or a part of its path), else that of this name if it is
    served here, else the default one; it answers this request.

    The name comes in the tool's own words: a tool that always names one of its own is answered, too.

    Raises:
        UnknownModel: the address names one that is not served here.
        Overloaded, BackendFailed, ClientDisconnect: as in ``model_for``.
    """
    return await model_for(request, _named(request, name))


async def choose_finder(request: Request, name: str | None, wanted: Sequence[Concept]) -> Concepts:
    """What finds these concepts by the model that is named, as in ``choose_model``, else by the first that can.

    Raises:
        BadPrompt, NotOffered: the one that is named does not take them; none does.
        UnknownModel, Overloaded, BackendFailed, ClientDisconnect: as in ``choose_model``.
    """
    named, models = _named(request, name), state_of(request).models
    if not named:
        needed = capabilities_for(wanted)
        named = next((each.id for each in models.statuses() if needed <= {*each.facts.capabilities}), None)
    return concepts_of(await model_for(request, named), models, wanted)


def _named(request: Request, name: str | None) -> str | None:
    named = request.path_params.get("model") or request.query_params.get("model")
    if not named and name:
        with contextlib.suppress(UnknownModel):
            named = state_of(request).models.name_of(name)
    return named or None


async def open_sent(request: Request, caller: Caller, sent: SentImage, texts: KnownTexts) -> OpenImage:
    """The image that was sent, encoded unless it was before; its text is known from then on.

    Raises:
        BadBody: the text is no base64.
        TooLarge, BadImage, Overloaded, BackendFailed, NoRoom: as in the service's ``open_image``.
    """
    app_state = state_of(request)
    most_bytes = int(app_state.settings.max_image_bytes)
    file, image_id = await pools_of(request).requests.run(image_of_base64, sent.text, most_bytes, "The image")
    answer = await predictor_of(request).open_image(caller.tenant, file, image_id, client=caller.client)
    request_log_of(request).note(answer.outcome, answer.timing)
    image = OpenImage(image_id, answer.width, answer.height)
    texts.add(caller.tenant, sent.digest, image)
    return image


async def find_sent(
    request: Request, caller: Caller, sent: SentImage, texts: KnownTexts, finder: Concepts, wanted: Sequence[Concept]
) -> list[ConceptAnswer]:
    """What is found of each concept, in their order, on an image that came in base64.

    Raises:
        BadPrompt, BackendFailed: as in the service's ``Concepts.find``; and what ``open_sent`` raises.
        Overloaded: as there, or it was not ready before ``adapter_deadline_s``.
        ClientDisconnect: the client left.
    """
    record = request_log_of(request)

    async def find_on(image: OpenImage) -> list[ConceptAnswer]:
        record.fields |= {"image": image.image_id[:12], "concepts": len(wanted)}
        found = finder.find(caller.tenant, image.image_id, wanted, client=caller.client)
        answers = [answer for _, answer in sorted([each async for each in found], key=lambda each: each[0])]
        for answer in answers:
            record.note(answer.outcome, answer.timing)
        return answers

    known = texts.find(caller.tenant, sent.digest)
    work = _with_image(known, lambda: open_sent(request, caller, sent, texts), find_on)
    return await while_connected(request, in_time(request, work))


async def segment_sent(
    request: Request,
    caller: Caller,
    sent: SentImage,
    texts: KnownTexts,
    prompts_on: Callable[[OpenImage], Sequence[PromptAsk]],
) -> tuple[OpenImage, list[MaskAnswer]]:
    """The masks for a click that came with its image in base64. See ``segment``."""
    known = texts.find(caller.tenant, sent.digest)
    return await segment(request, caller, known, lambda: open_sent(request, caller, sent, texts), prompts_on)


async def segment(
    request: Request,
    caller: Caller,
    known: OpenImage | None,
    open_image: Callable[[], Awaitable[OpenImage]],
    prompts_on: Callable[[OpenImage], Sequence[PromptAsk]],
) -> tuple[OpenImage, list[MaskAnswer]]:
    """The masks for a tool's click, in the prompts' order, on an image that is opened if it is not in the cache (any
    more); while the client is connected.

    Args:
        request: the click, whose log line is told the outcome.
        caller: who clicks.
        known: the image, where it is known without opening it.
        open_image: opens it.
        prompts_on: what is asked for on the image, whose size it may need.

    Raises:
        BadPrompt, TooLarge, BackendFailed: as in the service's ``masks``; and what ``open_image`` raises.
        Overloaded: as there, or it was not ready before ``adapter_deadline_s``.
        ClientDisconnect: the client left.
    """
    app_state, record = state_of(request), request_log_of(request)

    async def masks_on(image: OpenImage) -> tuple[OpenImage, list[MaskAnswer]]:
        prompts = prompts_on(image)
        check_counts(prompts, app_state.settings)
        record.fields |= {"image": image.image_id[:12], "prompts": len(prompts)}
        if not prompts:
            return image, []
        found = await predictor_of(request).masks(caller.tenant, image.image_id, prompts, client=caller.client)
        for answer in found:
            record.note(answer.outcome, answer.timing)
        return image, found

    return await while_connected(request, in_time(request, _with_image(known, open_image, masks_on)))


async def on_sent(
    request: Request,
    caller: Caller,
    sent: SentImage,
    texts: KnownTexts,
    use: Callable[[OpenImage], Awaitable[T]],
) -> T:
    """What ``use`` makes of an image that came in base64, which is opened if it is not in the cache (any more); while
    the client is connected, however long that takes.

    Raises:
        BadBody, TooLarge, BadImage, Overloaded, BackendFailed, NoRoom: as in ``open_sent``; and what ``use`` raises.
        ClientDisconnect: the client left.
    """
    known = texts.find(caller.tenant, sent.digest)
    work = _with_image(known, lambda: open_sent(request, caller, sent, texts), use)
    return await while_connected(request, work)


async def _with_image(
    known: OpenImage | None, open_image: Callable[[], Awaitable[OpenImage]], use: Callable[[OpenImage], Awaitable[T]]
) -> T:
    if known is not None:
        try:
            return await use(known)
        except UnknownImage:
            pass  # it was evicted or purged; here it comes again
    return await use(await open_image())


async def in_time(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` comes to, before the tool itself gives up. What an engine has begun by then goes on, and is kept.

    Raises:
        Overloaded: it was not ready before ``adapter_deadline_s``.
    """
    seconds = state_of(request).settings.adapter_deadline_s
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await work
    except TimeoutError:
        if not deadline.expired():
            raise
        raise Overloaded(f"The model did not get to it within {seconds:g} seconds. Try again in a moment.") from None


def point_on(image: OpenImage, x: float, y: float, label: int) -> Point:
    """A click, taken back onto the image where a tool's rounding has put it on or over the edge."""
    return Point(min(max(x, 0.0), image.width - keys.STEP), min(max(y, 0.0), image.height - keys.STEP), label)


def box_on(image: OpenImage, x0: float, y0: float, x1: float, y1: float) -> Box:
    """A box, what reaches over the edge cut off."""
    return Box(
        *(
            min(max(x, 0.0), float(size))
            for x, size in zip((x0, y0, x1, y1), (image.width, image.height) * 2, strict=True)
        )
    )


def objects_of(points: Sequence[Point], boxes: Sequence[Box]) -> list[PromptAsk]:
    """The prompts that marks on one image stand for: one for each box, or one for all points.

    Points refine the box, where there is one. Where there are several, a point belongs to those that it lies in; points
    on the object that lie in none are one more object, and points off the object that lie in none go with all.
    """
    if len(boxes) < 2:
        return [PromptAsk(points, boxes[0] if boxes else None)]
    inside = [[point for point in points if _lies_in(point, box)] for box in boxes]
    alone = [point for point in points if not any(_lies_in(point, box) for box in boxes)]
    off = [point for point in alone if point.label == 0]
    prompts = [PromptAsk([*own, *off], box) for own, box in zip(inside, boxes, strict=True)]
    return [*prompts, PromptAsk(alone)] if len(off) < len(alone) else prompts


def _lies_in(point: Point, box: Box) -> bool:
    x0, x1 = sorted((box.x0, box.x1))
    y0, y1 = sorted((box.y0, box.y1))
    return x0 <= point.x <= x1 and y0 <= point.y <= y1
