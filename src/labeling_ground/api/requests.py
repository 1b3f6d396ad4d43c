"""Reading requests: bodies, clients that leave, and which model is asked."""

import asyncio
import base64
import codecs
import contextlib
import errno
import hashlib
import hmac
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from pydantic import SecretStr, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from labeling_ground import key as keys
from labeling_ground.api.errors import BadBody, EncodedBody, UnreadMediaType, explain
from labeling_ground.api.state import REQUEST_LOG_KEY, AppState, RequestLog
from labeling_ground.codec import base64_text
from labeling_ground.errors import Forbidden, NotAllowed, Overloaded, TooLarge
from labeling_ground.pools import Pools
from labeling_ground.service.model_pool import LoadedModel, ModelPool
from labeling_ground.service.predictor import Predictor
from labeling_ground.settings import Settings

T = TypeVar("T")

_LARGE = 64 * 1024
"""From this size on, JSON is read in a thread: an image in base64 would hold the event loop for milliseconds."""


def request_log_of(request: Request) -> RequestLog:
    """The record of a request; ``edge`` put it there."""
    record: RequestLog = request.scope[REQUEST_LOG_KEY]
    return record


def state_of(request: Request) -> AppState:
    """The parts of the server that this request came to."""
    app_state: AppState = request.app.state.app_state
    return app_state


