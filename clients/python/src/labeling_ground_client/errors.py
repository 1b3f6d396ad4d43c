"""What goes wrong between a program and the server."""

import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx

_URN = "urn:labeling-ground:problem:"
_RETRY_AFTER_S = 1.0
"""Seconds to wait after a 503 that names none (a proxy's, say)."""


class ClientError(Exception):
    """The root of this package's errors. ``str(error)`` is a sentence."""


class UnreachableError(ClientError):
    """No answer came, or it was cut off on its way."""


class ProblemError(ClientError):
    """The server refused, or failed. ``str(error)`` is the server's own sentence: what was wrong and what to do.

    Attributes:
        status: the HTTP status.
        type: the problem's stable name, such as ``urn:labeling-ground:problem:too-large``; ``about:blank`` where the
            answer was no problem body (of a proxy in between, say).
        title: the problem in a few words.
        body: all fields of the problem body (RFC 9457).
        retry_after_s: seconds after which trying again makes sense; ``None`` where the server names none.
    """

    def __init__(self, body: Mapping[str, Any], *, retry_after_s: float | None = None) -> None:
        super().__init__(str(body.get("detail") or body.get("title")))
        self.status = int(body.get("status") or 0)
        self.type = str(body.get("type") or "about:blank")
        self.title = str(body.get("title") or "")
        self.body = dict(body)
        self.retry_after_s = retry_after_s

    def is_of_type(self, name: str) -> bool:
        """Whether the problem's type is the server's one of this name, such as ``unknown-image``."""
        return self.type == _URN + name


def problem_of(response: httpx.Response) -> ProblemError:
    """The error that an answer of status 400 and above stands for. The answer's body must have been read."""
    body: Any = None
    if "json" in response.headers.get("content-type", ""):
        try:
            body = json.loads(response.content)
        except ValueError:
            body = None
    if not isinstance(body, dict) or "detail" not in body:
        # Not the server's words: a proxy in between answered, or it is another server.
        sentence = f"{response.url} answered {response.status_code} {response.reason_phrase}, without saying why."
        body = {"title": response.reason_phrase, "detail": sentence}
    return ProblemError({**body, "status": response.status_code}, retry_after_s=_retry_after_s(response))


def _retry_after_s(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return _RETRY_AFTER_S if response.status_code == 503 else None
