"""One table: error → status and problem body (RFC 9457)."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from labeling_ground import errors
from labeling_ground.api.schemas.common import reference

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_MOST_FINDINGS = 100
"""Findings that one answer tells. No limit: the body is refused with one as with a thousand."""
_BRANCHES = frozenset({"list[float]", "list[list[float]]", "float", "MaskIn", "MaskRef", "str"})
_URN = "urn:labeling-ground:problem:"


class BadBody(errors.BadInput):
    """The request's body is not what the endpoint reads."""

    def __init__(self, message: str, details: Sequence[Mapping[str, Any]] = (), *, malformed: bool = False) -> None:
        super().__init__(message)
        self.details = details
        self.malformed = malformed


class EncodedBody(errors.BadInput):
    """The body is compressed, which would let a small one be a very large one."""


class UnreadMediaType(errors.BadInput):
    """The body's content type is not one that the endpoint reads."""


class UnknownHost(errors.BadInput):
    """The request was sent to a host name that is not the server's."""


class CrossSite(errors.BadInput):
    """Another web site's page sent the request."""


class TooSlow(errors.BadInput):
    """The client stopped sending in the middle of its body."""


# error → (status, type, title). The first class of an error's ancestry that stands here decides.
TABLE: dict[type[errors.LabelingGroundError], tuple[int, str, str]] = {
    BadBody: (422, "invalid-request", "The request is not valid"),
    EncodedBody: (415, "unsupported-encoding", "Compressed bodies are not read"),
    UnreadMediaType: (415, "unsupported-media-type", "The content type is not read here"),
    UnknownHost: (421, "unknown-host", "The server does not answer to this name"),
    CrossSite: (403, "cross-site", "Other web sites' pages may not do this"),
    TooSlow: (408, "request-timeout", "The request's body did not arrive in time"),
    errors.UnsupportedImage: (415, "unsupported-image", "This image format is not supported"),
    errors.DamagedImage: (400, "damaged-image", "The image is damaged"),
    errors.BadImage: (400, "bad-image", "The image cannot be used"),
    errors.BadPrompt: (422, "bad-prompt", "The prompt makes no sense"),
    errors.TooLarge: (413, "too-large", "Over a limit of this server"),
    errors.SourceRefused: (403, "source-refused", "Images are not fetched from there"),
    errors.BadInput: (400, "bad-input", "The request is not valid"),
    errors.UnknownImage: (404, "unknown-image", "The image is not known here"),
    errors.UnreachableImage: (503, "unreachable-image", "The cache does not answer for this image"),
    errors.UnknownSession: (404, "unknown-session", "The session is not known here"),
    errors.UnknownModel: (404, "unknown-model", "The model is not served here"),
    errors.UnreachablePrediction: (503, "unreachable-prediction", "The cache does not answer for this prediction"),
    errors.UnknownPrediction: (404, "unknown-prediction", "The prediction is not kept any more"),
    errors.NotFound: (404, "not-found", "Not found"),
    errors.NotAllowed: (401, "unauthorized", "An API key is needed"),
    errors.NotOffered: (501, "not-offered", "No model here can do that"),
    errors.Forbidden: (403, "forbidden", "This is not for everybody"),
    errors.NoRoom: (507, "no-room", "The cache is too small for this image"),
    errors.ModelTooLarge: (507, "model-too-large", "There is no memory for this model"),
    errors.Overloaded: (503, "overloaded", "Too much at once"),
    errors.BackendFailed: (503, "backend-failed", "The model did not answer"),
    errors.SourceFailed: (502, "source-failed", "The image could not be fetched"),
    errors.StoreFailed: (503, "store-failed", "The cache did not do it"),
    errors.DamagedEntry: (503, "store-failed", "The cache did not do it"),
    errors.LabelingGroundError: (500, "internal", "Something went wrong here"),
}


class Finding(BaseModel):
    """One thing that is wrong with a request's fields."""

    where: str = Field(examples=["points.0.label"])
    problem: str = Field(examples=["Input should be less than or equal to 1"])


class Problem(BaseModel):
    """A problem body. ``type`` is stable: program against it, not against the sentences."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=[_URN + "unknown-image"])
    title: str = Field(examples=["The image is not known here"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What was wrong, and what to do.")
    errors: list[Finding] | None = Field(None, description="Each thing that is wrong with the request's fields.")
    image_id: str | None = Field(None, description="The image that is not known.")


def problem(
    status: int,
    name: str,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """A problem body as a response."""
    body = {"type": _URN + name, "title": title, "status": status, "detail": detail, **more}
    return Response(
        json.dumps(body, ensure_ascii=False).encode(),
        status,
        dict(headers or {}),
        media_type=MEDIA_TYPE,
    )


def response_for(error: errors.LabelingGroundError) -> Response:
    """The answer to an error of ours."""
    status, name, title = next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    headers: dict[str, str] = {}
    more: dict[str, Any] = {}
    if isinstance(error, BadBody):
        if error.malformed:
            status, name, title = 400, "malformed-body", "The body cannot be read"
        if error.details:
            more["errors"] = list(error.details)
    if isinstance(error, TooSlow):
        headers["Connection"] = "close"
    if isinstance(error, EncodedBody):
        headers["Accept-Encoding"] = "identity"
    if isinstance(error, errors.Overloaded):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    elif status == 503:
        headers["Retry-After"] = "1"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.UnknownImage):
        more["image_id"] = error.image_id
    return problem(status, name, title, str(error), headers, **more)


def answer_to(error: errors.LabelingGroundError) -> Response:
    """The same, and a line in the log where the error is not the client's."""
    if not isinstance(error, errors.BadInput | errors.NotFound | errors.NotAllowed | errors.NotOffered):
        log.warning("%s: %s", type(error).__name__, error)
    return response_for(error)


