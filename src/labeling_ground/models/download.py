"""One file over HTTP: resumed where it stopped, tried again when it is cut, and right to the last bit."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from labeling_ground import __version__
from labeling_ground.errors import PullFailed, shown_url
from labeling_ground.models.catalogue import Artifact
from labeling_ground.models.client import (
    LONGEST_PAUSE_S,
    MAX_REDIRECTS,
    count,
    host,
    opener,
    proxy_for,
    retry_after,
    validator,
)
from labeling_ground.models.disk import check_room, disk_trouble

_CHUNK = 1 << 20
_SLACK = 1 << 20
"""Bytes beyond the furthest point so far that count as progress; also how far off the size of a small file may be."""
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class Part:
    """A file that grows, its digest, and what the server called it.

    Unbuffered, so that whatever ends this process, what came is there. The digest grows along: the file is read only
    once, by a process that finds it.

    Args:
        path: the file; made if it is not there. Beside it, under ``.json``, is what the server called it.

    Raises:
        PullFailed: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_suffix(".json")
        self._digest = hashlib.sha256()
        self.size = 0
        self.pieced_together = False
        """More than one answer went into it, so a wrong digest does not prove that the server's file is wrong."""
        self.url, self.validator = self._noted()
        """Where it came from, and what ``If-Range`` may carry: a strong ETag, or a date."""
        try:
            self._file: IO[bytes] = open(  # noqa: PTH123, SIM115 -- closed by __exit__
                os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644), "r+b", buffering=0
            )
        except OSError as error:
            raise disk_trouble(path.parent, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """Digest of what is here, in hex."""
        return self._digest.hexdigest()

    def take_in(self, report: Callable[[], None]) -> None:
        """Read what an earlier attempt left.

        Raises:
            PullFailed: it cannot be read.
        """
        try:
            while chunk := self._file.read(_CHUNK):
                self._digest.update(chunk)
                self.size += len(chunk)
                self.pieced_together = True
                report()
        except OSError as error:
            raise self._trouble(error) from None

    def append(self, chunk: bytes) -> None:
        """Write the next bytes.

        Raises:
            PullFailed: the disk does not take them.
        """
        view = memoryview(chunk)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self.size)  # else the digest of a later attempt would start elsewhere
            raise self._trouble(error) from None
        self._digest.update(chunk)
        self.size += len(chunk)

    def start_anew(self) -> None:
        """Forget everything that came."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.size = 0
        self.pieced_together = False

    def discard(self) -> None:
        """Remove the file: its bytes are of no use to anybody."""
        self._file.close()
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)

    def note(self, url: str, validator: str | None) -> None:
        """Note what the server calls its file, for an ``If-Range`` of a later process."""
        self.url, self.validator = url, validator
        # Lost or unreadable, it costs only that check; the digest decides anyway.
        with contextlib.suppress(OSError):
            self._note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")

    def _noted(self) -> tuple[str | None, str | None]:
        try:
            raw = json.loads(self._note.read_bytes())
            return str(raw["url"]), raw["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            return None, None

    def _trouble(self, error: OSError) -> PullFailed:
        return disk_trouble(self.path.parent, error)


class PullState(StrEnum):
    """What a pull is doing."""

    WAITING = "waiting"
    """Another process pulls this model."""
    CHECKING = "checking"
    """Reading what an earlier attempt left."""
    DOWNLOADING = "downloading"
    RETRYING = "retrying"
    """It went wrong and will be tried again; ``note`` says why and when."""
    DONE = "done"


@dataclass(frozen=True, slots=True)
class PullStep:
    """How far a pull is.

    Attributes:
        state: what is being done.
        artifact: which file; ``None`` where it is about the whole model.
        done: bytes of the file that are here.
        total: bytes that the file has: the server's word, the catalogue's before that.
        note: a sentence for people, or nothing.
    """

    state: PullState
    artifact: Artifact | None = None
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How to ask.

    Attributes:
        timeout_s: longest silence of a server, in seconds; also the longest wait for a connection.
        attempts: failures in a row, without progress between them, after which it is given up.
        backoff_s: pause before the second attempt, in seconds; it doubles each time, up to 30 s.
        sleep: pauses for so many seconds.
    """

    timeout_s: float = 30.0
    attempts: int = 5
    backoff_s: float = 1.0
    sleep: Callable[[float], None] = time.sleep