def pools_of(request: Request) -> Pools:
    """The threads of that server."""
    return state_of(request).predictor.pools


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request.

    Attributes:
        tenant: whose namespace of the cache the request works in.
        client: who works, as far as known: the ``X-Client-Id`` header, else the API key's own name; else ``None``.
        is_admin: whether the admin key was given.
    """

    tenant: str
    client: str | None
    is_admin: bool


def caller_of(request: Request, *more_keys: str | None) -> Caller:
    """The caller of a request, by its keys and headers.

    Routes call this by hand: a framework's dependency would cost as much as a cache hit.

    Args:
        request: its headers may carry keys.
        *more_keys: keys that came in another way.

    Raises:
        NotAllowed: the operator has set keys, and none of them was given.
    """
    app_state: AppState = request.app.state.app_state
    settings = app_state.settings
    headers = dict(request.scope["headers"])
    client = None if b"x-client-id" not in headers else headers[b"x-client-id"].decode("latin-1")[:200]
    if not settings.api_keys and settings.admin_key is None:
        return Caller(keys.PUBLIC, client, is_admin=False)
    given = [each for each in more_keys if each]
    if not _KEY_HEADERS.isdisjoint(headers):
        given += _keys_in_headers(headers)
    # Every key is compared, whichever matches: the time taken tells nothing about them.
    admin = [each for each in given if settings.admin_key is not None and _same(each, settings.admin_key)]
    if not settings.api_keys:
        return Caller(keys.PUBLIC, client, bool(admin))
    matches = [each for each in given for secret in settings.api_keys if _same(each, secret)] + admin
    if not matches:
        raise NotAllowed(
            "This server wants an API key. Send it as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'."
        )
    tenant = keys.tenant_of(matches[0])
    return Caller(tenant, client or tenant, bool(admin))


def tenant_by(settings: Settings) -> Callable[[Scope], str] | None:
    """What tells the holder of which API key asks, before a route does: empty for one without a good one. ``None``
    where there are no keys."""
    if not settings.api_keys:
        return None
    secrets = (*settings.api_keys, *([settings.admin_key] if settings.admin_key else []))
    tenants = frozenset(keys.tenant_of(secret.get_secret_value()) for secret in secrets)

    def tenant_of(scope: Scope) -> str:
        # Digests are compared: the time taken tells nothing about the keys.
        given = map(keys.tenant_of, _keys_in_headers(dict(scope["headers"])))
        return next((tenant for tenant in given if tenant in tenants), "")

    return tenant_of


def check_admin(request: Request) -> None:
    """See that the operator asks.

    Raises:
        NotAllowed: no key was given, or a wrong one.
        Forbidden: one was given that may not do this; or the server has no admin key.
    """
    settings = state_of(request).settings
    if caller_of(request).is_admin:
        return
    if settings.admin_key is None:
        raise Forbidden(
            "This takes the admin key, and this server has none. Start it with LABELING_GROUND_ADMIN_KEY to change "
            "settings while it runs."
        )
    sentence = "This takes the admin key. Send it as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'."
    raise Forbidden(sentence) if settings.api_keys else NotAllowed(sentence)


_KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"token"})


def _keys_in_headers(headers: Mapping[bytes, bytes]) -> list[str]:
    """The keys in a request's headers: ``Authorization: Bearer``, ``X-API-Key``, and what other tools send.

    Those are ``Authorization: Basic`` with the key as the password, and ``Token``.
    """
    scheme, *rest = headers.get(b"authorization", b"").split(maxsplit=1) or [b""]
    scheme, credentials = scheme.lower(), b"".join(rest)
    bearer = credentials if scheme == b"bearer" else b""
    # Blanks around a header's value are none of it; other bytes may be part of a character. Clients whose key is not
    # ASCII send UTF-8.
    given = [text.strip(b" \t") for text in (bearer, headers.get(b"x-api-key", b""), headers.get(b"token", b""))]
    if scheme == b"basic":
        with contextlib.suppress(ValueError):
            given.append(base64.b64decode(credentials).partition(b":")[2])
    return [each.decode("utf-8", "replace") for each in given if each]


def _same(given: str, secret: SecretStr) -> bool:
    return hmac.compare_digest(given.encode(), secret.get_secret_value().encode())


async def check_query(request: Request) -> None:
    """Refuse a query parameter that a route which does something does not know: misspelt, it would do something else.

    A purge of one image would be a purge of everything, and a mask one by another model.

    Args:
        request: its route has its parameters in its signature, or, where they are read by hand, in ``openapi_extra``.

    Raises:
        BadBody: there is one.
    """
    if not request.scope.get("query_string") or request.method in ("GET", "HEAD"):
        return
    route = request.scope["route"]
    by_hand = (route.openapi_extra or {}).get("parameters", ())
    known = [field.alias for field in route.dependant.query_params]
    known += [parameter["name"] for parameter in by_hand if parameter["in"] == "query"]
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        takes = f"it takes {', '.join(known)}" if known else "what is asked for stands in the body"
        raise BadBody(f"{request.method} {request.url.path} has no query parameter {unknown[:100]!r}: {takes}.")


async def read_json(request: Request, parse: Callable[[bytes], T], *, if_empty: Callable[[], T] | None = None) -> T:
    """What ``parse`` makes of the JSON in the body; called in a thread where the body is large.

    Args:
        request: its body was not read yet.
        parse: as ``model_validate_json`` of the model.
        if_empty: makes the value where there is no body.

    Raises:
        BadBody: it is not JSON, or ``parse`` raised a ``ValidationError``, or there is nothing to be parsed.
        EncodedBody: it is compressed.
        UnreadMediaType: its content type says that it is no JSON.
    """
    kind = media_type(request)
    if kind not in ("", "application/json") and not kind.endswith("+json") and not _is_from_curl(request, kind):
        raise _unread(kind, "JSON as application/json")
    pieces = []
    is_whole = False
    while not is_whole:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        is_whole = not message.get("more_body", False)
    body = b"".join(pieces).removeprefix(codecs.BOM_UTF8)
    if not body:
        if if_empty is not None:
            return if_empty()
        raise BadBody("The request has no body; it wants a JSON object.", malformed=True)
    if b"\0" in body[:4]:
        raise BadBody("The body is text in UTF-16 or UTF-32. Send the JSON in UTF-8.", malformed=True)
    try:
        if len(body) > _LARGE:
            return await pools_of(request).requests.run(parse, body)
        return parse(body)
    except ValidationError as error:
        raise explain(error) from None


async def read_image(request: Request, max_bytes: int) -> tuple[bytes, str]:
    """The image file of an upload and its SHA-256: the raw body, or the first file of a multipart form.

    The digest grows with the pieces as they come, so a large file costs the event loop no long moment.

    Raises:
        TooLarge: over the limit.
        BadBody: there is no file in it.
        EncodedBody: it is compressed.
        UnreadMediaType: its content type says that it is neither an image nor such a form.
    """
    kind = media_type(request)
    if kind == "multipart/form-data":
        return await _read_form(request, max_bytes)
    if (
        kind not in ("", "application/octet-stream")
        and not kind.startswith("image/")
        and not _is_from_curl(request, kind)
    ):
        raise _unread(kind, "the image file as application/octet-stream, as image/… or in a form (multipart/form-data)")
    digest = hashlib.sha256()
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes)
        digest.update(piece)
        pieces.append(piece)
    if not size:
        raise BadBody(
            "The request has no body. Send the image file as the raw body, or as a file of a multipart form.",
            malformed=True,
        )
    return b"".join(pieces), digest.hexdigest()


def image_of_base64(text: str, max_bytes: int, name: str) -> tuple[bytes, str]:
    """The image file that a base64 text is, and the file's SHA-256. Blocking.

    Args:
        text: as ``base64_text.decode`` takes it.
        max_bytes: largest file.
        name: what the errors' sentences call the text.

    Raises:
        BadBody: it is no base64, or empty.
        TooLarge: over the limit.
    """
    try:
        file = base64_text.decode(text)
    except ValueError as error:
        raise BadBody(f"{name} {error}.") from None
    if not file:
        raise BadBody(f"{name} holds no image file.")
    if len(file) > max_bytes:
        raise _too_large(max_bytes)
    return file, keys.image_id(file)


async def _read_form(request: Request, max_bytes: int) -> tuple[bytes, str]:
    try:
        async with request.form(max_files=1, max_fields=16) as form:
            for value in form.values():
                if isinstance(value, UploadFile):
                    data = await value.read()
                    if len(data) > max_bytes:
                        raise _too_large(max_bytes)
                    if not data:
                        break
                    return data, await pools_of(request).requests.run(keys.image_id, data)
    except OSError as error:  # forms above 1 MiB go through a temporary file
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOENT):  # the last: no usable folder
            raise
        raise Overloaded("There is no room for a form of this size. Send the image as the raw body.") from error
    except HTTPException as error:  # of the form's parser, in words of its own
        raise BadBody(
            f"The form cannot be read: {error.detail.rstrip('.')}. Send one file in a form (multipart/form-data), as "
            "HTTP libraries write it, or the image file as the raw body.",
            malformed=True,
        ) from error
    raise BadBody(
        "The form has no file in it. Add the image as a file field, for instance 'file'.",
        malformed=True,
    )


def media_type(request: Request) -> str:
    """The body's content type without parameters, in lower case; empty if the request names none.

    Raises:
        EncodedBody: the body is compressed.
    """
    kind = ""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            kind = value.decode("latin-1").partition(";")[0].strip().lower()
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise EncodedBody("Compressed bodies are not read. Send the body as it is, without Content-Encoding.")
    return kind


def _is_from_curl(request: Request, kind: str) -> bool:
    """Whether the content type is only what curl and other programs write where they were told none.

    Browsers, which always send one of these two headers with a body, let any web site's page send a form of this type.
    """
    is_browser = "origin" in request.headers or "sec-fetch-site" in request.headers
    return kind == "application/x-www-form-urlencoded" and not is_browser


def _unread(kind: str, wanted: str) -> UnreadMediaType:
    return UnreadMediaType(f"A body of the type {kind[:100]} is not read here. Send {wanted}.")


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The image file is larger than {max_bytes} bytes, which is this server's limit.")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work while the client is there to hear the answer; call it off when the client leaves.

    Raises:
        ClientDisconnect: the client left.
    """
    task = asyncio.ensure_future(work)
    # A cache hit is done by now, and needs no watching.
    await asyncio.sleep(0)
    if task.done():
        return task.result()
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for pending in (task, leaving):
            if not pending.done():
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await pending


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def model_for(request: Request, model: str | None) -> LoadedModel:
    """The model that a request names, or the default one; loaded where it is not, and pinned until the request ends.

    To be called when the request's body, if it has one, has been read.

    Raises:
        UnknownModel: it is not served here.
        Overloaded, BackendFailed: see ``ModelPool.load``.
        ClientDisconnect: the client did not wait for it.
    """
    models: ModelPool = request.app.state.app_state.models
    served = models.at_hand(model)
    if served is None:
        served = await while_connected(request, models.acquire(model))
    record: RequestLog = request.scope[REQUEST_LOG_KEY]
    record.served, record.at_end = served, partial(models.leave, served)
    return served


def model_named(request: Request, in_body: str | None) -> str | None:
    """The model that a request names in its body, or else as ``?model=``; ``None`` if it names none."""
    if in_body or not request.scope["query_string"]:  # mostly there is none, and reading it takes its time
        return in_body or None
    return request.query_params.get("model") or None


def predictor_of(request: Request) -> Predictor:
    """What answers this request: the model that ``model_for`` was told, else the default one."""
    served = request_log_of(request).served
    return (served or state_of(request).models.default).predictor