def as_line(error: Exception) -> dict[str, Any]:
    """What ends a stream in which something went wrong: the problem body, as the answer's status is on its way."""
    response = response_for(error) if isinstance(error, errors.LabelingGroundError) else bug_response(error)
    body: dict[str, Any] = json.loads(bytes(response.body))
    if "Retry-After" in response.headers:
        body["retry_after"] = int(response.headers["Retry-After"])
    return body


def explain(error: ValidationError | RequestValidationError) -> BadBody:
    """Pydantic's findings as sentences."""
    if isinstance(error, RequestValidationError):
        found: Sequence[Mapping[str, Any]] = error.errors()
    elif error.error_count() > _MOST_FINDINGS:  # listing a hundred thousand would hold everybody up for seconds
        return BadBody(f"{error.error_count()} things are wrong with this body. /docs shows what it wants.")
    else:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    details = [{"where": _where(one["loc"]), "problem": _sentence(one)} for one in found]
    malformed = any(one["type"] == "json_invalid" for one in found)
    first = details[0]
    return BadBody(f"{first['where'] or 'The body'}: {first['problem']}.", details, malformed=malformed)


def _where(location: Sequence[int | str]) -> str:
    # Pydantic also names the branch of a union that it tried, such as "list[float]": no field of the caller's.
    parts = [str(part) for part in location if part not in _BRANCHES]
    return ".".join(part if len(part) <= 80 else part[:80] + "…" for part in parts)


_FORMS = {
    "image_id": "an image id is the SHA-256 of the image file's bytes, as 64 hex digits",
    "stretch": "give two percentiles from 0 to 100, the lower one first, as in stretch=0.5,99.5",
}
"""What a field has to look like, for a person in place of a pattern."""


def _sentence(found: Mapping[str, Any]) -> str:
    if found["type"] == "string_pattern_mismatch" and found["loc"][-1] in _FORMS:
        return _FORMS[found["loc"][-1]]
    sentence: str = found["msg"]
    return sentence.removeprefix("Value error, ")


def install(app: FastAPI) -> None:
    """Answer with a problem body what the framework finds wrong; our own errors are ``edge.Edge``'s to answer."""

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return response_for(explain(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        names = {404: "not-found", 405: "method-not-allowed", 400: "bad-request"}
        sentences = {
            404: "There is nothing at this path. /docs lists what there is.",
            405: "This path does not take that method. /docs lists what it takes.",
        }
        detail = sentences.get(error.status_code, str(error.detail))
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(app, request.scope))
        return problem(
            error.status_code,
            names.get(error.status_code, "http-error"),
            HTTPStatus(error.status_code).phrase,
            detail,
            headers,
        )

    async def bug(_: Request, error: Exception) -> Response:
        return bug_response(error)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)


def bug_response(error: Exception) -> Response:
    """The answer to an error that should not be: the sentence for the caller, the rest for the log."""
    log.error("a bug: %s", error, exc_info=error)
    return problem(
        500,
        "internal",
        "Something went wrong here",
        "This is our mistake, and it is in the server's log.",
    )


def _allowed(app: FastAPI, scope: Scope) -> list[str]:
    """Every method that a path takes; the router's own ``Allow`` names those of the first route only."""
    asked_as = {method: method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
    asked_as["HEAD"] = "GET"
    return [
        method
        for method, asked in asked_as.items()
        if any(route.matches({**scope, "method": asked})[0] is Match.FULL for route in app.router.routes)
    ]


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route, for its documentation."""
    titles = {
        400: "The body or the image cannot be read",
        401: "An API key is needed",
        403: "The key given is good, but not for this; or the address is none that images are fetched from",
        404: "Not known here; the sentence says what to send first",
        408: "The body did not arrive in time",
        413: "Over a limit of this server",
        415: "Not a content type or an image format that is read here",
        422: "The request is well-formed but makes no sense",
        501: "No model of this server can do that",
        502: "The image's own host did not give it",
        507: "The cache is too small to keep this image, or there is no memory for the model: the operator can help",
        503: "Too much at once, or the model does not answer; try again after `Retry-After` seconds",
    }
    return {
        status: {"description": titles[status], "content": {MEDIA_TYPE: {"schema": reference(Problem)}}}
        for status in statuses
    }