class _TryAgainError(Exception):
    """Something that may be better in a moment."""

    def __init__(self, reason: str, *, offline: bool = False, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.offline = offline
        self.pause_s = pause_s


class _StartAnewError(Exception):
    """What is here cannot be continued with this server."""

    def __init__(self, *, ranges: bool) -> None:
        super().__init__()
        self.ranges = ranges


def download(
    artifact: Artifact, url: str, path: Path, retries: RetryPolicy, report: Callable[[PullStep], None]
) -> None:
    """Make ``path`` hold exactly the artifact's bytes. What it holds already is used if it is a beginning of them.

    After any failure but wrong bytes, and after an interruption, what came stays in ``path``, and calling this again
    goes on from there. The caller sees to it that nobody else writes to ``path``.

    Raises:
        PullFailed: it could not be had; the sentence says why and what to do.
    """
    with Part(path) as part:
        part.take_in(lambda: report(PullStep(PullState.CHECKING, artifact, part.size, artifact.about_bytes)))
        transfer = _Transfer(artifact, url, part, retries, report)
        failures, furthest, begun_anew = 0, part.size, 0
        while part.sha256 != artifact.sha256:
            try:
                transfer.ask()
            except _StartAnewError as reason:
                begun_anew += 1
                transfer.ranges = reason.ranges and begun_anew == 1
                part.start_anew()
            except _TryAgainError as trouble:
                if part.sha256 == artifact.sha256:
                    return  # all of it came; the server only ended its answer badly
                if trouble.offline and not transfer.reached:
                    raise PullFailed(_unreachable(artifact, url, str(trouble))) from None
                failures = 1 if part.size >= furthest + _SLACK else failures + 1
                furthest = max(furthest, part.size)
                if failures >= retries.attempts:
                    raise PullFailed(_given_up(artifact, url, failures, str(trouble), part.size)) from None
                pause = trouble.pause_s or min(retries.backoff_s * 2 ** (failures - 1), LONGEST_PAUSE_S)
                note = f"{trouble}; trying again in {pause:.0f} s"
                report(PullStep(PullState.RETRYING, artifact, part.size, artifact.about_bytes, note))
                retries.sleep(pause)
            else:
                if part.sha256 == artifact.sha256:
                    return
                if not part.pieced_together or begun_anew:
                    found, size = part.sha256, part.size
                    part.discard()
                    raise PullFailed(_wrong(artifact, url, found, size))
                # The server's file may have changed between two pieces, or the earlier piece was damaged here.
                begun_anew += 1
                part.start_anew()


class _Transfer:
    """The asking: one request after another for one file."""

    def __init__(
        self, artifact: Artifact, url: str, part: Part, retries: RetryPolicy, report: Callable[[PullStep], None]
    ) -> None:
        self.artifact = artifact
        self.url = url
        self.part = part
        self.retries = retries
        self.report = report
        self.ranges = True
        """The server may be asked for the rest of its file."""
        self.reached = False
        """A server has answered, so a failure to connect later does not mean that there is no way out."""
        self._client = opener()

    def ask(self) -> None:
        """One request. Returns when the server has given its file to the end, whatever that is.

        Raises:
            _TryAgainError: it was cut, stalled, or the server is busy.
            _StartAnewError: the server cannot continue what is here.
            PullFailed: asking again is of no use.
        """
        headers = {"User-Agent": f"labeling-ground/{__version__}"}
        if self.part.size and not self.ranges:
            self.part.start_anew()
        if self.part.size:
            headers["Range"] = f"bytes={self.part.size}-"
            if self.part.validator and self.part.url == self.url:
                headers["If-Range"] = self.part.validator
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310 -- the client knows http and https only
        with self._open(request) as answer:
            self._read(answer, self._place(answer))

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        try:
            answer: http.client.HTTPResponse = self._client.open(request, timeout=self.retries.timeout_s)
        except urllib.error.HTTPError as error:
            self.reached = True
            with error:
                raise self._refusal(error) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise PullFailed(_untrusted(self.url, error.reason)) from None
            raise _TryAgainError(_why(error.reason), offline=True) from None
        except TimeoutError:
            self.reached = True
            raise _TryAgainError(f"the server said nothing for {self.retries.timeout_s:g} s") from None
        except (http.client.InvalidURL, UnicodeError) as error:
            raise PullFailed(f"{shown_url(self.url)} is no address that can be asked: {error}.") from None
        except (http.client.HTTPException, OSError) as error:
            self.reached = True
            raise _TryAgainError(f"the server broke off before it answered ({_why(error)})") from None
        self.reached = True
        return answer

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        said = f"{host(error.url)} answers {error.code} {error.reason}".strip()
        if error.code == 416 and self.part.size:
            # Its file ends where ours does, or before, and ours is not right: the only way is from the start.
            return _StartAnewError(ranges=True)
        if error.code in _TRY_AGAIN:
            return _TryAgainError(said, pause_s=retry_after(error.headers.get("Retry-After")))
        if 300 <= error.code < 400:
            return PullFailed(
                f"{shown_url(self.url)} redirects in circles, more than {MAX_REDIRECTS} times, or out of the web. "
                f"{_other_ways(self.artifact)}"
            )
        if error.code in (401, 403, 407):
            return PullFailed(f"{said} for {shown_url(self.url)}: it does not let us in. {_other_ways(self.artifact)}")
        return PullFailed(f"{said} for {shown_url(self.url)}. {_other_ways(self.artifact)}")

    def _place(self, answer: http.client.HTTPResponse) -> int | None:
        """See where the answer's bytes belong, have the part end there, and tell how long the whole file is."""
        headers = answer.headers
        if (headers.get("Content-Encoding") or "identity").lower() != "identity":
            raise PullFailed(f"{host(answer.url)} compresses what must come as it is. {_other_ways(self.artifact)}")
        if answer.status == 206:
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", (headers.get("Content-Range") or "").strip())
            if match is None or int(match[1]) != self.part.size or self.part.size == 0:
                raise _StartAnewError(ranges=False)  # another part of the file than was asked for
            total = count(match[3])
            self._check_total(total)
            self.part.pieced_together = True
            return total
        if answer.status != 200:
            raise PullFailed(
                f"{host(answer.url)} answers {answer.status} for {shown_url(self.url)}. {_other_ways(self.artifact)}"
            )
        if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise PullFailed(
                f"{host(answer.url)} answers with a web page where a file should be: this network may want a login "
                f"first. {_other_ways(self.artifact)}"
            )
        # The whole file: the server has no ranges, or If-Range told it that its file is not the one we began.
        total = count(headers.get("Content-Length"))
        self._check_total(total)
        self.part.start_anew()
        self.part.note(self.url, validator(headers))
        return total

    def _check_total(self, total: int | None) -> None:
        if total is None:
            return
        if not self.artifact.about_bytes // 4 - _SLACK <= total <= self._most:
            raise PullFailed(
                f"{shown_url(self.url)} is {total} bytes long, and {self.artifact.file} should have about "
                f"{self.artifact.about_bytes}: that is not the file. {_other_ways(self.artifact)}"
            )
        check_room(self.part.path.parent, total - self.part.size)

    @property
    def _most(self) -> int:
        """Bytes at which to stop: sizes in the catalogue are approximate, but a disk must not be filled by mistake."""
        return 2 * self.artifact.about_bytes + _SLACK

    def _read(self, answer: http.client.HTTPResponse, total: int | None) -> None:
        part, shown = self.part, total or self.artifact.about_bytes
        self.report(PullStep(PullState.DOWNLOADING, self.artifact, part.size, shown))
        while total is None or part.size < total:
            try:
                # read1 and not read: what has come is written down before more is waited for.
                chunk = answer.read1(_CHUNK if total is None else min(_CHUNK, total - part.size))
            except TimeoutError:
                raise _TryAgainError(f"the server stalled for {self.retries.timeout_s:g} s") from None
            except (http.client.HTTPException, OSError) as error:
                raise _TryAgainError(f"the connection was cut ({_why(error)})") from None
            if not chunk:
                break
            part.append(chunk)
            self.report(PullStep(PullState.DOWNLOADING, self.artifact, part.size, shown))
            if part.size > self._most:
                part.discard()
                raise PullFailed(
                    f"{shown_url(self.url)} does not end: {self.artifact.file} should have about "
                    f"{self.artifact.about_bytes} bytes. {_other_ways(self.artifact)}"
                )
        promised = total if total is not None else self.artifact.bytes
        if promised is not None and part.size < promised:
            raise _TryAgainError(f"the connection was cut at {part.size} of {promised} bytes")


# --- words -----------------------------------------------------------------------------------------------------------


def _why(error: object) -> str:
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, http.client.IncompleteRead):
        return "in the middle of a chunk"
    if isinstance(error, OSError):
        said = error.strerror or str(error) or type(error).__name__
        return said[:1].lower() + said[1:]
    return str(error) or type(error).__name__


