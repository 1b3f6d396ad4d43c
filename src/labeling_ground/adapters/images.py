"""Images that a tool sends whole, in base64, with every click: a repeated one is known by its text, and not read."""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from labeling_ground import key as keys
from labeling_ground.api.requests import (
    Caller,
    caller_of,
    image_of_base64,
    model_for,
    pools_of,
    predictor_of,
    read_json,
    request_log_of,
    state_of,
    while_connected,
)
from labeling_ground.api.routes.concepts import capabilities_for, check_limits, concepts_of
from labeling_ground.api.routes.images import check_counts
from labeling_ground.errors import Overloaded, UnknownImage, UnknownModel
from labeling_ground.key import canonical_concept
from labeling_ground.service.asks import MaskAnswer, PromptAsk
from labeling_ground.service.concepts import ConceptAnswer, Concepts
from labeling_ground.service.known_texts import OpenImage
from labeling_ground.service.model_pool import LoadedModel
from labeling_ground.settings import Settings
from labeling_ground.types import Box, Concept, Point

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_BESIDE_THE_IMAGE = 4 << 20
"""Bytes of what a tool sends besides an image."""


def max_body_bytes(settings: Settings) -> int:
    """The largest body with a whole image in base64, which makes four bytes of three."""
    return int(settings.max_image_bytes) * 4 // 3 + _BESIDE_THE_IMAGE


async def read_with_image(
    request: Request,
    model: type[M],
    text_of: Callable[[M], str],
    keys_in: Callable[[M], Sequence[str | None]] | None = None,
) -> tuple[M, "ToolImage"]:
    """A JSON body with an image in base64 (or a ``data:`` URL), as a value of ``model``; and the image.

    Args:
        request: whose body is read; in a thread where it is large.
        model: what the body shall be.
        text_of: where in it the image is.
        keys_in: API keys of the body and of the address, for tools that send them there.

    Raises:
        NotAllowed: see ``caller_of``; before the body is read, unless that may hold the key.
        BadBody, EncodedBody, UnreadMediaType: as in ``read_json``.
    """
    caller = None if keys_in else caller_of(request)

    def parse(content: bytes) -> tuple[M, str, bytes]:
        body = model.model_validate_json(content)
        text = text_of(body)
        return body, text, hashlib.sha256(text.encode()).digest()

    body, text, digest = await read_json(request, parse)
    if caller is None:
        caller = caller_of(request, *(keys_in(body) if keys_in else ()))
    known = state_of(request).known_texts.find(caller.tenant, digest)
    return body, ToolImage(request, caller, known, partial(_open_text, request, caller, text, digest))


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


def concepts_in(text: str, settings: Settings) -> list[Concept]:
    """The phrases of a text prompt, which commas part, or full stops where there is no comma; each counts once.

    Raises:
        BadPrompt: there is none.
        TooLarge: there are too many.
    """
    phrases = [part for part in text.split("," if "," in text else ".") if part.strip()]
    check_limits(phrases, 0, settings)
    return list(dict.fromkeys(canonical_concept(phrase) for phrase in phrases or [text]))


def _named(request: Request, name: str | None) -> str | None:
    named = request.path_params.get("model") or request.query_params.get("model")
    if not named and name:
        with contextlib.suppress(UnknownModel):
            named = state_of(request).models.name_of(name)
    return named or None


@dataclass(frozen=True, slots=True)
class ToolImage:
    """The image that a tool's request is about.

    Attributes:
        request: the request, whose log line is told the outcome.
        caller: who sent it.
        known: the image, where it is known without being opened.
        open: opens it; called where it is not known, or not in the cache (any more).
    """

    request: Request
    caller: Caller
    known: OpenImage | None
    open: Callable[[], Coroutine[Any, Any, OpenImage]]

    async def segment(self, prompts_on: Callable[[OpenImage], Sequence[PromptAsk]]) -> list[MaskAnswer]:
        """The masks for a click, in the prompts' order.

        Args:
            prompts_on: what is asked for on the image, whose size it may need; nothing is computed for no prompts.

        Raises:
            BadPrompt, TooLarge, BackendFailed: as in the service's ``masks``; and what ``use`` raises.
        """
        request, caller = self.request, self.caller
        record = request_log_of(request)

        async def masks_on(image: OpenImage) -> list[MaskAnswer]:
            prompts = prompts_on(image)
            check_counts(prompts, state_of(request).settings)
            record.fields |= {"image": image.image_id[:12], "prompts": len(prompts)}
            if not prompts:
                return []
            found = await predictor_of(request).masks(caller.tenant, image.image_id, prompts, client=caller.client)
            for answer in found:
                record.note(answer.outcome, answer.timing)
            return found

        return await self.use(masks_on)

    async def find(self, finder: Concepts, wanted: Sequence[Concept]) -> list[ConceptAnswer]:
        """What is found of each concept, in their order.

        Raises:
            BadPrompt, BackendFailed: as in the service's ``Concepts.find``; and what ``use`` raises.
        """
        record, caller = request_log_of(self.request), self.caller

        async def find_on(image: OpenImage) -> list[ConceptAnswer]:
            record.fields |= {"image": image.image_id[:12], "concepts": len(wanted)}
            found = finder.find(caller.tenant, image.image_id, wanted, client=caller.client)
            answers = [answer for _, answer in sorted([each async for each in found], key=lambda each: each[0])]
            for answer in answers:
                record.note(answer.outcome, answer.timing)
            return answers

        return await self.use(find_on)

    async def use(self, work: Callable[[OpenImage], Awaitable[T]], *, has_deadline: bool = True) -> T:
        """What ``work`` makes of the image, while the client is connected.

        Raises:
            BadBody, TooLarge, BadImage, BackendFailed, NoRoom: what ``open`` and ``work`` raise.
            Overloaded: as there; or, where there is a deadline, it was not ready before ``adapter_deadline_s``.
            ClientDisconnect: the client left.
        """
        doing = self._used_for(work)
        return await while_connected(self.request, in_time(self.request, doing) if has_deadline else doing)

    async def _used_for(self, work: Callable[[OpenImage], Awaitable[T]]) -> T:
        if self.known is not None:
            try:
                return await work(self.known)
            except UnknownImage:
                pass  # it was evicted or purged; here it comes again
        return await work(await self.open())


async def _open_text(request: Request, caller: Caller, text: str, digest: bytes) -> OpenImage:
    """The image of a base64 text, encoded unless it was before; the text is known from then on.

    Raises:
        BadBody: the text is no base64.
        TooLarge, BadImage, Overloaded, BackendFailed, NoRoom: as in the service's ``open_image``.
    """
    app_state = state_of(request)
    most_bytes = int(app_state.settings.max_image_bytes)
    file, image_id = await pools_of(request).requests.run(image_of_base64, text, most_bytes, "The image")
    answer = await predictor_of(request).open_image(caller.tenant, file, image_id, client=caller.client)
    request_log_of(request).note(answer.outcome, answer.timing)
    image = OpenImage(image_id, answer.width, answer.height)
    app_state.known_texts.add(caller.tenant, digest, image)
    return image


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
