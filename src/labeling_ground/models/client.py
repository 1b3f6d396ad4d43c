"""The HTTP client: the standard library's, held to http and https."""

import email.utils
import http.client
import re
import ssl
import time
import urllib.request
from typing import IO, Any
from urllib.parse import urlsplit

from labeling_ground.errors import PullFailed, shown_url

MAX_REDIRECTS = 5
"""Hops from the address in the catalogue to the file; the usual hosts need one or two."""
LONGEST_PAUSE_S = 30.0
"""Longest pause, in seconds, between two attempts, if the server asks for none."""


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, and none that gives up encryption."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request that follows a redirect; called by the standard library.

        Raises:
            PullFailed: it leads out of the web, or from https to http.
        """
        was, becomes = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if becomes not in ("http", "https") or (was == "https" and becomes != "https"):
            fp.close()
            raise PullFailed(
                f"{shown_url(req.full_url)} redirects to {shown_url(newurl)}, which is not encrypted, or no web "
                "address. It is not followed."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opener() -> urllib.request.OpenerDirector:
    """A client for http and https only: the usual one also reads ``file:`` and ``ftp:`` addresses."""
    client = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        client.add_handler(handler)
    return client


def validator(headers: http.client.HTTPMessage) -> str | None:
    """What ``If-Range`` may carry: a strong ETag, else the date."""
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    date = headers.get("Last-Modified")
    return str(date) if date else None


def count(text: str | None) -> int | None:
    """The number in a header; ``None`` where there is none."""
    return int(text) if text and re.fullmatch(r"\d{1,15}", text.strip()) else None


def retry_after(text: str | None) -> float | None:
    """Seconds that a server asks for, within reason; ``None`` where it asks for none."""
    if not text:
        return None
    seconds = count(text)
    if seconds is None:
        try:
            seconds = round(email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except ValueError:
            return None
    return min(max(float(seconds), 0.001), 2 * LONGEST_PAUSE_S)


def host(url: str) -> str:
    """Host and port of an address, without a password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def proxy_for(url: str) -> str | None:
    """Host and port of the proxy that an address is asked through, or ``None``."""
    proxy = urllib.request.getproxies().get(urlsplit(url).scheme)
    if not proxy or urllib.request.proxy_bypass(urlsplit(url).hostname or ""):
        return None
    return host(proxy) or proxy