def _other_ways(artifact: Artifact) -> str:
    return (
        "Name a mirror with --mirror, or bring the file: download it elsewhere and run "
        f"`labeling-ground models add {artifact.file}`."
    )


def _unreachable(artifact: Artifact, url: str, why: str) -> str:
    proxy = proxy_for(url)
    through = f" through the proxy {proxy}" if proxy else ""
    remedy = "" if proxy else " If this network needs a proxy, set HTTPS_PROXY; if it has a mirror, use --mirror."
    return (
        f"{host(url)} cannot be reached{through}: {why}.{remedy} If there is no way out, download {artifact.url} on "
        f"another machine, bring it here and run `labeling-ground models add {artifact.file}`."
    )


def _untrusted(url: str, reason: ssl.SSLCertVerificationError) -> str:
    return (
        f"The certificate of {host(url)} is not trusted: {reason.verify_message}. If this network has a certificate "
        "authority of its own, name its file in SSL_CERT_FILE."
    )


def _given_up(artifact: Artifact, url: str, failures: int, why: str, here: int) -> str:
    kept = f" The {here} bytes that came are kept: run the same command again to go on." if here else ""
    return f"{artifact.file} could not be had from {host(url)} in {failures} attempts: {why}.{kept}"


def _wrong(artifact: Artifact, url: str, found: str, size: int) -> str:
    return (
        f"{shown_url(url)} is not the file that the catalogue means: its {size} bytes have the SHA-256 {found}, not "
        f"{artifact.sha256}. They were deleted. {_other_ways(artifact)}"
    )
