"""What is right and wrong in a request line and its headers, and what is answered where they are wrong."""

from typing import Any

import httptools
from starlette.responses import Response

from labeling_ground.api.errors import problem

Headers = list[tuple[bytes, bytes]]


class RefusedError(Exception):
    """Raised in a callback of the parser, which then stops for good."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def check_head(url: bytes, headers: Headers, version: str, most_bytes: int) -> None:
    """See that a head is one that can be answered.

    Raises:
        RefusedError: it is not.
    """
    size = len(url) + 16
    hosts = 0
    codings: list[bytes] = []
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            codings += value.lower().replace(b" ", b"").replace(b"\t", b"").split(b",")
    if size > most_bytes:
        raise RefusedError(too_large(most_bytes))
    if version not in ("1.1", "1.0"):
        raise RefusedError(not_done(505, f"This server speaks HTTP/1.1 and HTTP/1.0, not HTTP/{version}."))
    if hosts != 1 and (hosts or version == "1.1"):
        raise RefusedError(bad_request(f"A request has one Host header; this one has {hosts or 'none'}."))
    if codings and version == "1.0":
        raise RefusedError(bad_request("HTTP/1.0 has no Transfer-Encoding. Send a Content-Length."))
    if codings and codings != [b"chunked"]:
        if set(codings) == {b"chunked"}:
            raise RefusedError(bad_request("Transfer-Encoding names chunked more than once."))
        raise RefusedError(not_done(501, "Of transfer codings only chunked is read. Send the body as it is."))


def resolved(target: bytes, headers: Headers) -> bytes:
    """A target in absolute form without its authority, which takes the place of what the ``Host`` header says.

    RFC 9112, section 3.2.2: else a request could name one host and be checked as if it were for another.
    """
    url = httptools.parse_url(target)
    authority = b"[%s]" % url.host if b":" in url.host else url.host
    if url.port is not None:
        authority += b":%d" % url.port
    headers[:] = [(b"host", authority), *(header for header in headers if header[0] != b"host")]
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")


def without_upgrade(parser: Any, url: bytes, headers: Headers) -> bytes:
    """A head as it is sent, less the wish for another protocol."""
    head = [parser.get_method(), b" ", url, b" HTTP/", parser.get_http_version().encode(), b"\r\n"]
    for name, value in headers:
        sent = value
        if name == b"connection":
            options = (option.strip() for option in value.split(b","))
            sent = b", ".join(one for one in options if one.lower() not in (b"upgrade", b"http2-settings"))
        if sent and name not in (b"upgrade", b"http2-settings"):
            head += [name, b": ", sent, b"\r\n"]
    return b"".join([*head, b"\r\n"])


def too_large(most_bytes: int) -> Response:
    """431: the request line and headers have more than so many bytes."""
    sentence = f"The request line and headers exceed {most_bytes} bytes. Send fewer or shorter ones."
    return problem(431, "headers-too-large", "The headers are too large", sentence)


def bad_request(sentence: str) -> Response:
    """400, with the sentence that says what is wrong."""
    return problem(400, "malformed-request", "The request is not HTTP", sentence)


def not_done(status: int, sentence: str) -> Response:
    """501 or 505, with the sentence that says what this server does instead."""
    return problem(status, "not-implemented", "This server does not do that", sentence)


def sentence_on(error: httptools.HttpParserError) -> str:
    """What the parser found, in a sentence."""
    return f"This cannot be read as an HTTP/1.1 request: {error}."
